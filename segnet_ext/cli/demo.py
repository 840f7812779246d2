"""``segnet-ext demo``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from segnet_ext.cli import _options
from segnet_ext.errors import InputError, require

_SECONDS = 60


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="train on drawn street scenes for a minute, or label your own images; needs no data",
        formatter_class=_options.HelpFormatter,
        description="Draws a small set of street scenes, trains SegNet-Basic on it, writes OUT/demo.png (input, truth "
        "and prediction side by side) and OUT/demo.pt (a checkpoint for segnet-ext predict), and compares this "
        "library's kernels with plain torch: time, peak memory and bytes kept for the backward pass. With --image "
        "nothing is trained: OUT/demo.png shows what the trained SegNet-Basic that comes with the package sees in "
        "these images.",
    )
    parser.add_argument(
        "--seconds",
        type=_options.positive,
        metavar="S",
        help=f"training time in seconds (default: {_SECONDS})",
    )
    parser.add_argument(
        "--image", type=Path, nargs="+", metavar="FILE", help="street scenes of your own to label, not to train"
    )
    _options.add_out(parser, "segnet-demo")
    _options.add_threads(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    require("segnet-ext demo", "PIL", "tqdm", "torchmetrics")
    from segnet_ext.demo import label_images, run_demo

    _options.apply_threads(options)
    if options.image is None:
        run_demo(options.seconds or _SECONDS, options.out)
    elif options.seconds is None:
        label_images(options.image, options.out)
    else:
        raise InputError("--seconds is for training, which --image leaves out")
    return 0
