"""``segnet-ext train``: end to end, resumed, refused, interrupted."""

import csv
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from camvid_layout import write_camvid
from PIL import Image

import segnet_ext
from segnet_ext.checkpoint import read_checkpoint, write_checkpoint
from segnet_ext.cli import main
from segnet_ext.loss import AUTHORS_CAMVID_WEIGHTS
from segnet_ext.models import stage


@pytest.fixture(scope="module")
def camvid(tmp_path_factory) -> Path:
    return write_camvid(tmp_path_factory.mktemp("data") / "camvid")


@pytest.fixture(autouse=True)
def _one_thread(thread_count):
    torch.set_num_threads(1)


def arguments(camvid: Path, out: Path, *more: str, epochs: int = 2) -> list[str]:
    base = ["train", "--data", str(camvid), "--out", str(out), "--epochs", str(epochs), "--workers", "0"]
    return [*base, "--threads", "1", *more]


FILES = {"last.pt", "best.pt", "log.csv", "curves.png", "predictions.png"}
FRESH = ("--model", "segnet-basic", "--size", "16x24", "--batch-size", "2", "--lr", "0.05")


@pytest.fixture(scope="module")
def trained(camvid, tmp_path_factory) -> Path:
    """The folder of a run of three epochs."""
    before = torch.get_num_threads()
    out = tmp_path_factory.mktemp("trained")
    assert main(arguments(camvid, out, *FRESH, epochs=3)) == 0
    torch.set_num_threads(before)
    return out


@pytest.fixture
def failing(capsys):
    def run(command: list[str]) -> str:
        assert main(command) == 2
        _, err = capsys.readouterr()
        prefix = "segnet-ext train: error: "
        assert err.splitlines()[-1].startswith(prefix) and "Traceback" not in err
        return err.splitlines()[-1][len(prefix) :]

    return run


def test_train_writes_checkpoints_and_log(trained):
    assert {path.name for path in trained.iterdir()} == FILES
    for name, size in (("curves.png", (1320, 418)), ("predictions.png", (1112, 912))):
        with Image.open(trained / name) as picture:
            assert picture.size == size
    with open(trained / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert all(0 <= float(row["mean_iou"]) <= 1 for row in rows)
    last, best = read_checkpoint(trained / "last.pt"), read_checkpoint(trained / "best.pt")
    assert (last.model, last.size) == ("segnet-basic", (16, 24))
    assert last.training is not None and best.training is None


def test_train_reports(camvid, tmp_path, capsys):
    assert main(arguments(camvid, tmp_path, *FRESH, epochs=1)) == 0
    out, err = capsys.readouterr()
    assert out.startswith("epoch   1/1  loss ") and "mIoU" in out and "images/s" in out
    assert "class weights: Sky" in err
    figure = out.split("mIoU ")[1].split()[0]
    command = ["eval", "--data", str(camvid), "--weights", str(tmp_path / "last.pt"), "--workers", "0"]
    assert main([*command, "--batch-size", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[-1] == figure, "eval gives what training printed"


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["segnet", "segnet-basic"])
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_train_on_a_gpu(camvid, tmp_path, cuda_device, amp, model):
    more = ("--model", model, "--size", "32x48", "--batch-size", "2", "--lr", "0.01")
    losses = {}
    for device, *precision in (("cpu",), ("cuda", "--amp", amp)):
        out = tmp_path / device
        assert main(arguments(camvid, out, *more, "--device", device, *precision, epochs=2)) == 0
        with open(out / "log.csv") as file:
            losses[device] = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.1)
    command = ["eval", "--data", str(camvid), "--weights", str(tmp_path / "cuda" / "best.pt"), "--device", "cpu"]
    assert main([*command, "--workers", "0"]) == 0


def test_class_weights_by_name(camvid, tmp_path, capsys):
    shown = {}
    for kind in ("median", "sqrt-median", "authors", "none"):
        assert main(arguments(camvid, tmp_path / kind, *FRESH, "--class-weights", kind, epochs=1)) == 0
        line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("class weights: "))
        shown[kind] = [float(pair.split()[-1]) for pair in line.split(": ")[1].split(", ")]
    assert shown["none"] == [1.0] * 11
    assert shown["authors"] == list(AUTHORS_CAMVID_WEIGHTS)
    # printed to four places
    assert shown["sqrt-median"] == pytest.approx([weight**0.5 for weight in shown["median"]], abs=1e-3)
    assert len(set(shown["median"])) > 2


