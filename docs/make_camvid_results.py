"""Writes benchmarks/results/camvid.md: what training runs on CamVid came to, beside the published figures.

Each RUN is a folder that segnet-ext train wrote. Its best.pt is scored on val by segnet-ext eval; recipe and curves are
those in last.pt. Needs the extra "train".

python docs/make_camvid_results.py runs/basic runs/segnet --data CamVid
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from make_pretrained import command_of, percent, score

from segnet_ext.checkpoint import read_checkpoint
from segnet_ext.cli._curves import draw_curves
from segnet_ext.measure import processor
from segnet_ext.training import EpochResult

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
# G, C, mIoU and BF on CamVid's test images at 360x480 (TPAMI 2017): {model: (images trained on, figures)}. SegNet's are
# those of Table 3, with further data sets' images; SegNet-Basic's those of Table 1.
PUBLISHED = {"segnet": ("3433", (90.40, 71.20, 60.10, 46.84)), "segnet-basic": ("367", (82.7, 62.0, 47.7, 35.78))}
KEYS = ("global_accuracy", "class_average", "mean_iou", "boundary_f1")


@dataclass(frozen=True)
class Run:
    name: str
    settings: dict[str, Any]
    history: list[EpochResult]
    images: int
    figures: dict[str, Any]

    @property
    def model(self) -> str:
        return self.settings["model"]

    @property
    def minutes(self) -> float:
        """Of training, as the clock went, without the scoring of val after each epoch."""
        return sum(result.seconds for result in self.history) / 60

    @property
    def best(self) -> EpochResult:
        return max(self.history, key=lambda result: (result.mean_iou, result.epoch))


def read_run(folder: Path, data: Path, threads: int) -> Run:
    training = read_checkpoint(folder / "last.pt").training
    if training is None:
        raise SystemExit(f"{folder / 'last.pt'} has no training state")
    history = [EpochResult(**result) for result in training["run"]["history"]]
    images = len((data / "train.txt").read_text().splitlines())
    return Run(folder.name, training["settings"], history, images, score(folder / "best.pt", data, threads))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(runs: Sequence[Run]) -> str:
    scores = []
    for run in runs:
        done = f"{run.best.epoch} of {run.settings['epochs']}"
        size = run.settings["size"]
        scores.append([run.model, "val", size, str(run.images), done, *(percent(run.figures[key]) for key in KEYS)])
        if run.model in PUBLISHED:
            images, figures = PUBLISHED[run.model]
            scores.append([f"{run.model}, published", "test", "360x480", images, "", *(f"{x:.2f}" for x in figures)])
    classes = [
        [row["class"], *(percent(run.figures["classes"][i]["iou"]) for run in runs)]
        for i, row in enumerate(runs[0].figures["classes"])
    ]
    parts = [
        "# SegNet on CamVid",
        f"Made by `docs/make_camvid_results.py` on {processor()}, torch {torch.__version__}. Scores are percentages: "
        "global accuracy (G), class average (C), mean IoU and boundary F1 (BF) of the eleven classes, void left out. "
        "Ours are of val, which the best epoch was chosen by; the published ones are of test.",
        table(["model", "split", "size", "images", "epoch", "G", "C", "mIoU", "BF"], scores),
        "IoU of each class on val:",
        table(["class", *(run.name for run in runs)], classes),
    ]
    for run in runs:
        parts += [
            f"## {run.name}",
            f"```bash\n{command_of(run.settings, f'runs/{run.name}')}\n```",
            f"{len(run.history)} epochs, seed {run.settings['seed']}, {run.minutes:.0f} minutes of training"
            + (f"; SHA-256 of `vgg16.safetensors` {run.settings['vgg16'][:12]}…." if run.settings["vgg16"] else "."),
            f"![loss, scores and learning rate](camvid-{run.name}.png)",
        ]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder that segnet-ext train wrote")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="CamVid, in its published layout")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="default: benchmarks/results")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="T", help="CPU threads")
    options = parser.parse_args(arguments)
    runs = [read_run(folder, options.data, options.threads) for folder in options.runs]
    options.out.mkdir(parents=True, exist_ok=True)
    for run in runs:
        with open(options.out / f"camvid-{run.name}.png", "wb") as file:
            draw_curves(run.history, file)
    (options.out / "camvid.md").write_text(page(runs), encoding="utf-8")
    print(f"wrote {options.out / 'camvid.md'}")


if __name__ == "__main__":
    main()
