"""SegNet.load_vgg16: both torchvision layouts, every way a file can be wrong, and that a wrong one changes nothing."""

import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
from cases import assert_equal

from segnet_ext import SegNet

# features.{i} of torchvision's vgg16 -> encoder layer, written out.
CONVS = {
    0: "stage1.conv1", 2: "stage1.conv2",
    5: "stage2.conv1", 7: "stage2.conv2",
    10: "stage3.conv1", 12: "stage3.conv2", 14: "stage3.conv3",
    17: "stage4.conv1", 19: "stage4.conv2", 21: "stage4.conv3",
    24: "stage5.conv1", 26: "stage5.conv2", 28: "stage5.conv3",
}  # fmt: skip
CONVS_BN = {
    0: "stage1.conv1", 3: "stage1.conv2",
    7: "stage2.conv1", 10: "stage2.conv2",
    14: "stage3.conv1", 17: "stage3.conv2", 20: "stage3.conv3",
    24: "stage4.conv1", 27: "stage4.conv2", 30: "stage4.conv3",
    34: "stage5.conv1", 37: "stage5.conv2", 40: "stage5.conv3",
}  # fmt: skip
BN_ENTRIES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def expected_keys(batch_norm: bool) -> dict[str, str]:
    """torchvision's key -> key of SegNet."""
    keys = {}
    for layer, name in (CONVS_BN if batch_norm else CONVS).items():
        keys.update({f"features.{layer}.{entry}": f"encoder.{name}.{entry}" for entry in ("weight", "bias")})
        if batch_norm:
            name = name.replace("conv", "bn")
            keys.update({f"features.{layer + 1}.{entry}": f"encoder.{name}.{entry}" for entry in BN_ENTRIES})
    return keys


@pytest.fixture(scope="module")
def model() -> SegNet:
    return SegNet(num_classes=2)


@pytest.fixture
def unchanged(model):
    """Asserts that the test left the model as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    yield
    for key, value in model.state_dict().items():
        assert_equal(value, before[key])


def make(model: SegNet, batch_norm: bool = False, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A checkpoint of random weights in torchvision's layout, classifier included."""
    state = model.state_dict()
    weights = {
        key: torch.rand(state[ours].shape).to(dtype) if state[ours].is_floating_point() else torch.tensor(7)
        for key, ours in expected_keys(batch_norm).items()
    }
    return weights | {"classifier.0.weight": torch.zeros(4, 4), "classifier.6.bias": torch.zeros(4)}


def assert_loaded(model: SegNet, weights: dict[str, torch.Tensor], batch_norm: bool) -> None:
    state = model.state_dict()
    for key, ours in expected_keys(batch_norm).items():
        if key in weights:
            assert_equal(state[ours], weights[key].to(state[ours].dtype))


@pytest.mark.parametrize("batch_norm", [False, True], ids=["vgg16", "vgg16_bn"])
@pytest.mark.parametrize("form", ["dict", "pth", "safetensors"])
def test_loads(model, tmp_path, batch_norm, form):
    weights = make(model, batch_norm)
    source = weights
    if form == "pth":
        source = tmp_path / "vgg16.pth"
        torch.save(weights, source)
    elif form == "safetensors":
        source = str(tmp_path / "vgg16.safetensors")
        pytest.importorskip("safetensors.torch").save_file(weights, source)
    others = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_vgg16(source)
    assert_loaded(model, weights, batch_norm)
    for key in others.keys() - expected_keys(batch_norm).values():
        assert_equal(model.state_dict()[key], others[key])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_takes_any_floating_dtype(model, dtype):
    weights = make(model, dtype=dtype)
    model.load_vgg16(weights)
    assert_loaded(model, weights, batch_norm=False)
    assert model.encoder.stage1.conv1.weight.dtype == torch.float32


def test_old_vgg16_bn_files_count_no_batches(model):
    weights = {key: value for key, value in make(model, True).items() if not key.endswith("num_batches_tracked")}
    model.load_vgg16(weights)
    assert_loaded(model, weights, batch_norm=True)


def test_loads_into_a_model_in_half_precision():
    half = SegNet(2).bfloat16()
    weights = make(half)
    half.load_vgg16(weights)
    assert_loaded(half, weights, batch_norm=False)


def test_the_model_still_trains_after_loading():
    model = SegNet(2)
    model.load_vgg16({key: 0.05 * value for key, value in make(model).items()})
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert model.encoder.stage1.conv1.weight.grad.isfinite().all()


