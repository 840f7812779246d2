"""The weights that come with the package: loading by name, the model card, and the script that makes both."""

import os
import re
import runpy
import shlex
from pathlib import Path

import pytest
import torch
from camvid_layout import write_camvid

from segnet_ext import SegNetBasic
from segnet_ext.checkpoint import read_checkpoint
from segnet_ext.cli import build_parser, main
from segnet_ext.data import CAMVID, camvid_dataset
from segnet_ext.data.dataset import Loader
from segnet_ext.pretrained import FOLDER, pretrained_files
from segnet_ext.training import evaluate

SCRIPT = Path(__file__).resolve().parent.parent / "docs" / "make_pretrained.py"


def figures_of(card: str) -> list[float]:
    """G, C, mIoU and BF, in percent."""
    return [float(cell) for cell in re.search(r"^\|---:.*\n\|(.*)\|$", card, re.MULTILINE)[1].split("|")]


def test_a_model_by_name():
    model = SegNetBasic.from_pretrained("camvid")
    assert not model.training and model.classes == CAMVID
    weights = read_checkpoint(FOLDER / "segnet-basic-camvid.pt").weights
    state = model.state_dict()
    assert state["encoder.stage2.conv.weight"].dtype == torch.float32
    assert all(torch.equal(state[key], value.to(state[key].dtype)) for key, value in weights.items())
    assert SegNetBasic(11).classes is None
    with pytest.raises(ValueError, match=r"^SegNetBasic\.from_pretrained: name must be 'camvid', got 'cityscapes'$"):
        SegNetBasic.from_pretrained("cityscapes")


@pytest.mark.parametrize("name", pretrained_files())
def test_each_file_is_small_and_has_a_card(name):
    path = pretrained_files()[name]
    assert path.stat().st_size < 4e6
    checkpoint = read_checkpoint(path)
    assert checkpoint.training is None
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert "For research" in card and len(figures_of(card)) == 4
    assert [row for row in CAMVID.names if f"| {row} |" not in card] == []
    command = re.search(r"^segnet-ext (train (?:.*\\\n)*.*)$", card, re.MULTILINE)[1]
    options = build_parser().parse_args(shlex.split(command.replace("\\\n", " ")))
    assert (options.model, options.size) == (checkpoint.model, checkpoint.size)


def test_the_scripts_make_weights_card_and_results(tmp_path, capsys, monkeypatch, thread_count):
    torch.set_num_threads(1)
    camvid = write_camvid(tmp_path / "camvid")
    recipe = ["--size", "16x24", "--batch-size", "2", "--optimizer", "adamw", "--lr", "0.004"]
    command = ["train", "--data", str(camvid), "--model", "segnet-basic", *recipe, "--epochs", "1", "--workers", "0"]
    assert main([*command, "--threads", "1", "--out", str(tmp_path / "run")]) == 0
    make = runpy.run_path(str(SCRIPT))["run"]
    make([str(tmp_path / "run"), "--data", str(camvid), "--out", str(tmp_path), "--threads", "1"])
    printed = capsys.readouterr().out.splitlines()

    made, best = (read_checkpoint(tmp_path / name).weights for name in ("segnet-basic-camvid.pt", "run/best.pt"))
    assert {value.dtype for key, value in made.items() if value.dim() > 1} == {torch.float16}
    assert made["encoder.stage1.bn.running_var"].dtype == torch.float32
    for key, value in best.items():
        torch.testing.assert_close(made[key].to(value.dtype), value, rtol=2**-11, atol=2**-24)

    card = (tmp_path / "segnet-basic-camvid.md").read_text()
    titles = ("global accuracy", "class average", "mean IoU", "boundary F1")
    assert [f"{figure:.2f}" for figure in figures_of(card)] == [
        line.split()[-1] for title in titles for line in printed if line.startswith(title)
    ]
    text = " ".join(card.replace("\\\n", " ").split())
    assert "--out runs/basic --size 16x24 --epochs 1 --batch-size 2 --optimizer adamw --lr 0.004 ``` Of 1" in text
    assert "on the 5 images of `train` alone" in text and "on the 3 images of `val` at 16x24" in text

    monkeypatch.syspath_prepend(SCRIPT.parent)
    report = runpy.run_path(str(SCRIPT.parent / "make_camvid_results.py"))["main"]
    report([str(tmp_path / "run"), "--data", str(camvid), "--out", str(tmp_path), "--threads", "1"])
    page = (tmp_path / "camvid.md").read_text()
    (row,) = (line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| segnet-basic | val"))
    mean_iou = next(line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith("mean IoU"))
    assert row[1:5] == ["val", "16x24", "5", "1 of 1"] and row[7] == mean_iou
    assert "--out runs/run --size 16x24" in page and (tmp_path / "camvid-run.png").is_file()


def test_it_knows_real_streets(tmp_path):
    """Ten images of val, which on average it labels as well as the card says of all."""
    directory = os.environ.get("SEGNET_EXT_DATA")
    if not directory or not Path(directory, "camvid").is_dir():
        pytest.skip("SEGNET_EXT_DATA names no directory with camvid/")
    camvid = Path(directory, "camvid").resolve()
    for folder in ("val", "valannot"):
        (tmp_path / folder).symlink_to(camvid / folder)
    lines = (camvid / "val.txt").read_text().splitlines(keepends=True)
    (tmp_path / "val.txt").write_text("".join(lines[5::10]))
    model = SegNetBasic.from_pretrained("camvid")
    scores = evaluate(model, Loader(camvid_dataset(tmp_path, "val", (180, 240)), 2))
    card = (FOLDER / "segnet-basic-camvid.md").read_text(encoding="utf-8")
    assert 100 * scores.global_accuracy == pytest.approx(figures_of(card)[0], abs=4)
