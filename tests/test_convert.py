"""segnet-ext convert: generated files of each layout against a plain-torch rebuild of it, and hostile files."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import segnet_ext
from segnet_ext.checkpoint import Checkpoint, read_checkpoint
from segnet_ext.cli import main
from segnet_ext.convert import Converted, SourceInput, class_set, convert_state_dict
from segnet_ext.data import CAMVID
from segnet_ext.data.images import normalize

pytest.importorskip("google.protobuf", reason="the protobuf package is not installed")

ENCODER = {1: (64, 64), 2: (128, 128), 3: (256, 256, 256), 4: (512, 512, 512), 5: (512, 512, 512)}
DECODER = {5: (512, 512, 512), 4: (512, 512, 256), 3: (256, 256, 128), 2: (128, 64), 1: (64,)}


def convert(source: Path, *options: str) -> Checkpoint:
    out = source.with_suffix(".pt")
    assert main(["convert", str(source), "--out", str(out), *options]) == 0
    return read_checkpoint(out)


def images(height: int, width: int, n: int = 1) -> torch.Tensor:
    """uint8 RGB [N, H, W, 3]."""
    return torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8)


def scores(checkpoint, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return checkpoint.build_model().double()(normalize(pixels).double())


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    # The source is float32; its input form and, in one layout, a BatchNorm are folded into float32 weights.
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


# --------------------------------------------------------------------------------------------------------------- Caffe

# The file is written byte by byte, by the numbers of caffe.proto, so that the reader's own schema is not trusted.


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def chunk(number: int, content: bytes) -> bytes:
    return varint(8 * number + 2) + varint(len(content)) + content


def blob(values: np.ndarray, form: str) -> bytes:
    packed = values.astype("<f8" if form == "double" else "<f4").tobytes()
    data = chunk(8 if form == "double" else 5, packed)
    if form == "v1":  # num, channels, height, width
        dims = (1,) * (4 - values.ndim) + values.shape
        return b"".join(varint(8 * (i + 1)) + varint(dim) for i, dim in enumerate(dims)) + data
    return chunk(7, chunk(1, b"".join(varint(dim) for dim in values.shape))) + data


def layer(name: str, kind: str, blobs=(), form: str = "v2", tops: int = 1, extra: bytes = b"") -> bytes:
    if form == "v1":
        content = chunk(2, b"data") + chunk(3, b"out") * tops + chunk(4, name.encode())
        content += varint(8 * 5) + varint({"Convolution": 4, "Dropout": 6}.get(kind, 99))
        return chunk(2, content + b"".join(chunk(6, blob(values, form)) for values in blobs) + extra)
    content = chunk(1, name.encode()) + chunk(2, kind.encode()) + chunk(3, b"data") + chunk(4, b"out") * tops
    return chunk(100, content + b"".join(chunk(7, blob(values, form)) for values in blobs) + extra)


INFERENCE = chunk(45, varint(8 * 3) + varint(1))  # bn_param { bn_mode: INFERENCE }


def basic_names(classifier: str) -> list[str]:
    return [f"conv{s}" for s in (1, 2, 3, 4)] + [f"conv_decode{s}" for s in (4, 3, 2, 1)] + [classifier]


def segnet_names() -> list[str]:
    names = [f"conv{s}_{i}" for s in ENCODER for i in range(1, len(ENCODER[s]) + 1)]
    return names + [f"conv{s}_{i}_D" for s in DECODER for i in range(len(ENCODER[s]), 0, -1)]


def weights_of(names: list[str], widths: list[int], kernels: list[int]) -> dict[str, list[np.ndarray]]:
    """Random blobs of every layer: those of a convolution, and those of the BN behind it."""
    rng = np.random.default_rng(0)
    blobs, channels = {}, 3
    for i, (name, width, k) in enumerate(zip(names, widths, kernels, strict=True)):
        gain = (2 / (channels * k * k)) ** 0.5 / (128 if i == 0 else 1)
        weight = gain * rng.standard_normal((width, channels, k, k), np.float32)
        blobs[name] = [weight, 0.1 * rng.standard_normal(width)]
        if name != names[-1]:
            shape = (1, width, 1, 1)
            blobs[f"{name}_bn"] = [0.5 + rng.random(shape), 0.2 * rng.standard_normal(shape)]
        channels = width
    return {name: [values.astype(np.float32) for values in pair] for name, pair in blobs.items()}


def basic(classifier: str, classes: int = 11):
    return weights_of(basic_names(classifier), [64] * 8 + [classes], [7] * 8 + [1])


@pytest.fixture(scope="module")
def segnet() -> dict[str, list[np.ndarray]]:
    widths = [w for stage in ENCODER.values() for w in stage] + [w for stage in DECODER.values() for w in stage] + [12]
    return weights_of(segnet_names(), widths, [3] * 26)


def net(blobs, form: str = "v2", tops: int = 1, mode: bytes = INFERENCE, dropout: bool = False) -> bytes:
    layers = [chunk(1, b"net"), layer("data", "DenseImageData", form=form)]
    for name, values in blobs.items():
        bn = name.endswith("_bn")
        kind = "BN" if bn else "Convolution"
        layers.append(layer(name, kind, values, form, tops if bn else 1, mode if bn and form != "v1" else b""))
    if dropout:
        layers.append(layer("encdrop3", "Dropout", form=form))
    return b"".join(layers)


def rebuilt(blobs, pixels: torch.Tensor, norm) -> torch.Tensor:
    """Caffe's network on BGR 0 to 255: ``norm(x, scale, shift)`` is its BN layer."""
    tensors = {name: [torch.from_numpy(v).double() for v in values] for name, values in blobs.items()}
    x = pixels.flip(-1).permute(0, 3, 1, 2).double()
    basic = "conv1" in blobs
    convs = [name for name in blobs if not name.endswith("_bn")]
    if basic:
        # Caffe's formula: x / (1 + alpha / size * sum of squares over the five channels around) ^ beta.
        x = x / (1 + 1e-4 / 5 * x.square().sum(1, keepdim=True)) ** 0.75
    pools = []

    def convolve(name):
        weight, bias = tensors[name]
        y = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        if name != convs[-1]:
            y = norm(y, *tensors[f"{name}_bn"])
            if not (basic and "decode" in name):
                y = F.relu(y)
        return y

    for name, following in zip(convs, [*convs[1:], ""], strict=True):
        decoder = "decode" in name or name.endswith("_D")
        stage = (name.removeprefix("conv_decode") if basic else name.removeprefix("conv"))[:1]
        if decoder and pools and pools[-1][0] == stage:
            _, indices, size = pools.pop()
            x = F.max_unpool2d(x, indices, 2, 2, output_size=size)
        x = convolve(name)
        last = basic or not following.startswith(f"conv{stage}_") or following.endswith("_D")
        if not decoder and name != convs[-1] and last:
            size = x.shape[-2:]
            x, indices = F.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)
            pools.append((name.removeprefix("conv")[:1], indices, size))
    assert not pools
    return x


