"""The command line: help, usage errors, predict, eval and the demo."""

import csv
import json
import os
import subprocess
import sys
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
from segnet_ext.data.images import normalize, overlay, read_image, resize_image


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


@pytest.mark.parametrize("command", ["train", "predict", "eval", "demo"])
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
        (["predict", "--weights", "w", "--out", "o"], "IMAGE"),
        (["demo", "--seconds", "x"], "argument --seconds: must be a number above 0, got 'x'"),
    ],
)
def test_usage_errors(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_packages_are_named(monkeypatch, failing):
    import importlib.util

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
    assert main(["predict", *images, "--weights", str(weights), "--out", str(out)]) == 0
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
    assert main(["predict", str(tmp_path / "a.png"), *arguments]) == 0
    with torch.inference_mode():
        seen = normalize(torch.from_numpy(resize_image(image, size))[None])
        logits = read_checkpoint(weights).build_model()(seen)
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
    assert "cannot be read as an image" in failing("predict", tmp_path / "b", *rest)
    message = failing("predict", good, "--size", "8x64", *rest)
    assert message == "--size must be at least 16x16 for segnet-basic, got 8x64"
    assert "does not exist" in failing("predict", good, "--weights", tmp_path / "no.pt", "--out", out)
    assert not out.exists(), "nothing is made before the input is known to be good"
    assert "cannot be made" in failing("predict", good, "--weights", weights, "--out", good / "out")


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
