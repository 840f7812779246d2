"""``segnet-ext compare``."""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from segnet_ext._files import make_folder, write_atomically
from segnet_ext.cli import _options
from segnet_ext.errors import InputError, require

if TYPE_CHECKING:
    from segnet_ext.compare import Costs, Plan, Run, Runs

# The names of segnet_ext.compare.NETWORKS, which takes optional packages to import.
NETWORKS = ("segnet", "deeplab-largefov", "fcn", "fcn-learnt-deconv", "deconvnet")
_SIZE, _QUICK_SIZE = (360, 480), (64, 96)
_BATCH, _QUICK_BATCH = 4, 2
# FCN and DeconvNet train on one image at a time from 33x33 on, and the warm-up before each measurement has 64x64.
_MINIMUM = 64
# Not SGD with median frequency weights as in the paper: ten epochs of that leave SegNet far behind the networks that
# upsample bilinearly (val mIoU 35 against 49 and more), since it takes more epochs than a comparison has time for.
_RECIPE = {"epochs": 10, "train_size": (180, 240), "seeds": (0,), "lr": 3e-4}
_TRAIN = ("--optimizer", "adamw", "--schedule", "poly", "--class-weights", "sqrt-median")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="what SegNet, FCN, DeepLab-LargeFOV and DeconvNet cost, beside the paper's figures",
        formatter_class=_options.HelpFormatter,
        description="Repeats the paper's comparison (its Table 6) on this CPU: times of forward and backward on one "
        "image, memory of training on a batch and of inference on one image, and model size, for the networks of this "
        "library and for the same in plain torch, each measured in a process of its own, as ratios to SegNet's beside "
        "the paper's. With --data it also trains each network by one recipe (AdamW with the learning rate falling to "
        "0, square roots of the median frequency weights) and adds accuracy on val beside the paper's (Table 3). "
        "Writes OUT/paper.md, OUT/paper.csv and OUT/paper.png. A command that was cut off goes on where it was when "
        "given again: what was measured with the same settings is in OUT/paper.json, and the training runs are in "
        "OUT/runs, about 5 GB for each seed.",
    )
    parser.add_argument(
        "--models",
        type=_networks,
        default=NETWORKS,
        metavar="NAME,…",
        help=f"which of {', '.join(NETWORKS)}; segnet is always one, since ratios are to it (default: all)",
    )
    parser.add_argument("--size", type=_options.size, metavar="HxW", help="height x width in pixels (default: 360x480)")
    parser.add_argument(
        "--batch-size",
        type=_options.count,
        metavar="B",
        help="images in a step of training, both of its memory and of --data (default: 4)",
    )
    parser.add_argument("--quick", action="store_true", help="64x96 and batches of 2 by default: does it run?")
    _options.add_out(parser, "segnet-compare")
    _options.add_threads(parser)
    group = parser.add_argument_group("accuracy")
    group.add_argument("--data", type=Path, metavar="DIR", help="folder in CamVid's published layout to train on")
    group.add_argument("--epochs", type=_options.count, metavar="N", help="of each training run (default: 10)")
    group.add_argument(
        "--train-size", type=_options.size, metavar="HxW", help="size of images and labels there (default: 180x240)"
    )
    group.add_argument(
        "--seeds", type=_seeds, metavar="S,…", help="a training run with each, means in the table (default: 0)"
    )
    group.add_argument("--lr", type=_options.positive, metavar="LR", help="learning rate at first (default: 0.0003)")
    group.add_argument("--vgg16", type=Path, metavar="FILE", help="weights that each encoder starts from (else random)")
    _options.add_workers(group)
    parser.set_defaults(run=run)


def _seeds(text: str) -> tuple[int, ...]:
    """Reads whole numbers with commas between."""
    return tuple(dict.fromkeys(_options.seed(part) for part in text.split(",")))


def _networks(text: str) -> tuple[str, ...]:
    """Reads names with commas between; they come in the order of ``NETWORKS``."""
    names = text.split(",")
    wrong = [name for name in names if name not in NETWORKS]
    if wrong:
        raise argparse.ArgumentTypeError(f"must be names out of {', '.join(NETWORKS)}, got {wrong[0]!r}")
    return tuple(name for name in NETWORKS if name in names or name == NETWORKS[0])