def test_resume_is_bit_exact(camvid, tmp_path, trained):
    assert main(arguments(camvid, tmp_path, *FRESH, epochs=1)) == 0
    assert main(arguments(camvid, tmp_path, "--resume", epochs=2)) == 0
    assert main(arguments(camvid, tmp_path, *FRESH, "--resume", epochs=3)) == 0
    for name in ("last.pt", "best.pt"):
        straight, resumed = (read_checkpoint(folder / name).weights for folder in (trained, tmp_path))
        assert all(torch.equal(straight[key], resumed[key]) for key in straight), name

    def figures(folder):
        with open(folder / "log.csv") as file:
            return [(row["epoch"], row["loss"], row["mean_iou"]) for row in csv.DictReader(file)]

    assert figures(tmp_path) == figures(trained)


RECIPE = (
    *("--optimizer", "adamw", "--lr", "0.01", "--schedule", "poly", "--warmup", "1", "--accumulate", "2"),
    *("--class-weights", "authors", "--loss-norm", "weights", "--flip", "off", "--scale", "0.7:1.5"),
    *("--crop", "20x28", "--color", "0.3", "--ema", "0.9"),
)


def test_resume_of_a_recipe_is_bit_exact(camvid, tmp_path, monkeypatch, failing):
    import segnet_ext.cli.train as module

    save = module._save

    def save_and_stop(training, *rest):
        save(training, *rest)
        raise KeyboardInterrupt

    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert main(arguments(camvid, straight, *FRESH[:6], *RECIPE, epochs=3)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(module, "_save", save_and_stop)
        assert main(arguments(camvid, stopped, *FRESH[:6], *RECIPE, epochs=3)) == 130
    assert "--epochs 4 differs from the run to resume, which has 3" in failing(
        arguments(camvid, stopped, "--resume", epochs=4)
    )
    assert main(["train", "--data", str(camvid), "--out", str(stopped), "--resume", "--threads", "1"]) == 0
    for name in ("last.pt", "best.pt"):
        weights, resumed = (read_checkpoint(folder / name).weights for folder in (straight, stopped))
        assert all(torch.equal(weights[key], resumed[key]) for key in weights), name
    runs = [read_checkpoint(folder / "last.pt").training for folder in (straight, stopped)]
    assert runs[0]["settings"] == runs[1]["settings"]
    for row, other in zip(*(run["run"]["history"] for run in runs), strict=True):
        assert {key: row[key] for key in ("loss", "lr", "mean_iou")} == {
            key: other[key] for key in ("loss", "lr", "mean_iou")
        }


def test_workers_do_not_change_the_result(camvid, tmp_path, trained):
    assert main([*arguments(camvid, tmp_path, *FRESH, epochs=3), "--workers", "2"]) == 0
    straight, other = (read_checkpoint(folder / "last.pt").weights for folder in (trained, tmp_path))
    assert all(torch.equal(straight[key], other[key]) for key in straight)


def test_checkpointing_does_not_change_the_result(camvid, tmp_path, trained, monkeypatch):
    checkpointed, plain = [], stage.checkpoint

    def counting(function, *args, **kwargs):
        checkpointed.append(function)
        return plain(function, *args, **kwargs)

    monkeypatch.setattr(stage, "checkpoint", counting)
    assert main(arguments(camvid, tmp_path, *FRESH, "--grad-checkpointing", epochs=1)) == 0
    assert checkpointed
    assert main(arguments(camvid, tmp_path, "--resume", epochs=3)) == 0  # which may go on without
    straight, other = (read_checkpoint(folder / "last.pt").weights for folder in (trained, tmp_path))
    assert all(torch.equal(straight[key], other[key]) for key in straight)


@pytest.mark.parametrize(
    "changed, message",
    [
        (("--lr", "0.01"), "--lr 0.01 differs from the run to resume, which has 0.05"),
        (("--size", "24x32"), "--size 24x32 differs from the run to resume, which has 16x24"),
        (("--batch-size", "3"), "--batch-size 3 differs"),
        (("--model", "segnet"), "--model segnet differs"),
        (("--seed", "5"), "--seed 5 differs"),
        (("--momentum", "0.5"), "--momentum 0.5 differs"),
        (("--weight-decay", "0"), "--weight-decay 0.0 differs"),
        (("--amp", "bf16"), "--amp bf16 differs"),
        (("--optimizer", "adamw"), "--optimizer adamw differs from the run to resume, which has sgd"),
        (("--crop", "20x20"), "--crop 20x20 differs from the run to resume, which has none"),
        (("--scale", "0.5:2"), "--scale 0.5:2.0 differs from the run to resume, which has 1.0:1.0"),
        (("--class-weights", "none"), "--class-weights none differs"),
        (("--schedule", "poly"), "--schedule poly differs"),
    ],
)
def test_resume_refuses_changed_settings(camvid, trained, failing, changed, message):
    assert message in failing(arguments(camvid, trained, "--resume", *changed, epochs=9))


def test_resume_refuses_other_data(camvid, tmp_path, trained, failing):
    other = write_camvid(tmp_path / "other", train=4)
    assert "are not those that the run" in failing(arguments(other, trained, "--resume", epochs=9))


def test_resume_of_a_run_from_before_other_data_sets(camvid, tmp_path, trained, capsys):
    checkpoint = read_checkpoint(trained / "last.pt")
    assert checkpoint.training is not None
    assert checkpoint.training["settings"].pop("dataset") == "camvid"
    write_checkpoint(tmp_path / "last.pt", checkpoint)
    shutil.copy(trained / "best.pt", tmp_path)
    assert main(arguments(camvid, tmp_path, "--resume", epochs=3)) == 0
    assert "already has 3 epochs" in capsys.readouterr().err


def test_resume_of_a_finished_run_does_nothing(camvid, trained, capsys):
    before = (trained / "last.pt").read_bytes()
    assert main(arguments(camvid, trained, "--resume", epochs=3)) == 0
    assert "already has 3 epochs" in capsys.readouterr().err
    assert (trained / "last.pt").read_bytes() == before


def test_resume_needs_a_whole_checkpoint(camvid, tmp_path, trained, failing):
    assert "nothing to resume" in failing(arguments(camvid, tmp_path, "--resume"))
    (tmp_path / "last.pt").write_bytes((trained / "last.pt").read_bytes()[:-5000])
    assert "cut short" in failing(arguments(camvid, tmp_path, "--resume"))
    (tmp_path / "last.pt").write_bytes((trained / "best.pt").read_bytes())
    assert "no training state" in failing(arguments(camvid, tmp_path, "--resume"))


def test_bad_input_makes_no_folder(camvid, tmp_path, failing, trained):
    out = tmp_path / "out"
    assert "--model is required" in failing(arguments(camvid, out))
    assert "does not exist" in failing(arguments(tmp_path / "no", out, *FRESH))
    assert "--size must be at least 32x32 for segnet" in failing(
        arguments(camvid, out, "--model", "segnet", "--size", "16x40")
    )
    assert "--vgg16 is for --model segnet" in failing(arguments(camvid, out, *FRESH, "--vgg16", "x.pth"))
    assert "--crop must be at least 16x16 for segnet-basic, got 8x20" in failing(
        arguments(camvid, out, *FRESH, "--crop", "8x20")
    )
    if not torch.cuda.is_available():
        assert "--amp fp16 needs --device cuda" in failing(arguments(camvid, out, *FRESH, "--amp", "fp16"))
        assert "finds no CUDA device" in failing(arguments(camvid, out, *FRESH, "--device", "cuda"))
    missing = str(tmp_path / "x.pth")
    assert "cannot be read" in failing(arguments(camvid, out, "--model", "segnet", "--vgg16", missing))
    Path(missing).write_bytes(b"no weights")
    from_vgg16 = arguments(camvid, out, "--model", "segnet", "--size", "32x32", "--vgg16", missing)
    assert failing(from_vgg16) == f"--vgg16 {missing} is cut short or not a file of weights"
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, missing)
    assert failing(from_vgg16).endswith("nothing was loaded: features.0.bias is missing (and 24 more)")
    assert not out.exists()
    assert "give --resume to go on from it" in failing(arguments(camvid, trained, *FRESH))
    (tmp_path / "file").write_text("")
    assert "cannot be made" in failing(arguments(camvid, tmp_path / "file" / "out", *FRESH))