def inference(x, scale, shift):
    return scale * x + shift


@pytest.mark.parametrize(
    "classifier, form, tops, mode, options",
    [
        ("conv_classifier", "v2", 1, INFERENCE, []),
        ("dense_softmax_inner_prod", "v2", 3, b"", []),
        ("conv_classifier", "double", 1, b"", ["--batch-norm", "inference"]),
        ("conv_classifier", "v1", 3, b"", []),
    ],
    ids=["bn_mode", "statistics-script", "double", "v1"],
)
def test_segnet_basic_from_caffe(tmp_path, classifier, form, tops, mode, options):
    blobs = basic(classifier)
    path = tmp_path / "basic.caffemodel"
    path.write_bytes(net(blobs, form, tops, mode))
    checkpoint = convert(path, *options)
    assert (checkpoint.model, checkpoint.classes, checkpoint.size) == ("segnet-basic", CAMVID, (360, 480))
    pixels = images(37, 45)
    assert_same(scores(checkpoint, pixels), rebuilt(blobs, pixels, inference))


def test_segnet_from_caffe(tmp_path, segnet, capsys):
    path = tmp_path / "driving.caffemodel"
    path.write_bytes(net(segnet))
    checkpoint = convert(path, "--class-names", ",".join("abcdefghijkl"), "--size", "64x96")
    assert checkpoint.model == "segnet" and checkpoint.classes.names == tuple("abcdefghijkl")
    assert len(set(checkpoint.classes.colors)) == 12 and checkpoint.size == (64, 96)
    assert "Input of the original: BGR, 0 to 255; ours" in capsys.readouterr().out
    pixels = images(37, 45)
    expected = rebuilt(segnet, pixels, inference)
    assert_same(scores(checkpoint, pixels), expected)
    with torch.no_grad():
        frozen = segnet_ext.freeze(checkpoint.build_model().double())
        assert_same(frozen(normalize(pixels).double()), expected)