def run(options: argparse.Namespace) -> int:
    require("segnet-ext compare", "PIL", "matplotlib", extra="compare")
    from segnet_ext.compare import Plan, measure_networks

    size = options.size or (_QUICK_SIZE if options.quick else _SIZE)
    if min(size) < _MINIMUM:
        raise InputError(f"--size must be at least {_MINIMUM}x{_MINIMUM}, got {_options.size_text(size)}")
    batch = options.batch_size or (_QUICK_BATCH if options.quick else _BATCH)
    plan = Plan(options.models, size, batch, options.threads or torch.get_num_threads())
    _check_recipe(options)
    make_folder(options.out)
    costs = measure_networks(plan, options.out / "paper.json", _options.note)
    text = _write(options.out, plan, costs, {}, "")
    if options.data is not None:
        trained = {name: [_train(options, plan, name, seed) for seed in options.seeds] for name in plan.models}
        text = _write(options.out, plan, costs, trained, _recipe_text(options, plan))
    print(text)
    print("\n".join(f"wrote {options.out / name}" for name in ("paper.md", "paper.csv", "paper.png")))
    return 0


def _write(out: Path, plan: Plan, costs: Costs, trained: Runs, recipe: str) -> str:
    """Writes the files and returns the page."""
    from segnet_ext.compare import csv_text, draw_chart, page

    write_atomically(out / "paper.png", lambda file: draw_chart(costs, plan.batch, file))
    table = csv_text(costs, trained)
    write_atomically(out / "paper.csv", lambda file: file.write(table.encode()))
    text = page(plan, costs, "paper.png", trained, recipe)
    write_atomically(out / "paper.md", lambda file: file.write(text.encode()))
    return text


def _check_recipe(options: argparse.Namespace) -> None:
    """Fills in the defaults, and refuses before hours of measuring what would be refused after them."""
    names = (*_RECIPE, "vgg16")
    if options.data is None:
        given = [name for name in names if getattr(options, name) is not None]
        if given:
            raise InputError(f"--{given[0].replace('_', '-')} is for training: it needs --data")
        return
    require("segnet-ext compare --data", "PIL", "tqdm", "torchmetrics", "scipy")
    from segnet_ext.checkpoint import MODEL_TYPES
    from segnet_ext.data import camvid_dataset

    for name, value in _RECIPE.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    for name in options.models:
        _options.check_size(options.train_size, name, MODEL_TYPES[name].minimum_size, "--train-size")
    for split in ("train", "val"):
        camvid_dataset(options.data, split, options.train_size)
    if options.vgg16 is not None and not options.vgg16.is_file():
        raise InputError(f"--vgg16 {options.vgg16} is not a file")


def _train(options: argparse.Namespace, plan: Plan, name: str, seed: int) -> Run:
    """Trains a network, or goes on with that, and scores its last epoch on val."""
    from segnet_ext.compare import ACCURACIES, Run

    folder = options.out / "runs" / f"{name}-seed{seed}"
    weights, scores, log = folder / "last.pt", folder / "val.json", folder / "log.csv"
    _options.note(f"{name}, seed {seed}: training in {folder}")
    shared = ["--data", str(options.data), "--batch-size", str(plan.batch), "--workers", str(options.workers)]
    if options.threads is not None:
        shared += ["--threads", str(options.threads)]
    train = ["train", *shared, "--model", name, "--out", str(folder), "--epochs", str(options.epochs)]
    train += ["--size", _options.size_text(options.train_size), "--seed", str(seed), "--lr", str(options.lr), *_TRAIN]
    if options.vgg16 is not None:
        train += ["--vgg16", str(options.vgg16)]
    _run([*train, "--resume"] if weights.exists() else train)
    if not scores.exists() or scores.stat().st_mtime_ns < weights.stat().st_mtime_ns:
        _run(["eval", *shared, "--weights", str(weights), "--boundary", "--json", str(scores)])
    try:
        found = json.loads(scores.read_text(encoding="utf-8"))
        figures = {key: float(found[key]) for key in ACCURACIES}
        classes = {row["class"]: row["iou"] for row in found["classes"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{scores} lacks figures: remove it to have it made again") from error
    try:
        with open(log, encoding="utf-8", newline="") as file:
            epochs = [float(row["mean_iou"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{log} lacks figures: remove {folder} to have it trained again") from error
    return Run(figures, classes, epochs)


def _run(arguments: list[str]) -> None:
    """Another command of segnet-ext. What it prints is progress here."""
    from segnet_ext.cli import build_parser

    options = build_parser().parse_args(arguments)
    with contextlib.redirect_stdout(sys.stderr):
        options.run(options)


def _recipe_text(options: argparse.Namespace, plan: Plan) -> str:
    seeds = f"seed{'s' if len(options.seeds) > 1 else ''} {', '.join(map(str, options.seeds))}"
    start = "random weights" if options.vgg16 is None else f"{options.vgg16.name} in the encoder"
    return (
        f"On val, each network after {options.epochs} epochs on train at {_options.size_text(options.train_size)}: "
        f"AdamW, learning rate {options.lr:g} falling to 0, batches of {plan.batch}, square roots of the median "
        f"frequency weights, {start}, {seeds}"
        f"{', mean ± standard deviation' if len(options.seeds) > 1 else ''}. The last epoch counts, not the best."
    )
