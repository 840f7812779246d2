"""``segnet-ext convert``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segnet_ext._files import make_folder
from segnet_ext.cli import _options
from segnet_ext.cli._sources import is_image
from segnet_ext.errors import InputError, require

if TYPE_CHECKING:
    from torch import Tensor

    from segnet_ext.convert import SourceInput

_BATCH = 4


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "convert",
        help="make a checkpoint of another SegNet's weights",
        formatter_class=_options.HelpFormatter,
        description="Reads the authors' Caffe models (.caffemodel: SegNet, SegNet-Basic, the Bayesian ones) and "
        "PyTorch files (.pth, .pt, .safetensors) whose state_dict has keys such as down1.conv1.cbr_unit.0.weight, "
        "stage1_encoder.0.weight or ConvEn11.weight, and writes a checkpoint for eval, predict and export. What the "
        "original saw of an image (--channels, --range, --mean, --std) is made part of the model: in the first "
        "convolution's weights, or where that cannot be exact in a step before it.",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="file of weights")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="checkpoint, .pt or .safetensors")
    parser.add_argument(
        "--batch-norm",
        choices=("inference", "training"),
        help="of a .caffemodel: whether BN's scale and shift have the statistics folded in (compute_bn_statistics.py) "
        "or are a snapshot of training (default: as the file tells; some do not)",
    )
    parser.add_argument(
        "--statistics",
        type=Path,
        metavar="DIR",
        help="with --batch-norm training: a folder of training images, to compute BatchNorm's statistics from",
    )
    parser.add_argument(
        "--class-names",
        type=lambda text: tuple(text.split(",")),
        metavar="A,B,…",
        help="names of the classes (default: CamVid's for 11 classes, else numbers)",
    )
    parser.add_argument(
        "--size",
        type=_options.size,
        metavar="HxW",
        help="height x width that the model was trained at (default: 360x480 for Caffe, 352x480 for PyTorch)",
    )
    parser.add_argument(
        "--channels", choices=("rgb", "bgr"), help="order of the original's input (default: bgr for Caffe, else rgb)"
    )
    parser.add_argument(
        "--range",
        type=_options.positive,
        metavar="R",
        help="the original's input is 0 to R before --mean and --std (default: 255 for Caffe, else 1)",
    )
    for name, default in (("mean", "0,0,0 for Caffe, else ImageNet's"), ("std", "1,1,1 for Caffe, else ImageNet's")):
        parser.add_argument(
            f"--{name}",
            type=_three_numbers,
            metavar="A,B,C",
            help=f"of the original's input, in its order and range (default: {default})",
        )
    _options.add_threads(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    require("segnet-ext convert", "PIL")
    from segnet_ext.checkpoint import MODEL_TYPES, write_checkpoint
    from segnet_ext.convert import CAFFE_INPUT, SourceInput, class_set, convert_caffemodel, convert_state_dict

    _options.apply_threads(options)
    if options.out.suffix not in (".pt", ".safetensors"):
        raise InputError(f"--out must end in .pt or .safetensors, got {options.out}")
    if not options.source.is_file():
        raise InputError(f"{options.source} {'is not a file' if options.source.exists() else 'does not exist'}")
    caffe = options.source.suffix == ".caffemodel"
    source = _source(options, CAFFE_INPUT if caffe else SourceInput())
    if caffe:
        if (options.batch_norm == "training") != (options.statistics is not None):
            raise InputError("--batch-norm training and --statistics DIR go together")
        converted = convert_caffemodel(options.source, options.batch_norm, source)
    else:
        if options.batch_norm or options.statistics:
            raise InputError("--batch-norm and --statistics are for a .caffemodel")
        converted = convert_state_dict(options.source, source)
    classes = class_set(options.class_names, converted.num_classes)
    size = options.size or ((360, 480) if caffe else (352, 480))
    _options.check_size(size, converted.model, MODEL_TYPES[converted.model].minimum_size)
    if options.statistics is not None:
        batches = _Batches(options.statistics, size)
        converted = converted.with_statistics(_options.track(batches, len(batches), "statistics"))
    make_folder(options.out.parent)
    write_checkpoint(options.out, converted.checkpoint(classes, size))
    print(f"{options.source}: {converted.model}, {converted.num_classes} classes, as {options.out}")
    for text in converted.notes:
        print(text)
    return 0


class _Batches:
    """The images of a folder, four at a time, as the model takes them."""

    def __init__(self, folder: Path, size: tuple[int, int]) -> None:
        if not folder.is_dir():
            raise InputError(f"--statistics must be a folder, got {folder}")
        self.paths = sorted(path for path in folder.iterdir() if is_image(path))
        if not self.paths:
            raise InputError(f"--statistics {folder} has no image")
        self.size = size

    def __len__(self) -> int:
        return -(-len(self.paths) // _BATCH)

    def __iter__(self) -> Iterator[Tensor]:
        import numpy as np
        import torch

        from segnet_ext.data.images import normalize, read_image, resize_image

        for start in range(0, len(self.paths), _BATCH):
            images = [resize_image(read_image(path), self.size) for path in self.paths[start : start + _BATCH]]
            yield normalize(torch.from_numpy(np.stack(images)))


def _source(options: argparse.Namespace, default: SourceInput) -> SourceInput:
    given = {name: getattr(options, name) for name in ("channels", "range", "mean", "std")}
    given = {name: value for name, value in given.items() if value is not None}
    if 0 in given.get("std", ()):
        raise InputError("--std must not be 0")
    return replace(default, **given)


def _three_numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(abs(number) < 1e6 for number in numbers):
        raise argparse.ArgumentTypeError(f"must be three numbers such as 0.5,0.5,0.5, got {text!r}")
    return numbers
