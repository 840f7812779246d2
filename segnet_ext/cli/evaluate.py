"""``segnet-ext eval``."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from segnet_ext._files import write_atomically
from segnet_ext.cli import _options
from segnet_ext.errors import InputError, require

if TYPE_CHECKING:
    from segnet_ext.metrics import BoundaryF1, Scores


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "eval",
        help="score a checkpoint on labelled data",
        formatter_class=_options.HelpFormatter,
        description="Prints accuracy and IoU of each class over all non-void pixels of the split, then the global "
        "accuracy, the class average and the mean IoU, in percent. Images (bilinear) and labels (nearest) are resized "
        "to --size. A class that the split does not have has no accuracy (-) and is left out of the class average; "
        "a class in neither the truth nor the prediction has no IoU and is left out of the mean IoU. With --boundary "
        "it adds the boundary F1 (BF) of the SegNet paper: within 0.75 percent of the image's diagonal, per class and "
        "image, averaged over the classes of each image's truth and then over images.",
    )
    _options.add_data(parser)
    parser.add_argument(
        "--split", default="val", help="train, val, test or what else the data set has (default: %(default)s)"
    )
    _options.add_weights(parser)
    parser.add_argument(
        "--size",
        type=_options.size,
        metavar="HxW",
        help="height x width in pixels (default: the checkpoint's training size)",
    )
    parser.add_argument(
        "--batch-size", type=_options.count, default=4, metavar="B", help="images in a batch (default: %(default)s)"
    )
    parser.add_argument("--boundary", action="store_true", help="also the boundary F1, which takes its time")
    parser.add_argument("--confusion", action="store_true", help="also how the pixels of each class were labelled")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all figures (0 to 1) and the confusion matrix in pixels"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a line of figures (0 to 1) for each class")
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE",
        help="write a PNG: input, truth and prediction of the images with the lowest mIoU, and of some others",
    )
    _options.add_workers(parser)
    _options.add_threads(parser)
    _options.add_device(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    require("segnet-ext eval", "PIL", "tqdm", "torchmetrics", *(["scipy"] if options.boundary else []))
    from segnet_ext.checkpoint import MODEL_TYPES, read_checkpoint
    from segnet_ext.data import Loader, open_dataset
    from segnet_ext.metrics import BoundaryScores, ImageScores
    from segnet_ext.training import evaluate

    device = _options.device(options)
    _options.apply_threads(options)
    for path in (options.json, options.csv, options.sheet):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{path} cannot be written: there is no folder {path.parent}")
    checkpoint = read_checkpoint(options.weights)
    size = options.size or checkpoint.size
    _options.check_size(size, checkpoint.model, MODEL_TYPES[checkpoint.model].minimum_size)
    dataset = open_dataset(options.data, options.split, size, options.dataset)
    if checkpoint.classes.names != dataset.classes.names:
        raise InputError(
            f"{options.weights} knows the classes {', '.join(checkpoint.classes.names)}, "
            f"but {options.data} has {', '.join(dataset.classes.names)}"
        )
    loader = Loader(dataset, options.batch_size, workers=options.workers)
    with _options.progress_bar(len(dataset), "eval") as bar:
        boundary_scores = BoundaryScores(len(dataset.classes)) if options.boundary else None
        image_scores = ImageScores(len(dataset.classes)) if options.sheet else None
        others = [other for other in (boundary_scores, image_scores) if other is not None]
        model = checkpoint.build_model().to(device)
        scores = evaluate(model, loader, bar.update, others)
    if image_scores is not None:
        from segnet_ext.cli._sheet import write_sheet

        write_sheet(options.sheet, model, dataset, image_scores.mean_iou, options.split)
    boundary = boundary_scores.compute() if boundary_scores else None
    names = dataset.classes.names
    if options.json is not None:
        about = {"images": len(dataset), "split": options.split, "size": list(size), "model": checkpoint.model}
        content = json.dumps(about | as_data(scores, boundary, names), indent=1) + "\n"
        write_atomically(options.json, lambda file: file.write(content.encode()))
    if options.csv is not None:
        table = as_csv(scores, boundary, names)
        write_atomically(options.csv, lambda file: file.write(table.encode()))
    print(f"{len(dataset)} {options.split} images at {_options.size_text(size)}")
    if options.confusion:
        print(format_confusion(scores.confusion, names), end="\n\n")
    print(format_scores(scores, boundary, names))
    return 0


def class_rows(scores: Scores, boundary: BoundaryF1 | None, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The figures of each class, 0 to 1; None where it has none."""
    columns = {"accuracy": scores.accuracy, "iou": scores.iou}
    if boundary is not None:
        columns["boundary_f1"] = boundary.per_class
    return [
        {"class": name, "pixels": int(scores.pixels[index])}
        | {title: _known(column[index].item()) for title, column in columns.items()}
        for index, name in enumerate(names)
    ]


def summary(scores: Scores, boundary: BoundaryF1 | None) -> dict[str, float | None]:
    """The figures over all classes, 0 to 1."""
    figures = {
        "global_accuracy": scores.global_accuracy,
        "class_average": scores.class_average,
        "mean_iou": scores.mean_iou,
    }
    if boundary is not None:
        figures["boundary_f1"] = boundary.mean
    return {title: _known(value) for title, value in figures.items()}


def as_data(scores: Scores, boundary: BoundaryF1 | None, names: tuple[str, ...]) -> dict[str, Any]:
    """All figures, and the confusion matrix as rows of pixels (truth) by prediction, as JSON has them."""
    return summary(scores, boundary) | {
        "classes": class_rows(scores, boundary, names),
        "confusion": scores.confusion.tolist(),
    }


def as_csv(scores: Scores, boundary: BoundaryF1 | None, names: tuple[str, ...]) -> str:
    """A line for each class; empty where it has no figure."""
    rows = class_rows(scores, boundary, names)
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def format_scores(scores: Scores, boundary: BoundaryF1 | None, names: tuple[str, ...]) -> str:
    """The table of classes and the summary figures, in percent."""
    width = max(15, *(len(name) for name in names))
    titles = {"accuracy": "accuracy", "iou": "IoU"} | ({} if boundary is None else {"boundary_f1": "BF"})
    lines = [f"{'class':{width}} {'pixels':>12}" + "".join(f" {title:>9}" for title in titles.values())]
    for row in class_rows(scores, boundary, names):
        figures = "".join(f" {_percent(row[key]):>9}" for key in titles)
        lines.append(f"{row['class']:{width}} {row['pixels']:12,}{figures}")
    lines.append("")
    for key, value in summary(scores, boundary).items():
        title = key.replace("_", " ").replace("iou", "IoU").replace("f1", "F1")
        lines.append(f"{title:{width}} {_percent(value):>12}")
    return "\n".join(lines)


def format_confusion(confusion: torch.Tensor, names: tuple[str, ...]) -> str:
    """Rows are the truth, columns the prediction under the row's number; percent of the row's pixels."""
    width = max(len(name) for name in names) + 4
    lines = ["truth / predicted".ljust(width) + "".join(f"{index + 1:7}" for index in range(len(names)))]
    width = len(lines[0]) - 7 * len(names)
    for index, (name, row) in enumerate(zip(names, confusion.double(), strict=True)):
        shares = row / row.sum()
        cells = "".join(f"{_percent(_known(share)):>7}" for share in shares.tolist())
        lines.append(f"{index + 1:2} {name}".ljust(width) + cells)
    return "\n".join(lines)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