def test_batch_norm_that_was_absorbed(tmp_path, failing):
    blobs = basic("conv_classifier")
    for name, values in blobs.items():
        if name.endswith("_bn"):
            values[0][:], values[1][:] = 0, 0
    pixels = images(20, 33)
    expected = rebuilt(blobs, pixels, lambda x, scale, shift: x)
    for number, kept in enumerate((blobs, {name: v for name, v in blobs.items() if not name.endswith("_bn")})):
        path = tmp_path / f"{number}.caffemodel"
        path.write_bytes(net(kept, mode=b""))
        assert_same(scores(convert(path), pixels), expected)
        assert_same(scores(convert(path, "--batch-norm", "inference"), pixels), expected)
        arguments = ("--batch-norm", "training", "--statistics", tmp_path)
        assert "has no scale and shift" in failing("convert", path, "--out", tmp_path / "a.pt", *arguments)


def test_training_form_takes_its_statistics_from_images(tmp_path, failing):
    blobs = basic("conv_classifier", classes=3)
    path = tmp_path / "snapshot.caffemodel"
    path.write_bytes(net(blobs, mode=b"", dropout=True))
    assert "does not tell whether the statistics" in failing("convert", path, "--out", tmp_path / "a.pt")
    arguments = ("convert", path, "--out", tmp_path / "a.pt", "--batch-norm", "training")
    assert "--statistics DIR go together" in failing(*arguments)
    assert "--statistics must be a folder" in failing(*arguments, "--statistics", tmp_path / "none")
    assert "has no image" in failing(*arguments, "--statistics", tmp_path)

    pixels = images(24, 32, n=3)
    folder = tmp_path / "images"
    folder.mkdir()
    for name, image in zip(("0.png", "1.TGA", "2.tif"), pixels, strict=True):  # all lossless
        Image.fromarray(image.numpy()).save(folder / name)
    checkpoint = convert(path, "--batch-norm", "training", "--statistics", str(folder), "--size", "24x32")
    assert checkpoint.model == "bayesian-segnet-basic"

    # The three images are one batch: BN by its mean and, as compute_bn_statistics.py does, its unbiased variance.
    statistics = []

    def learn(x, scale, shift):
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        statistics.append((mean, var * x[:, 0].numel() / (x[:, 0].numel() - 1)))
        return scale * (x - mean) / (var + 1e-9).sqrt() + shift

    rebuilt(blobs, pixels, learn)
    known = iter(statistics)

    def use(x, scale, shift):
        mean, var = next(known)
        return scale * (x - mean) / (var + 1e-9).sqrt() + shift

    other = images(24, 32)
    expected = rebuilt(blobs, other, use)
    # The statistics are computed in float32.
    torch.testing.assert_close(scores(checkpoint, other), expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


@pytest.fixture
def failing(capsys):
    """Runs a command that must end with an error and returns that one line."""

    def run(*arguments) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("segnet-ext convert: error: ") and err.count("\n") == 1, err
        return err.removeprefix("segnet-ext convert: error: ").rstrip("\n")

    return run


def test_broken_caffemodels(tmp_path, failing):
    path, out = tmp_path / "a.caffemodel", tmp_path / "a.pt"

    def error_of(content: bytes) -> str:
        path.write_bytes(content)
        message = failing("convert", path, "--out", out)
        assert message.startswith(str(path)) and not out.exists()
        return message

    good = net(basic("conv_classifier", classes=2))
    for share in (0.001, 0.3, 0.9, 0.9999):
        assert "is cut short" in error_of(good[: int(share * len(good))])
    assert "has no layers" in error_of(b"")
    assert "is not a .caffemodel: it has no layers" in error_of(chunk(1, b"name"))
    assert "starts no field" in error_of(b"\x07" + good)
    assert "ends no number" in error_of(b"\xff" * 20)
    assert "is cut short" in error_of(varint(802) + varint(2**60))  # claims an exabyte
    assert "damaged" in error_of(chunk(100, b"\x0a\xff\xff\xff\xff\x0f"))
    assert "not one of the authors' models" in error_of(layer("fc8", "InnerProduct", [np.zeros((2, 3))]))


def test_hostile_caffemodels_cost_little(tmp_path, failing):
    path = tmp_path / "a.caffemodel"

    def error_of(content: bytes) -> str:
        path.write_bytes(content)
        return failing("convert", path, "--out", tmp_path / "a.pt")

    assert "more than 10,000 fields" in error_of(chunk(100, b"") * 20_000)
    assert "1,000,000 blobs" in error_of(chunk(100, chunk(7, b"") * 1_000_000))
    assert "1,000,000 pieces" in error_of(chunk(100, chunk(7, chunk(5, b"") * 1_000_000)))
    assert "too many dimensions" in error_of(chunk(100, chunk(7, chunk(7, chunk(1, b"\x01" * 1_000_000)))))
    assert "ends inside a number" in error_of(chunk(100, chunk(7, chunk(5, b"123"))))
    with open(path, "wb") as file:  # a sparse file
        file.write(varint(802) + varint(1 << 32))
        file.truncate((1 << 32) + 16)
    assert "a layer has 4,294,967,296 bytes" in failing("convert", path, "--out", tmp_path / "a.pt")
    # A shape that claims more than the data has.
    claimed = chunk(7, chunk(1, varint(1 << 40))) + chunk(5, struct.pack("<f", 1.0))
    content = chunk(1, b"conv_classifier") + chunk(7, claimed) * 2
    assert "does not hold the authors' segnet-basic" in error_of(chunk(100, content))


def test_wrong_layers_are_named(tmp_path, failing):
    path = tmp_path / "a.caffemodel"

    def error_with(change) -> str:
        blobs = basic("conv_classifier", classes=2)
        change(blobs)
        path.write_bytes(net(blobs))
        return failing("convert", path, "--out", tmp_path / "a.pt")

    assert "conv3 must have 2 blobs, got none" in error_with(lambda blobs: blobs.pop("conv3"))
    assert "conv4_bn must have 2 blobs, got 1" in error_with(lambda blobs: blobs["conv4_bn"].pop())
    assert "fc is not a layer of it" in error_with(lambda blobs: blobs.update(fc=[np.zeros(3)]))
    message = error_with(lambda blobs: blobs.update(conv2=[np.zeros((64, 64, 3, 3)), np.zeros(64)]))
    assert "encoder.stage2.conv.weight must be [64, 64, 7, 7], got [64, 64, 3, 3]" in message


# ------------------------------------------------------------------------------------------------------------- PyTorch


def conv_bn_relu(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class Unit(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.cbr_unit = conv_bn_relu(inputs, outputs)

    def forward(self, x):
        return self.cbr_unit(x)


class CbrUnit(nn.Module):
    """Keys down1.conv1.cbr_unit.0.weight: the last convolution has BatchNorm and ReLU too."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        channels = 3
        for s, widths in ENCODER.items():
            self.add_module(f"down{s}", nn.Module())
            for i, width in enumerate(widths, 1):
                getattr(self, f"down{s}").add_module(f"conv{i}", Unit(channels, width))
                channels = width
        for s, widths in {**DECODER, 1: (64, classes)}.items():
            self.add_module(f"up{s}", nn.Module())
            for i, width in enumerate(widths, 1):
                getattr(self, f"up{s}").add_module(f"conv{i}", Unit(channels, width))
                channels = width

    def forward(self, x):
        pools = []
        for s in (1, 2, 3, 4, 5):
            for unit in getattr(self, f"down{s}").children():
                x = unit(x)
            size = x.shape
            x, indices = F.max_pool2d(x, 2, 2, return_indices=True)
            pools.append((indices, size))
        for s in (5, 4, 3, 2, 1):
            indices, size = pools.pop()
            x = F.max_unpool2d(x, indices, 2, 2, output_size=size)
            for unit in getattr(self, f"up{s}").children():
                x = unit(x)
        return x


class Sequentials(nn.Module):
    """Keys stage1_encoder.0.weight: one convolution more than SegNet, decoder stages numbered as they run."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        channels = 3
        for s, widths in ENCODER.items():
            stage = nn.Sequential()
            for width in widths:
                stage.extend(conv_bn_relu(channels, width))
                channels = width
            self.add_module(f"stage{s}_encoder", stage)
        for s, widths in {**DECODER, 1: (64, 64)}.items():
            stage = nn.Sequential()
            for width in widths:
                stage.extend(conv_bn_relu(channels, width))
                channels = width
            self.add_module(f"stage{6 - s}_decoder", stage)
        self.stage5_decoder.append(nn.Conv2d(64, classes, 3, padding=1))

    def forward(self, x):
        pools = []
        for s in (1, 2, 3, 4, 5):
            x = getattr(self, f"stage{s}_encoder")(x)
            size = x.shape
            x, indices = F.max_pool2d(x, 2, 2, return_indices=True)
            pools.append((indices, size))
        for s in (1, 2, 3, 4, 5):
            indices, size = pools.pop()
            x = getattr(self, f"stage{s}_decoder")(F.max_unpool2d(x, indices, 2, 2, output_size=size))
        return x


class ConvEn(nn.Module):
    """Keys ConvEn11.weight and BNEn11.weight: it has a last BatchNorm that it does not run, and ends with softmax."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        channels = 3
        self.down = [(s, i) for s in ENCODER for i in range(1, len(ENCODER[s]) + 1)]
        self.up = [(s, i) for s in DECODER for i in range(len(ENCODER[s]), 0, -1)]
        widths = [w for stage in ENCODER.values() for w in stage] + [w for stage in DECODER.values() for w in stage]
        names = [f"En{s}{i}" for s, i in self.down] + [f"De{s}{i}" for s, i in self.up]
        for name, width in zip(names, [*widths, classes], strict=True):
            self.add_module(f"Conv{name}", nn.Conv2d(channels, width, 3, padding=1))
            self.add_module(f"BN{name}", nn.BatchNorm2d(width))
            channels = width

    def forward(self, x):
        pools = []
        for s, i in self.down:
            x = F.relu(getattr(self, f"BNEn{s}{i}")(getattr(self, f"ConvEn{s}{i}")(x)))
            if i == len(ENCODER[s]):
                size = x.shape
                x, indices = F.max_pool2d(x, 2, 2, return_indices=True)
                pools.append((indices, size))
        for s, i in self.up:
            if i == len(ENCODER[s]):
                indices, size = pools.pop()
                x = F.max_unpool2d(x, indices, 2, 2, output_size=size)
            x = getattr(self, f"ConvDe{s}{i}")(x)
            if (s, i) != (1, 1):
                x = F.relu(getattr(self, f"BNDe{s}{i}")(x))
        return F.softmax(x, dim=1)


def filled(layout: type[nn.Module], classes: int) -> nn.Module:
    """The model in evaluation mode with weights and statistics that keep activations near 1."""
    with torch.device("meta"):  # its own first weights would take a second
        model = layout(classes)
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.2)
    return model.eval()


def checkpoint_of(converted: Converted) -> Checkpoint:
    return converted.checkpoint(class_set(None, converted.num_classes), (352, 480))


PIXELS = torch.randint(0, 256, (1, 32, 64, 3), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)


def test_cbr_unit_layout(tmp_path):
    model = filled(CbrUnit, classes=5)
    # As its own program saves it; it was trained on BGR minus a mean, over 255.
    torch.save(
        {"epoch": 3, "model_state": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "a.pkl"
    )
    mean = (104.00699, 116.66877, 122.67892)
    source = SourceInput("bgr", 255, mean, (255, 255, 255))
    checkpoint = checkpoint_of(convert_state_dict(tmp_path / "a.pkl", source))
    assert checkpoint.model == "segnet" and checkpoint.classes.names[4] == "class 4"
    with torch.no_grad():
        own = (PIXELS.flip(-1).double() - torch.tensor(mean).double()) / 255
        expected = model.double()(own.permute(0, 3, 1, 2))
    assert (expected > 0).any() and (expected == 0).any()
    assert_same(scores(checkpoint, PIXELS).relu(), expected)


def test_sequential_layout(tmp_path):
    model = filled(Sequentials, classes=11)
    torch.save({"state_dict": model.state_dict(), "arch": "SegNet"}, tmp_path / "a.pth")
    checkpoint = checkpoint_of(convert_state_dict(tmp_path / "a.pth"))
    assert checkpoint.model == "segnet-extra-conv" and checkpoint.classes == CAMVID and checkpoint.input is None
    with torch.no_grad():
        expected = model.double()(normalize(PIXELS).double())
        assert_same(scores(checkpoint, PIXELS), expected)
        assert_same(segnet_ext.freeze(checkpoint.build_model().double())(normalize(PIXELS).double()), expected)
        with torch.device("meta"):
            twin = segnet_ext.reference.SegNet(11, extra_conv=True)
        twin.load_state_dict(checkpoint.weights, assign=True)
        assert_same(twin.eval().double()(normalize(PIXELS).double()), expected)


def test_conv_en_layout(tmp_path):
    from safetensors.torch import save_file

    model = filled(ConvEn, classes=3)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    # Order and scale of the channels alone: all of it goes into the first convolution.
    source = SourceInput("bgr", 1, (0.406, 0.456, 0.485), (0.5, 0.5, 0.5))
    checkpoint = checkpoint_of(convert_state_dict(tmp_path / "a.safetensors", source))
    assert checkpoint.model == "segnet" and checkpoint.input is None
    with torch.no_grad():
        own = (PIXELS.flip(-1).double() / 255 - torch.tensor([0.406, 0.456, 0.485]).double()) / 0.5
        expected = model.double()(own.permute(0, 3, 1, 2))
    assert_same(scores(checkpoint, PIXELS).softmax(1), expected)


def test_options_of_the_input(tmp_path, monkeypatch):
    given = []
    weights = segnet_ext.SegNetBasic(5).state_dict()

    def convert_state_dict(path, source):
        given.append(source)
        return Converted("segnet-basic", 5, weights, source.form())

    monkeypatch.setattr(segnet_ext.convert, "convert_state_dict", convert_state_dict)
    (tmp_path / "a.pth").touch()
    checkpoint = convert(tmp_path / "a.pth", "--channels", "bgr", "--range", "255", "--mean", "1,2,3", "--std", "4,5,6")
    assert given == [SourceInput("bgr", 255, (1, 2, 3), (4, 5, 6))]
    assert checkpoint.size == (352, 480) and checkpoint.input.order == (2, 1, 0)
    own = checkpoint.build_model().input_form(normalize(PIXELS)).permute(0, 2, 3, 1)
    torch.testing.assert_close(own, (PIXELS.flip(-1) - torch.tensor([1.0, 2, 3])) / torch.tensor([4.0, 5, 6]))


def test_wrong_state_dicts(tmp_path, failing):
    path, out = tmp_path / "a.pth", tmp_path / "b.pt"

    def error_of(content) -> str:
        torch.save(content, path)
        return failing("convert", path, "--out", out)

    assert "none of the known layouts" in error_of({"features.0.weight": torch.zeros(1)})
    assert "must hold a state dict, got list" in error_of([1])
    assert "ConvDe11.weight must be [K, 64, 3, 3]" in error_of({"ConvEn11.weight": torch.zeros(1)})
    small = {"ConvEn11.weight": torch.zeros(64, 3, 5, 5), "ConvDe11.weight": torch.zeros(2, 64, 3, 3)}
    message = error_of(small)
    assert "ConvEn11.weight must be [64, 3, 3, 3], got [64, 3, 5, 5], ConvEn11.bias must be [64], got none" in message
    path.write_bytes(b"PK\x03\x04 cut")
    assert "is cut short" in failing("convert", path, "--out", out)
    assert "--batch-norm and --statistics are for" in failing("convert", path, "--out", out, "--batch-norm", "training")
    assert "does not exist" in failing("convert", tmp_path / "none.pth", "--out", out)
    assert "--out must end in .pt or .safetensors" in failing("convert", path, "--out", tmp_path / "b.bin")
    assert not out.exists()


def test_code_in_a_file_is_not_run(tmp_path, failing):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "a.pth"
    torch.save({"ConvEn11.weight": Trap()}, path)
    assert "objects that only its own program can read" in failing("convert", path, "--out", tmp_path / "b.pt")
    path.write_bytes(pickle.dumps(Trap()))
    assert "objects that only its own program can read" in failing("convert", path, "--out", tmp_path / "b.pt")
    assert not (tmp_path / "sprung").exists()


def test_missing_protobuf_is_named(tmp_path, failing, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "google.protobuf" else real(name, *rest)
    )
    path = tmp_path / "a.caffemodel"
    path.write_bytes(b"")
    message = failing("convert", path, "--out", tmp_path / "a.pt")
    assert message == "reading a.caffemodel needs protobuf: pip install 'segnet_ext[convert]'"
