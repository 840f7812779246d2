"""The command line: help, usage errors, predict, eval and the demo."""

import csv
import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from camvid_layout import write_camvid
from PIL import Image

import segnet_ext
from segnet_ext.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from segnet_ext.cli import main
from segnet_ext.data import CAMVID
from segnet_ext.data.images import normalize, overlay, read_image, resize_image, uncertainty_map
from segnet_ext.errors import InputError
from segnet_ext.inference import average_over_views, monte_carlo_dropout


@pytest.fixture(autouse=True)
def _one_thread(thread_count):
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    write_checkpoint(path, Checkpoint("segnet-basic", CAMVID, (16, 24), segnet_ext.SegNetBasic(11).state_dict()))
    return path


@pytest.fixture
def failing(capsys):
    """Runs a command that must end with an error and returns that one line."""

    def run(*arguments) -> str:
        arguments = [str(argument) for argument in arguments]
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        prefix = f"segnet-ext {arguments[0]}: error: "
        assert err.startswith(prefix) and err.count("\n") == 1, err
        return err[len(prefix) :].rstrip("\n")

    return run


# ---- help and usage


def test_version_and_help_in_a_process(tmp_path):
    version = subprocess.run(
        [sys.executable, "-m", "segnet_ext", "--version"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert version.stdout == f"segnet-ext {segnet_ext.__version__}\n"


@pytest.mark.parametrize("command", ["train", "predict", "eval", "convert", "export", "demo"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "default" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "required"),
        (["dance"], "invalid choice"),
        (["train", "--data", "d", "--out", "o", "--size", "360"], "argument --size: must be HxW"),
        (["train", "--data", "d", "--out", "o", "--size", "0x40"], "argument --size: must be HxW"),
        (["train", "--data", "d", "--out", "o", "--epochs", "0"], "argument --epochs: must be a whole number"),
        (["train", "--data", "d", "--out", "o", "--lr", "-1"], "argument --lr: must be a number above 0"),
        (["train", "--data", "d", "--out", "o", "--lr", "nan"], "argument --lr: must be a number above 0"),
        (["train", "--data", "d", "--out", "o", "--scale", "2:1"], "argument --scale: must be MIN:MAX"),
        (["train", "--data", "d", "--out", "o", "--scale", "1"], "argument --scale: must be MIN:MAX"),
        (["train", "--data", "d", "--out", "o", "--momentum", "1"], "argument --momentum: must be a number from 0"),
        (["predict", "--weights", "w", "--out", "o"], "INPUT"),
        (["predict", "a.png", "--weights", "w", "--out", "o", "--tta-scales", "1,x"], "must be numbers from 0.1 to 10"),
        (["demo", "--seconds", "x"], "argument --seconds: must be a number above 0, got 'x'"),
    ],
)
def test_usage_errors(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_packages_are_named(monkeypatch, failing):
    real = importlib.util.find_spec
    absent = {"PIL", "tqdm"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else real(name, *rest))
    message = failing("train", "--data", "d", "--out", "o", "--model", "segnet")
    assert message == "segnet-ext train needs pillow and tqdm: pip install 'segnet_ext[train]'"


# ---- predict


def test_predict_writes_labels_and_overlays(tmp_path, weights, capsys):
    sizes = {"photo.png": (37, 53), "grey.jpg": (16, 16), "tiny.png": (3, 5), "alpha.png": (30, 20)}
    rng = np.random.default_rng(0)
    for name, size in sizes.items():
        channels = {"grey.jpg": (), "alpha.png": (4,)}.get(name, (3,))
        Image.fromarray(rng.integers(0, 256, (*size, *channels), np.uint8)).save(tmp_path / name)
    out = tmp_path / "new" / "out"
    images = [str(tmp_path / name) for name in sizes]
    assert main(["predict", *images, "--weights", str(weights), "--out", str(out), "--device", "cpu"]) == 0
    for name, size in sizes.items():
        stem = Path(name).stem
        with Image.open(out / f"{stem}_label.png") as label, Image.open(out / f"{stem}_overlay.png") as blend:
            assert (label.mode, label.size) == ("L", size[::-1])
            classes = np.array(label)
            assert classes.max() <= 10
            assert np.array_equal(np.array(blend), overlay(read_image(tmp_path / name), classes, CAMVID.colors))
    assert len(list(out.iterdir())) == 2 * len(sizes)
    assert capsys.readouterr().out.count("\n") == len(sizes)


@pytest.mark.parametrize("size", [(20, 28), (32, 17)])
def test_predict_is_the_best_class_of_the_scaled_scores(tmp_path, weights, size):
    image = np.random.default_rng(1).integers(0, 256, (20, 28, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    arguments = ["--weights", str(weights), "--out", str(tmp_path), "--size", f"{size[0]}x{size[1]}"]
    arguments += ["--device", "cpu"]
    assert main(["predict", str(tmp_path / "a.png"), *arguments]) == 0
    with torch.inference_mode():
        seen = normalize(torch.from_numpy(resize_image(image, size))[None])
        logits = segnet_ext.freeze(read_checkpoint(weights).build_model())(seen)
        expected = F.interpolate(logits, (20, 28), mode="bilinear", align_corners=False).argmax(1)[0]
    assert np.array_equal(np.array(Image.open(tmp_path / "a_label.png")), expected.numpy())


def test_predict_refuses(tmp_path, weights, failing):
    good, out = tmp_path / "a.png", tmp_path / "out"
    Image.new("RGB", (20, 20)).save(good)
    (tmp_path / "b").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "b" / "a.jpg")
    Image.new("RGB", (20, 20)).save(tmp_path / "a_label.png")
    (tmp_path / "text.png").write_text("no image")
    rest = ["--weights", weights, "--out", out]

    message = failing("predict", good, tmp_path / "b" / "a.jpg", *rest)
    assert message.startswith(f"{good} and {tmp_path / 'b' / 'a.jpg'} would both be written as a_label.png")
    message = failing("predict", good, tmp_path / "a_label.png", "--weights", weights, "--out", tmp_path)
    assert "would overwrite the image" in message
    assert failing("predict", good, tmp_path / "none.png", *rest) == f"{tmp_path / 'none.png'} does not exist"
    assert "not an image file" in failing("predict", good, tmp_path / "text.png", *rest)
    (tmp_path / "empty").mkdir()
    message = failing("predict", tmp_path / "empty", *rest)
    assert message == f"the folder {tmp_path / 'empty'} has no image and no video"
    message = failing("predict", good, "--uncertainty", *rest)
    assert message.startswith("--uncertainty needs a model with dropout (Bayesian SegNet)")
    assert message.endswith("holds segnet-basic, which has none")
    message = failing("predict", good, "--tta", "--tta-scales", "1,0.75", *rest)
    assert message == "--tta-scales must leave at least 16x16 for segnet-basic, got 0.75 which makes 12x18 of 16x24"
    assert failing("predict", good, "--tta-scales", "2", *rest) == "--tta-scales needs --tta"
    assert failing("predict", good, "--samples", "3", *rest) == "--samples needs --uncertainty"
    assert failing("predict", good, "--seed", "0", "--tta", *rest) == "--seed needs --uncertainty"
    if not torch.cuda.is_available():
        message = failing("predict", good, "--device", "cuda", *rest)
        assert message == "--device cuda: torch finds no CUDA device here"
    message = failing("predict", good, "--size", "8x64", *rest)
    assert message == "--size must be at least 16x16 for segnet-basic, got 8x64"
    assert "does not exist" in failing("predict", good, "--weights", tmp_path / "no.pt", "--out", out)
    assert not out.exists(), "nothing is made before the input is known to be good"
    assert "cannot be made" in failing("predict", good, "--weights", weights, "--out", good / "out")


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_predict_takes_folders(tmp_path, weights, failing, capsys):
    street = tmp_path / "street"
    for name in ("a.png", "deep/a.JPG", "deep/b.c.png", ".hidden/a.png", ".a.png"):
        (street / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 18)).save(street / name)
    (street / "notes.txt").write_text("no image")
    single = tmp_path / "a.png"
    Image.new("RGB", (20, 18)).save(single)
    stems = ("a", "street/a", "street/deep/a", "street/deep/b.c")
    expected = {f"{stem}_{kind}.png" for stem in stems for kind in ("label", "overlay")}
    out = street / "results"  # whose pictures are no input of the second time
    for _ in range(2):
        assert main(["predict", str(street), str(single), "--weights", str(weights), "--out", str(out)]) == 0
        assert files_in(out) == expected
    assert capsys.readouterr().out.count("\n") == 2 * len(stems)

    Image.new("RGB", (20, 18)).save(street / "deep" / "a.png")
    message = failing("predict", street, "--weights", weights, "--out", tmp_path / "new")
    assert "would both be written as street/deep/a_label.png" in message
    assert not (tmp_path / "new").exists()


@pytest.fixture
def bayesian(weights, monkeypatch):
    """Lets the checkpoint be that of a model with dropout, and returns such a model."""

    def build(checkpoint: Checkpoint) -> torch.nn.Module:
        model = segnet_ext.SegNetBasic(len(checkpoint.classes), dropout=0.5)
        model.load_state_dict(checkpoint.weights)
        return model.eval()

    monkeypatch.setattr(Checkpoint, "build_model", build)
    return build(read_checkpoint(weights))


@pytest.mark.parametrize("tta", [False, True])
def test_predict_with_uncertainty(tmp_path, weights, bayesian, tta):
    image = np.random.default_rng(2).integers(0, 256, (25, 31, 3), np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(image).save(tmp_path / name)
    arguments = ["--weights", str(weights), "--out", str(tmp_path / "out"), "--uncertainty", "--samples", "3"]
    arguments += ["--seed", "7", "--device", "cpu", *(["--tta"] if tta else [])]
    assert main(["predict", str(tmp_path / "a.png"), str(tmp_path / "b.png"), *arguments]) == 0

    def maps(view):
        mean, variance = monte_carlo_dropout(bayesian, view, 3, seed=7)
        return torch.cat([mean, variance.mean(1, keepdim=True)], 1)

    seen = normalize(torch.from_numpy(resize_image(image, (16, 24)))[None])
    expected = average_over_views(maps, seen) if tta else maps(seen)
    expected = F.interpolate(expected, (25, 31), mode="bilinear", align_corners=False)[0]
    for name in ("a", "b"):  # the second image draws the masks of the first
        assert np.array_equal(Image.open(tmp_path / "out" / f"{name}_label.png"), expected[:-1].argmax(0).numpy())
        with Image.open(tmp_path / "out" / f"{name}_uncertainty.png") as picture:
            assert picture.mode == "L"
            assert np.array_equal(picture, uncertainty_map(expected[-1], 11))


def test_uncertainty_map_has_one_scale():
    # Two samples that contradict each other outright: a variance of 1/4 for each of two classes.
    variance = torch.tensor([[0.0, 2 * 0.25 / 11, 1 / 11]])
    assert uncertainty_map(variance, 11).tolist() == [[0, round(255 * 0.5**0.5), 255]]


def test_predict_with_views(tmp_path, weights):
    image = np.random.default_rng(3).integers(0, 256, (20, 28, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    arguments = ["--weights", str(weights), "--out", str(tmp_path), "--tta", "--tta-scales", "1,1.5"]
    arguments += ["--device", "cpu"]
    assert main(["predict", str(tmp_path / "a.png"), *arguments]) == 0
    model = segnet_ext.freeze(read_checkpoint(weights).build_model())
    seen = normalize(torch.from_numpy(resize_image(image, (16, 24)))[None])
    expected = average_over_views(lambda view: model(view).softmax(1), seen, (1, 1.5))
    expected = F.interpolate(expected, (20, 28), mode="bilinear", align_corners=False)[0].argmax(0)
    assert np.array_equal(Image.open(tmp_path / "a_label.png"), expected.numpy())


def test_predict_has_weights_of_its_own(tmp_path, capsys, failing):
    image = np.random.default_rng(6).integers(0, 256, (180, 240, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png"), "--out", str(tmp_path), "--device", "cpu"]) == 0
    assert capsys.readouterr().err.startswith("labelling with segnet-basic-camvid, trained on CamVid, for research\n")
    model = segnet_ext.freeze(segnet_ext.SegNetBasic.from_pretrained("camvid"))
    with torch.inference_mode():
        expected = model(normalize(torch.from_numpy(image)[None])).argmax(1)[0]
    assert np.array_equal(Image.open(tmp_path / "a_label.png"), expected.numpy())

    camvid = write_camvid(tmp_path / "camvid")
    assert main(["eval", "--data", str(camvid), "--weights", "segnet-basic-camvid", "--workers", "0"]) == 0
    assert capsys.readouterr().out.startswith("3 val images at 180x240\n")
    message = failing("eval", "--data", camvid, "--weights", "./segnet-basic-camvid")  # a path, not a name
    assert message == "the checkpoint segnet-basic-camvid does not exist"


@pytest.mark.gpu
@pytest.mark.parametrize("uncertainty", [False, True])
def test_predict_on_a_gpu(tmp_path, weights, bayesian, cuda_device, uncertainty, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # weights that learnt nothing hardly prefer a class
    image = np.random.default_rng(5).integers(0, 256, (40, 56, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    for device in ("cpu", "cuda"):
        arguments = ["--weights", str(weights), "--out", str(tmp_path / device), "--device", device]
        arguments += ["--uncertainty", "--samples", "2"] if uncertainty else []
        assert main(["predict", str(tmp_path / "a.png"), *arguments]) == 0
    assert files_in(tmp_path / "cuda") == files_in(tmp_path / "cpu")
    if not uncertainty:  # whose masks are drawn by another generator
        cpu, cuda = (np.array(Image.open(tmp_path / name / "a_label.png")) for name in ("cpu", "cuda"))
        assert (cpu == cuda).mean() > 0.999


# ---- predict on videos


@pytest.fixture
def clip(tmp_path) -> Path:
    """Five frames of 23x37 that change, lossless, with a pause after the third."""
    pytest.importorskip("av", reason="PyAV is not installed")
    from segnet_ext.data.video import VideoWriter

    path = tmp_path / "clip.mkv"
    random = np.random.default_rng(4)
    with VideoWriter(path, Fraction(10)) as video:
        for tenth in (0, 1, 2, 7, 8):
            video.write(random.integers(0, 256, (23, 37, 3), np.uint8), Fraction(tenth, 10))
    return path


def test_predict_labels_videos(tmp_path, weights, bayesian, clip):
    from segnet_ext.cli.predict import Predictor
    from segnet_ext.data.video import frame_count, read_video

    out = tmp_path / "out"
    arguments = ["predict", str(clip), "--weights", str(weights), "--out", str(out), "--uncertainty", "--samples", "2"]
    arguments += ["--device", "cpu"]
    assert main(arguments) == 0
    assert files_in(out) == {"clip_label.mkv", "clip_overlay.mp4", "clip_uncertainty.mkv"}
    assert frame_count(clip) >= 5
    inputs = list(read_video(clip))
    written = {path.stem.removeprefix("clip_"): list(read_video(path)) for path in out.iterdir()}
    predictor = Predictor(bayesian, (16, 24), samples=2)
    for frames in written.values():
        assert [round(float(frame.time), 2) for frame in frames] == [0, 0.1, 0.2, 0.7, 0.8]
    for index, frame in enumerate(inputs):
        for kind, pixels in predictor(frame.image).items():
            assert np.array_equal(written[kind][index].image[..., 0], pixels)
    assert written["overlay"][0].image.shape == (24, 38, 3), "H.264 takes even sizes; the edge is repeated"

    assert main([*arguments, "--frames"]) == 0
    names = {f"clip/{n:06}_{kind}.png" for n in range(1, 6) for kind in ("label", "overlay", "uncertainty")}
    assert files_in(out / "clip") == {name.removeprefix("clip/") for name in names}
    label = np.array(Image.open(out / "clip" / "000005_label.png"))
    assert np.array_equal(label, written["label"][4].image[..., 0])
    expected = overlay(inputs[4].image, label, CAMVID.colors)
    assert np.array_equal(Image.open(out / "clip" / "000005_overlay.png"), expected)


def test_predict_refuses_videos(tmp_path, weights, clip, failing, monkeypatch):
    rest = ["--weights", weights, "--out", tmp_path / "out"]
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:90])
    assert failing("predict", tmp_path / "no.mp4", *rest) == f"{tmp_path / 'no.mp4'} does not exist"
    assert f"{tmp_path / 'cut.mp4'} cannot be read as a video: " in failing("predict", tmp_path / "cut.mp4", *rest)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "clip.mp4").write_bytes(clip.read_bytes())
    message = failing("predict", clip, tmp_path / "other" / "clip.mp4", "--frames", *rest)
    assert "would both be written as clip: run them apart" in message
    (tmp_path / "clip").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "clip" / "a.png")
    message = failing("predict", clip, tmp_path / "clip", "--frames", *rest)
    assert "would both be written as clip: run them apart" in message
    picture = tmp_path / "clip" / "a.png"
    message = failing("predict", clip, picture, "--frames", "--weights", weights, "--out", tmp_path)
    assert f"would be written beside the input {picture}" in message
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "av" else real(name, *rest))
    message = failing("predict", clip, *rest)
    assert message == "segnet-ext predict on videos needs av: pip install 'segnet_ext[video]'"
    assert not (tmp_path / "out").exists()


def test_a_video_is_written_whole_or_not_at_all(tmp_path, clip):
    from segnet_ext.data.video import VideoWriter

    before = clip.read_bytes()
    with pytest.raises(KeyboardInterrupt), VideoWriter(clip, Fraction(10)) as video:
        video.write(np.zeros((20, 30), np.uint8), Fraction(0))
        raise KeyboardInterrupt
    assert clip.read_bytes() == before and files_in(tmp_path) == {"clip.mkv"}
    missing = tmp_path / "no" / "clip.mkv"
    with pytest.raises(InputError, match="cannot be written"), VideoWriter(missing, Fraction(10)):
        pass


def test_videos_are_turned_upright(tmp_path, clip):
    from segnet_ext.data.video import VideoWriter, read_video

    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :24] = 255
    with VideoWriter(tmp_path / "turned.mp4", Fraction(10)) as video:
        video.write(pixels, Fraction(0))
    content = bytearray((tmp_path / "turned.mp4").read_bytes())
    matrix = content.index(b"tkhd") + 44  # of the track header: a quarter turn clockwise
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content)
    (frame,) = read_video(tmp_path / "turned.mp4")
    assert np.array_equal(frame.image > 127, np.rot90(pixels, -1) > 127)


# ---- eval


def test_eval_prints_the_table(tmp_path, weights, capsys):
    camvid = write_camvid(tmp_path / "camvid")
    arguments = ["eval", "--data", str(camvid), "--weights", str(weights), "--workers", "0"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 val images at 16x24"
    assert lines[1].split() == ["class", "pixels", "accuracy", "IoU"]
    assert [line.split()[0] for line in lines[2:13]] == list(CAMVID.names)
    assert [line.rsplit(maxsplit=1)[0].strip() for line in lines[14:]] == [
        "global accuracy",
        "class average",
        "mean IoU",
    ]
    assert main([*arguments, "--split", "train", "--size", "32x40"]) == 0
    assert capsys.readouterr().out.startswith("5 train images at 32x40\n")


def test_eval_writes_and_prints_all_figures(tmp_path, weights, capsys):
    camvid = write_camvid(tmp_path / "camvid")
    arguments = ["eval", "--data", str(camvid), "--weights", str(weights), "--workers", "0", "--boundary"]
    files = ["--json", str(tmp_path / "scores.json"), "--csv", str(tmp_path / "scores.csv")]
    files += ["--sheet", str(tmp_path / "sheet.png")]
    assert main([*arguments, "--confusion", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    figures = json.loads((tmp_path / "scores.json").read_text())
    with open(tmp_path / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    assert (figures["images"], figures["split"], figures["size"]) == (3, "val", [16, 24])
    assert lines[-1].split() == ["boundary", "F1", f"{100 * figures['boundary_f1']:.2f}"]
    assert lines[-2].split() == ["mean", "IoU", f"{100 * figures['mean_iou']:.2f}"]
    assert [row["class"] for row in rows] == list(CAMVID.names)
    for row, entry, pixels in zip(rows, figures["classes"], figures["confusion"], strict=True):
        assert int(row["pixels"]) == entry["pixels"] == sum(pixels)
        for key in ("accuracy", "iou", "boundary_f1"):
            assert row[key] == ("" if entry[key] is None else str(entry[key]))
    assert sum(map(sum, figures["confusion"])) == 3 * 16 * 24 - 3, "all pixels but void"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 3 * 360 + 4 * 8
    assert lines[1].split()[3:] == [str(number) for number in range(1, 12)]
    road = figures["confusion"][3]
    assert lines[5].split()[2:] == [f"{100 * pixels / sum(road):.2f}" for pixels in road]


def test_eval_refuses(tmp_path, weights, failing):
    camvid = write_camvid(tmp_path / "camvid")
    assert "does not exist" in failing("eval", "--data", tmp_path / "no", "--weights", weights)
    assert "test.txt does not exist" in failing("eval", "--data", camvid, "--weights", weights, "--split", "test")
    Image.fromarray(np.full((24, 32), 200, np.uint8)).save(camvid / "valannot" / "0002.png")
    message = failing("eval", "--data", camvid, "--weights", weights, "--json", tmp_path / "no" / "scores.json")
    assert message.endswith(f"there is no folder {tmp_path / 'no'}")
    message = failing("eval", "--data", camvid, "--weights", weights)
    assert "0002.png has the label 200 at row 0, column 0" in message


# ---- demo


def test_demo(tmp_path, monkeypatch, capsys):
    from segnet_ext import demo

    monkeypatch.setattr(demo, "_SIZE", (16, 24))
    monkeypatch.setattr(demo, "_TRAINING_SCENES", 8)
    monkeypatch.setattr(demo, "_VAL_SCENES", 5)
    monkeypatch.setattr(demo, "_COMPARED_SIZE", (32, 32))
    out = tmp_path / "demo"
    assert main(["demo", "--seconds", "1", "--threads", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "val mIoU" in printed and "kept for backward" in printed and "plain torch" in printed
    assert {path.name for path in out.iterdir()} == {"demo.png", "demo.pt"}
    Image.open(out / "demo.png").verify()
    assert main(["predict", str(out / "demo.png"), "--weights", str(out / "demo.pt"), "--out", str(out)]) == 0


def test_demo_labels_images(tmp_path, monkeypatch, capsys, failing):
    from segnet_ext import demo

    monkeypatch.setattr(demo, "_costs", lambda implementation: {})
    monkeypatch.setattr(demo, "comparison_table", lambda ours, plain: "table")
    sizes = {"a.png": (40, 60), "b.jpg": (200, 120)}
    for name, size in sizes.items():
        Image.fromarray(np.random.default_rng(7).integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / name)
    images = [str(tmp_path / name) for name in sizes]
    assert main(["demo", "--image", *images, "--out", str(tmp_path / "out")]) == 0
    first, _, agreement, table = capsys.readouterr().out.splitlines()
    assert first.endswith("SegNet-Basic as trained on CamVid, for research") and table == "table"
    assert float(re.search(r"([\d.]+) % of the pixels get the same class", agreement)[1]) > 98
    sheet = np.array(Image.open(tmp_path / "out" / "demo.png"))
    label = segnet_ext.SegNetBasic.from_pretrained("camvid")(
        normalize(torch.from_numpy(resize_image(read_image(tmp_path / "a.png"), (180, 240)))[None])
    ).argmax(1)[0]
    middle = 24 + 90, 2 * 8 + 240 + 120  # of the first row's prediction
    assert tuple(sheet[middle]) == CAMVID.colors[label[90, 120]]

    assert "does not exist" in failing("demo", "--image", tmp_path / "no.png", "--out", tmp_path / "new")
    message = failing("demo", "--image", *images, "--seconds", "3")
    assert message == "--seconds is for training, which --image leaves out"
    assert not (tmp_path / "new").exists()


def test_saved_bytes_counts_each_storage_once():
    from segnet_ext.measure import saved_bytes

    images = torch.randn(1, 3, 4, 4)
    scale = torch.nn.Conv2d(3, 2, 1, bias=False)
    # The convolution keeps its input and weight (left out); the square keeps the convolution's 32 floats, once.
    assert saved_bytes(torch.nn.Sequential(scale, Square()), images) == 4 * 32


class Square(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x


def test_broken_pipe_is_silent(tmp_path, weights):
    camvid = write_camvid(tmp_path / "camvid")
    arguments = ["eval", "--data", str(camvid), "--weights", str(weights), "--workers", "0"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-u", "-m", "segnet_ext", *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    os.close(writer)
    assert "Traceback" not in done.stderr
