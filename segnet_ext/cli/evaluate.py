"""``segnet-ext eval``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segnet_ext.cli import _options
from segnet_ext.errors import InputError, require

if TYPE_CHECKING:
    from segnet_ext.metrics import Scores


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "eval",
        help="score a checkpoint on labelled data",
        formatter_class=_options.HelpFormatter,
        description="Prints accuracy and IoU of each class over all non-void pixels of the split, then the global "
        "accuracy, the class average and the mean IoU, in percent. Images (bilinear) and labels (nearest) are resized "
        "to --size. A class that the split does not have has no accuracy (-) and is left out of the class average; "
        "a class in neither the truth nor the prediction has no IoU and is left out of the mean IoU.",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder in CamVid's published layout")
    parser.add_argument("--split", default="val", help="train, val or test: reads DIR/SPLIT.txt (default: %(default)s)")
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="checkpoint of segnet-ext train")
    parser.add_argument(
        "--size",
        type=_options.size,
        metavar="HxW",
        help="height x width in pixels (default: the checkpoint's training size)",
    )
    parser.add_argument(
        "--batch-size", type=_options.count, default=4, metavar="B", help="images in a batch (default: %(default)s)"
    )
    _options.add_workers(parser)
    _options.add_threads(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    require("segnet-ext eval", "PIL", "tqdm", "torchmetrics")
    from segnet_ext.checkpoint import MODEL_TYPES, read_checkpoint
    from segnet_ext.data import Loader, camvid_dataset
    from segnet_ext.training import evaluate

    _options.apply_threads(options)
    checkpoint = read_checkpoint(options.weights)
    size = options.size or checkpoint.size
    _options.check_size(size, checkpoint.model, MODEL_TYPES[checkpoint.model].minimum_size)
    dataset = camvid_dataset(options.data, options.split, size)
    if checkpoint.classes.names != dataset.classes.names:
        raise InputError(
            f"{options.weights} knows the classes {', '.join(checkpoint.classes.names)}, "
            f"but {options.data} has {', '.join(dataset.classes.names)}"
        )
    loader = Loader(dataset, options.batch_size, workers=options.workers)
    with _options.progress_bar(len(dataset), "eval") as bar:
        scores = evaluate(checkpoint.build_model(), loader, bar.update)
    print(f"{len(dataset)} {options.split} images at {_options.size_text(size)}")
    print(format_scores(scores, dataset.classes.names))
    return 0


def format_scores(scores: Scores, names: tuple[str, ...]) -> str:
    """The table of classes and the three summary figures, in percent."""
    width = max(15, *(len(name) for name in names))
    lines = [f"{'class':{width}} {'pixels':>12} {'accuracy':>9} {'IoU':>9}"]
    for name, pixels, accuracy, iou in zip(
        names, scores.pixels.tolist(), scores.accuracy.tolist(), scores.iou.tolist(), strict=True
    ):
        lines.append(f"{name:{width}} {pixels:12,} {_percent(accuracy):>9} {_percent(iou):>9}")
    lines.append("")
    for title, value in (
        ("global accuracy", scores.global_accuracy),
        ("class average", scores.class_average),
        ("mean IoU", scores.mean_iou),
    ):
        lines.append(f"{title:{width}} {_percent(value):>12}")
    return "\n".join(lines)


def _percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:.2f}"
