"""``segnet-ext compare``: files, ratios and orders, what is not measured or trained again, and what is refused."""

import csv
import dataclasses
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from camvid_layout import write_camvid
from model_cases import thin_vgg16

from segnet_ext import compare, errors, measure
from segnet_ext.checkpoint import MODEL_TYPES
from segnet_ext.cli import compare as command
from segnet_ext.cli import main
from segnet_ext.measure import Cost

pytest.importorskip("matplotlib", reason="matplotlib, of the extra compare, is not installed")

MEGABYTE = 10**6


@pytest.fixture(autouse=True)
def _one_thread(thread_count):
    torch.set_num_threads(1)


@pytest.fixture
def measured(monkeypatch) -> list[tuple]:
    """Stands in for the processes, and lists what they were asked. A network's costs are its number times SegNet's."""
    calls: list[tuple] = []

    def measure_apart(what, implementation, model, size, batch, threads):
        calls.append((what, implementation, model, size, batch, threads))
        factor = 1 + list(compare.NETWORKS).index(model)
        forward = None if what == "evaluation" else 10.0 * factor
        return Cost(30.0 * factor, 100 * MEGABYTE * batch * factor, None, None, forward)

    monkeypatch.setattr(compare, "measure_apart", measure_apart)
    return calls


@pytest.fixture
def no_picture(monkeypatch) -> None:
    """Drawing takes its time; one test looks at the picture."""
    monkeypatch.setattr(compare, "draw_chart", lambda _costs, _batch, file: file.write(b"a picture"))


@pytest.fixture
def failing(capsys):
    def run(*arguments: object) -> str:
        assert main(["compare", *map(str, arguments)]) == 2
        (line,) = (line for line in capsys.readouterr().err.splitlines() if "error: " in line)
        return line.removeprefix("segnet-ext compare: error: ")

    return run


def run(out: Path, *more: object) -> int:
    return main(
        ["compare", "--size", "64x80", "--batch-size", "2", "--threads", "1", "--out", str(out), *map(str, more)]
    )