def test_labels_out_of_range_are_refused(tmp_path, failing):
    data = write_camvid(tmp_path / "data")
    Image.fromarray(np.full((24, 32), 12, np.uint8)).save(data / "trainannot" / "0003.png")
    message = failing(arguments(data, tmp_path / "out", *FRESH))
    assert "0003.png has the label 12 at row 0, column 0; labels must be 0 to 10, or 11 for void" in message
    assert not (tmp_path / "out").exists()


def test_full_disk_keeps_the_last_checkpoint(camvid, tmp_path, trained, failing, monkeypatch):
    for name in ("last.pt", "best.pt", "log.csv"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    real = torch.save

    def full(content, file):
        if content["training"] is None:
            return real(content, file)
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert "No space left on device" in failing(arguments(camvid, tmp_path, "--resume", epochs=4))
    assert (tmp_path / "last.pt").read_bytes() == (trained / "last.pt").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "best.pt", "log.csv"}


def test_a_killed_process_keeps_the_last_checkpoint(camvid, tmp_path, trained, monkeypatch):
    for name in FILES:
        (tmp_path / name).write_bytes((trained / name).read_bytes())

    def killed(content, file):
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        process = multiprocessing.get_context("fork").Process(
            target=main, args=(arguments(camvid, tmp_path, "--resume", epochs=4),)
        )
        process.start()
        process.join(120)
    assert process.exitcode == -signal.SIGKILL
    for name in ("last.pt", "best.pt"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()
    assert main(arguments(camvid, tmp_path, "--resume", epochs=4)) == 0
    assert len(read_checkpoint(tmp_path / "last.pt").training["run"]["history"]) == 4


@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_an_epoch_that_was_interrupted_goes_on(camvid, tmp_path, capsys, monkeypatch, where):
    import segnet_ext.training as module

    command = arguments(camvid, tmp_path / "stopped", *FRESH, "--ema", "0.9")
    command[command.index("segnet-basic")] = "bayesian-segnet-basic"
    straight = [str(tmp_path / "straight") if word == str(tmp_path / "stopped") else word for word in command]
    assert main(straight) == 0
    calls = 0

    def interrupting(function):
        def call(*given):
            nonlocal calls
            calls += 1
            if calls == 5:  # a batch has three steps, and its evaluation two
                signal.raise_signal(signal.SIGINT)
            return function(*given)

        return call

    with monkeypatch.context() as patch:
        if where == "training":
            patch.setattr(module.TrainingRun, "step", interrupting(module.TrainingRun.step))
        else:
            patch.setattr(module, "predict_classes", interrupting(module.predict_classes))
            calls = 2
        assert main(command) == 130
    steps = {"training": 2, "evaluation": 3}[where]
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"last.pt holds 1 epoch and {steps} steps of the next")
    assert main(arguments(camvid, tmp_path / "stopped", "--resume")) == 0
    for name in ("last.pt", "best.pt"):
        weights, resumed = (read_checkpoint(tmp_path / folder / name).weights for folder in ("straight", "stopped"))
        assert all(torch.equal(weights[key], resumed[key]) for key in weights), name
    losses = [
        [row["loss"] for row in read_checkpoint(tmp_path / folder / "last.pt").training["run"]["history"]]
        for folder in ("straight", "stopped")
    ]
    assert losses[0] == losses[1]


