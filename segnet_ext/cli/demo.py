"""``segnet-ext demo``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from segnet_ext.cli import _options
from segnet_ext.errors import require


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="train on drawn street scenes for a minute; needs no data",
        formatter_class=_options.HelpFormatter,
        description="Draws a small set of street scenes, trains SegNet-Basic on it, writes OUT/demo.png (input, truth "
        "and prediction side by side) and OUT/demo.pt (a checkpoint for segnet-ext predict), and compares this "
        "library's kernels with plain torch: time, peak memory and bytes kept for the backward pass.",
    )
    parser.add_argument(
        "--seconds",
        type=_options.positive,
        default=60,
        metavar="S",
        help="training time in seconds (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("segnet-demo"),
        metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )
    _options.add_threads(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    require("segnet-ext demo", "PIL", "tqdm", "torchmetrics")
    from segnet_ext.demo import run_demo

    _options.apply_threads(options)
    run_demo(options.seconds, options.out)
    return 0