def test_writes_page_table_and_picture(tmp_path, measured, capsys):
    assert run(tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"paper.md", "paper.csv", "paper.png", "paper.json"}
    assert (tmp_path / "paper.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "paper.md").read_text(encoding="utf-8")
    assert page in capsys.readouterr().out
    assert all(network.title in page for network in compare.NETWORKS.values())
    assert "| SegNet | ours | 10.0 | 20.0 | 317.9 | 217.9 | 117.9 |" in page
    assert "| DeepLab-LargeFOV | ours | 2.00 | 2.00 | 1.52 | 1.29 | 0.70 |" in page
    assert "|  | paper | 0.26 | 0.33 | 0.83 | 1.89 | 0.71 |" in page
    assert "## Accuracy" not in page
    with open(tmp_path / "paper.csv") as file:
        lines = list(csv.DictReader(file))
    kinds = ["ours", "plain torch", "paper"]
    assert [(line["network"], line["implementation"]) for line in lines] == [
        (name, kind) for name in compare.NETWORKS for kind in kinds
    ]
    assert (lines[0]["backward_ms"], lines[0]["inference_ms"], lines[0]["mean_iou"]) == ("20.0", "30.0", "")
    assert (lines[2]["backward_ms"], lines[2]["inference_ms"], lines[2]["mean_iou"]) == ("488.7", "", "60.1")


def test_measures_each_pass_of_each_implementation(tmp_path, measured, no_picture):
    assert run(tmp_path, "--models", "fcn") == 0
    expected = [
        (what, implementation, name, (64, 80), batch, 1)
        for name in ("segnet", "fcn")
        for implementation in ("ours", "torch channels_last")
        for what, batch in (("training", 1), ("training", 2), ("evaluation", 1))
    ]
    assert measured == expected


def test_goes_on_where_it_was_cut_off(tmp_path, measured, no_picture, monkeypatch, failing):
    real = compare.measure_apart

    def breaking(*arguments):
        if len(measured) == 4:
            raise RuntimeError("measuring failed: Traceback\nMemoryError: no more")
        return real(*arguments)

    arguments = ("--models", "segnet", "--size", "64x80", "--batch-size", "2", "--threads", "1", "--out", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(compare, "measure_apart", breaking)
        message = failing(*arguments)
    assert message.startswith("segnet, plain torch: training, 2 x 64x80 failed; a smaller --size")
    assert message.endswith(": MemoryError: no more")
    assert run(tmp_path, "--models", "segnet") == 0 and len(measured) == 6
    assert run(tmp_path, "--models", "segnet") == 0 and len(measured) == 6
    assert run(tmp_path, "--models", "segnet", "--threads", "2") == 0 and len(measured) == 12


def test_memory_that_the_system_does_not_tell(tmp_path, measured, no_picture, monkeypatch):
    real = compare.measure_apart
    monkeypatch.setattr(compare, "measure_apart", lambda *a: dataclasses.replace(real(*a), peak_bytes=None))
    assert run(tmp_path, "--models", "fcn") == 0
    page = (tmp_path / "paper.md").read_text(encoding="utf-8")
    assert "| SegNet | ours | 10.0 | 20.0 | - | - | 117.9 |" in page
    assert "| FCN | ours | 3.00 | 3.00 | - | - | 4.56 |" in page


# ---- accuracy


@pytest.fixture
def small_networks(monkeypatch):
    thin_vgg16(monkeypatch)
    small = dataclasses.replace(MODEL_TYPES["deconvnet"], arguments={"fc_channels": 8})
    monkeypatch.setitem(MODEL_TYPES, "deconvnet", small)


def test_accuracy_is_trained_for_and_resumed(tmp_path, measured, no_picture, small_networks, capsys, failing):
    data = write_camvid(tmp_path / "camvid", train=4, val=2)
    out = tmp_path / "out"
    recipe = ["--models", "deconvnet", "--data", data, "--train-size", "33x40", "--workers", "0"]
    assert run(out, *recipe, "--epochs", "1", "--seeds", "0,1") == 0
    page, progress = capsys.readouterr()
    assert "epoch   1/1  loss" in progress and "epoch   1/1" not in page
    section = page.partition("## Accuracy")[2]
    assert "after 1 epochs on train at 33x40: AdamW, learning rate 0.0003 falling to 0, batches of 2" in section
    assert "| DeconvNet | ours | " in section and " ± " in section
    assert "|  | paper | 89.58 | 70.24 | 59.77 | 52.23 |" in section
    assert section.count("; paper ") == 4 and "; paper SegNet > DeconvNet." in section
    epochs, _, classes = section.partition("### mIoU after each epoch")[2].partition("### IoU of each class")
    assert "| epoch | SegNet | DeconvNet |\n| --- | ---: | ---: |\n| 1 | " in epochs and "| 2 | " not in epochs
    assert "| class | SegNet | DeconvNet |" in classes and classes.count("| Sky | ") == classes.count("| Car | ") == 1
    with open(out / "paper.csv") as file:
        ours, plain, paper = list(csv.DictReader(file))[3:]
    assert 0 <= float(ours["mean_iou"]) <= 100 and plain["mean_iou"] == "" and paper["mean_iou"] == "59.77"

    runs = sorted(out.glob("runs/*/*"))
    assert len(runs) == 4 * len(["last.pt", "best.pt", "log.csv", "curves.png", "predictions.png", "val.json"])
    times = {path: path.stat().st_mtime_ns for path in runs}
    scored = out / "runs" / "segnet-seed1" / "val.json"
    scored.unlink()
    assert run(out, *recipe, "--epochs", "1", "--seeds", "0,1") == 0
    assert scored.exists()
    assert {path for path in runs if path.stat().st_mtime_ns != times[path]} == {scored}
    assert section == capsys.readouterr().out.partition("## Accuracy")[2]

    shared = ("--size", "64x80", "--batch-size", "2", "--threads", "1", "--out", out)
    assert "--epochs 2 differs from the run to resume, which has 1" in failing(*shared, *recipe, "--epochs", "2")
    scored.write_text("{}")
    assert "val.json lacks figures: remove it" in failing(*shared, *recipe, "--epochs", "1", "--seeds", "1")
    scored.unlink()
    scored.with_name("log.csv").write_text("epoch\n1\n")
    assert "log.csv lacks figures: remove" in failing(*shared, *recipe, "--epochs", "1", "--seeds", "1")


def test_says_where_orders_differ():
    def run(mean_iou: list[float], sky: float, car: float | None) -> compare.Run:
        scores = dict.fromkeys(compare.ACCURACIES, 0.5) | {"mean_iou": mean_iou[-1]}
        return compare.Run(scores, {"Sky": sky, "Car": car, "Tree": None}, mean_iou)

    plan = compare.Plan(("segnet", "fcn"), (64, 80), 2, 1)
    trained = {
        "segnet": [run([0.2, 0.3], 0.7, 0.1), run([0.2, 0.36], 0.9, 0.3)],
        "fcn": [run([0.4, 0.41], 0.7, 0.5), run([0.4, 0.43], 0.9, None)],
    }
    page = compare.page(plan, {}, "", trained, "")
    assert (
        "- SegNet above FCN in the paper alone: FCN leads here, most on Car (+30.0). "
        "In the last epoch SegNet gained 13.0 points and FCN 2.0." in page
    )
    assert "| 2 | 33.00 | 42.00 |" in page and "| Car | 20.00 | 50.00 |" in page and "| Tree | - | - |" in page
    trained["segnet"] = trained["fcn"] = [run([0.4], 0.7, 0.5)]
    assert "FCN leads here, most on no class." in compare.page(plan, {}, "", trained, "")
    trained["fcn"] = [run([0.3], 0.7, 0.5)]
    assert "Where the orders of mIoU differ" not in compare.page(plan, {}, "", trained, "")


def test_orders():
    paper = {"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.0}
    assert compare.order(paper) == ["a", "b", "c", "d"]
    assert compare.disagreements({"c": 5.0, "b": 7.0, "a": 9.0}, paper) == []
    assert compare.disagreements({"a": 5.0, "b": 9.0, "c": 5.0}, paper) == [("a", "b"), ("a", "c")]


# ---- what is refused


def test_bad_arguments(tmp_path, capsys, failing):
    with pytest.raises(SystemExit):
        main(["compare", "--models", "segnet,unet"])
    assert f"must be names out of {', '.join(compare.NETWORKS)}, got 'unet'" in capsys.readouterr().err
    out = ("--out", tmp_path / "out")
    assert failing(*out, "--size", "32x640") == "--size must be at least 64x64, got 32x640"
    assert failing(*out, "--epochs", "2") == "--epochs is for training: it needs --data"
    assert failing(*out, "--train-size", "64x64") == "--train-size is for training: it needs --data"
    data = write_camvid(tmp_path / "camvid", train=1, val=1)
    assert "--train-size must be at least 33x33 for fcn" in failing(*out, "--data", data, "--train-size", "32x32")
    assert "no.pth is not a file" in failing(*out, "--data", data, "--vgg16", tmp_path / "no.pth")
    assert "train.txt" in failing(*out, "--data", tmp_path)
    assert not (tmp_path / "out").exists(), "all of these are refused before anything is measured"
    for content in ("{", "[]", '{"a": {"ms": 1.0, "years": 2}}'):
        (tmp_path / "paper.json").write_text(content)
        assert "is not what segnet-ext compare writes: remove it" in failing("--out", tmp_path)


def test_missing_matplotlib_is_named(tmp_path, monkeypatch, failing):
    monkeypatch.setattr(errors, "_is_installed", lambda module: module != "matplotlib")
    assert failing("--out", tmp_path) == "segnet-ext compare needs matplotlib: pip install 'segnet_ext[compare]'"


def test_a_process_that_was_killed_is_explained(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], -9, "", ""))
    with pytest.raises(RuntimeError, match="ours fcn failed: the system ended the process, as it does when memory"):
        measure.measure_apart("training", "ours", "fcn", (64, 64), 1)


# ---- what it stands on


def test_networks_are_those_of_the_command_line():
    assert tuple(compare.NETWORKS) == command.NETWORKS
    assert compare.NETWORKS.keys() <= MODEL_TYPES.keys()
    # Table 6's megabytes are the weights', DeconvNet's apart.
    for name in ("segnet", "deeplab-largefov", "fcn"):
        assert compare.model_bytes(name) / 1e6 == pytest.approx(compare.NETWORKS[name].costs[-1], rel=0.015)


@pytest.mark.parametrize("implementation", ["ours", "torch channels_last"])
def test_forward_is_a_part_of_training(implementation, small_networks, monkeypatch):
    monkeypatch.setattr(measure, "_SECONDS", 0.0)
    model = measure._build("training", implementation, "deconvnet")
    cost = measure.measure("training", model, torch.randn(1, 3, 64, 64))
    assert 0 < cost.forward_ms < cost.ms and cost.saved_bytes > 0
    model = measure._build("evaluation", implementation, "deconvnet")
    cost = measure.measure("evaluation", model, torch.randn(1, 3, 64, 64))
    assert cost.ms > 0 and cost.forward_ms is None and not model.training


def test_the_benchmark_is_the_command(monkeypatch, capsys):
    script = Path(__file__).resolve().parent.parent / "benchmarks" / "bench_paper.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--size", "1x1"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(script), run_name="__main__")
    assert exit.value.code == 2 and "--size must be at least 64x64, got 1x1" in capsys.readouterr().err