def test_tensorboard(camvid, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(arguments(camvid, tmp_path, *FRESH, epochs=1)) == 0
    for epochs in (2, 3):
        assert main(arguments(camvid, tmp_path, "--resume", "--tensorboard", epochs=epochs)) == 0
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for tag, name in (("train/loss", "loss"), ("train/lr", "lr"), ("val/mean_iou", "mean_iou")):
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [1, 2, 3]
        assert [scalar.value for scalar in scalars] == pytest.approx([float(row[name]) for row in rows])


def test_tensorboard_is_asked_for_by_name(camvid, tmp_path, failing, monkeypatch):
    monkeypatch.setattr("segnet_ext.errors._is_installed", lambda module: module != "tensorboard")
    message = failing(arguments(camvid, tmp_path / "out", *FRESH, "--tensorboard"))
    assert message == "--tensorboard needs tensorboard: pip install 'segnet_ext[tensorboard]'"


def test_segnet_from_vgg16(camvid, tmp_path, thread_count, failing):
    channels = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)]
    channels += [(256, 512)] + [(512, 512)] * 5
    layers = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    file = {}
    for layer, (inputs, outputs) in zip(layers, channels, strict=True):
        file[f"features.{layer}.weight"] = torch.randn(outputs, inputs, 3, 3) * 0.02
        file[f"features.{layer}.bias"] = torch.zeros(outputs)
    torch.save(file, tmp_path / "vgg16.pth")
    out = tmp_path / "out"
    command = arguments(camvid, out, "--model", "segnet", "--size", "32x32", epochs=1)
    assert main([*command, "--vgg16", str(tmp_path / "vgg16.pth"), "--lr", "1e-6", "--weight-decay", "0"]) == 0
    weights = read_checkpoint(out / "last.pt").weights
    torch.testing.assert_close(weights["encoder.stage3.conv2.weight"], file["features.12.weight"], atol=1e-3, rtol=0)
    torch.save(file | {"features.0.bias": torch.zeros(1)}, tmp_path / "other.pth")
    message = failing(arguments(camvid, out, "--resume", "--vgg16", str(tmp_path / "other.pth"), epochs=2))
    assert "differs from the run to resume, which has another file" in message


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_interrupt_keeps_the_last_checkpoint(camvid, tmp_path):
    command = arguments(camvid, tmp_path, *FRESH, epochs=100_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "segnet_ext", *command, "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    last = err.splitlines()[-1]
    told = re.fullmatch(
        rf"segnet-ext train: interrupted; {re.escape(str(tmp_path / 'last.pt'))} holds (\d+) epochs?"
        r"(?: and (\d) steps? of the next)?",
        last,
    )
    assert told, last
    assert "Traceback" not in err
    training = read_checkpoint(tmp_path / "last.pt").training
    assert training is not None and len(training["run"]["history"]) == int(told[1])
    assert training["run"]["partial"]["steps"] == int(told[2])
    assert {path.name for path in tmp_path.iterdir()} <= FILES


def test_checkpoint_of_other_classes_is_refused(camvid, tmp_path, capsys):
    from segnet_ext.checkpoint import Checkpoint
    from segnet_ext.data import ClassSet

    classes = ClassSet(("road", "rest"), ((1, 2, 3), (4, 5, 6)))
    weights = segnet_ext.SegNetBasic(2).state_dict()
    write_checkpoint(tmp_path / "two.pt", Checkpoint("segnet-basic", classes, (16, 16), weights))
    assert main(["eval", "--data", str(camvid), "--weights", str(tmp_path / "two.pt"), "--workers", "0"]) == 2
    assert "knows the classes road, rest" in capsys.readouterr().err


@pytest.mark.slow
def test_real_camvid_end_to_end(tmp_path, capsys):
    folder = os.environ.get("SEGNET_EXT_DATA")
    if not folder:
        pytest.skip("SEGNET_EXT_DATA does not name a folder that holds camvid/")
    data = Path(folder) / "camvid"
    command = ["train", "--data", str(data), "--out", str(tmp_path), "--model", "segnet-basic", "--size", "24x32"]
    assert main([*command, "--epochs", "1", "--batch-size", "8"]) == 0
    assert main(["eval", "--data", str(data), "--weights", str(tmp_path / "best.pt")]) == 0
    assert "101 val images at 24x32" in capsys.readouterr().out
    image = sorted((data / "val").glob("*.png"))[0]
    assert main(["predict", str(image), "--weights", str(tmp_path / "best.pt"), "--out", str(tmp_path / "out")]) == 0
    assert Image.open(tmp_path / "out" / f"{image.stem}_label.png").size == (480, 360)