def test_names_every_wrong_key(model, unchanged):
    weights = make(model)
    del weights["features.0.weight"], weights["features.28.bias"]
    weights["features.1.weight"] = torch.zeros(64)
    weights["layer1.0.conv1.weight"] = torch.zeros(1)
    weights["features.2.weight"] = torch.zeros(64, 64, 5, 5)
    weights["features.5.bias"] = torch.zeros(128, dtype=torch.int64)
    weights["features.7.bias"] = "text"
    with pytest.raises(ValueError) as raised:
        model.load_vgg16(weights)
    lines = {line.strip() for line in str(raised.value).splitlines()[1:]}
    assert lines == {
        "features.0.weight is missing",
        "features.28.bias is missing",
        "features.1.weight is not a layer of VGG16's features",
        "layer1.0.conv1.weight is not a layer of VGG16's features",
        "features.2.weight must be [64, 64, 3, 3], got [64, 64, 5, 5]",
        "features.5.bias must be floating point, got torch.int64",
        "features.7.bias must be a dense tensor, got str",
    }


@pytest.mark.parametrize(
    "key, value",
    [
        ("features.0.bias", torch.zeros(64, device="meta")),
        ("features.0.bias", torch.zeros(64).to_sparse()),
        ("features.0.bias", torch.zeros(64, dtype=torch.complex64)),
        ("features.0.bias", None),
        (3, torch.zeros(64)),
    ],
    ids=["meta", "sparse", "complex", "none", "integer key"],
)
def test_odd_values(model, unchanged, key, value):
    with pytest.raises(ValueError, match=str(key)):
        model.load_vgg16({**make(model), key: value})


def test_a_layout_mixed_of_both_is_refused(model, unchanged):
    with pytest.raises(ValueError, match=r"features\.3\.weight is missing"):
        model.load_vgg16({**make(model), "features.1.running_mean": torch.zeros(64)})


@pytest.mark.parametrize(
    "content", [{}, [1, 2], torch.zeros(3), {"state_dict": {}}], ids=["empty", "list", "tensor", "nested"]
)
def test_a_file_that_holds_something_else(model, unchanged, tmp_path, content):
    torch.save(content, tmp_path / "vgg16.pth")
    with pytest.raises(ValueError, match="load_vgg16: "):
        model.load_vgg16(tmp_path / "vgg16.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("damage", ["empty", "text", "first half", "header only"])
def test_a_damaged_file(model, unchanged, tmp_path, suffix, damage):
    path = tmp_path / f"vgg16.{suffix}"
    if suffix == "pth":
        torch.save(make(model), path)
    else:
        pytest.importorskip("safetensors.torch").save_file(make(model), path)
    whole = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"not a checkpoint", "first half": whole[: len(whole) // 2], "header only": whole[:64]}[
            damage
        ]
    )
    with pytest.raises(ValueError, match=f"load_vgg16: .*vgg16.{suffix} cannot be read"):
        model.load_vgg16(path)


class Malicious:
    """Runs a command when unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: Path(path).write_bytes(pickle.dumps(content))])
def test_a_file_cannot_run_code(model, unchanged, tmp_path, save):
    save({"features.0.weight": Malicious(f"touch {tmp_path}/ran")}, tmp_path / "vgg16.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        model.load_vgg16(tmp_path / "vgg16.pth")
    assert not (tmp_path / "ran").exists()


def test_a_missing_file(model, unchanged, tmp_path):
    for name in ("vgg16.pth", "vgg16.safetensors"):
        with pytest.raises(FileNotFoundError):
            model.load_vgg16(tmp_path / name)


def test_safetensors_missing(model, unchanged, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"load_vgg16: reading vgg16\.safetensors needs safetensors: pip install"):
        model.load_vgg16(tmp_path / "vgg16.safetensors")


def test_needs_three_input_channels():
    model = SegNet(2, in_channels=1)
    with pytest.raises(ValueError, match="in_channels must be 3 for VGG16 weights, the model has 1"):
        model.load_vgg16(make(model))


def test_real_weights():
    directory = os.environ.get("SEGNET_EXT_DATA")
    if not directory:
        pytest.skip("SEGNET_EXT_DATA names no directory with weights/vgg16_features.safetensors")
    path = Path(directory, "weights", "vgg16_features.safetensors")
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    weights = pytest.importorskip("safetensors.torch").load_file(path)
    model = SegNet(num_classes=11)
    model.load_vgg16(path)
    assert_loaded(model, weights, batch_norm=False)
    # Features of a trained network: an edge excites conv1_1, a flat image hardly does.
    flat, edge = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    edge[..., 16:] = 2
    conv = model.encoder.stage1.conv1
    inside = (..., slice(2, -2), slice(2, -2))
    assert conv(edge)[inside].var(dim=3).sum() > 100 * conv(flat)[inside].var(dim=3).sum()
