"""Argument types and options that several commands share."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch

import segnet_ext
from segnet_ext.errors import InputError
from segnet_ext.pretrained import pretrained_files

T = TypeVar("T")


class HelpFormatter(argparse.HelpFormatter):
    """Leaves room for long option names."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)


def size(text: str) -> tuple[int, int]:
    """Reads ``HxW``."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be HxW, height and width in pixels such as 360x480, got {text!r}")
    return int(match[1]), int(match[2])


def scales(text: str) -> tuple[float, float]:
    """Reads ``MIN:MAX``."""
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low, high = 0.0, 0.0
    if not 0 < low <= high < math.inf:
        raise argparse.ArgumentTypeError(f"must be MIN:MAX, two factors above 0 such as 0.5:2, got {text!r}")
    return low, high


def _number(convert: Callable[[str], Any], accept: Callable[[Any], bool], must_be: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not accept(value):
            raise argparse.ArgumentTypeError(f"must be {must_be}, got {text!r}")
        return value

    return parse


count = _number(int, lambda value: value >= 1, "a whole number of at least 1")
count_or_zero = _number(int, lambda value: value >= 0, "a whole number of at least 0")
seed = _number(int, lambda value: 0 <= value < 2**63, "a whole number from 0 to 2^63-1")
positive = _number(float, lambda value: 0 < value < math.inf, "a number above 0")
not_negative = _number(float, lambda value: 0 <= value < math.inf, "a number of at least 0")
fraction = _number(float, lambda value: 0 <= value < 1, "a number from 0 to below 1")


# As segnet_ext.data.DATASETS, which needs Pillow.
DATASETS = ("camvid", "camvid32", "camvid32-to-11", "sunrgbd", "folder")


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with the data set: CamVid as SegNet's authors publish it or its release in 32 colours, SUN RGB-D, "
        "or images and label maps with a classes.json",
    )
    parser.add_argument(
        "--dataset",
        choices=DATASETS,
        metavar="NAME",
        help=f"what DIR holds: {', '.join(DATASETS)}; camvid32-to-11 groups the classes of CamVid's release into "
        "SegNet's eleven (default: by what is in DIR, camvid32 for the release)",
    )


def add_out(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(default),
        metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )


def weights(text: str) -> Path:
    """A file, or that of weights that come with the package."""
    return pretrained_files().get(text) or Path(text)


def add_weights(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Adds ``--weights``; ``default`` is a name in ``pretrained_files``."""
    parser.add_argument(
        "--weights",
        type=weights,
        required=default is None,
        default=default,
        metavar="FILE",
        help="checkpoint of segnet-ext train or convert, or the name of weights that come with the package: "
        f"{', '.join(pretrained_files())}" + (f" (default: {default})" if default else ""),
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=count, metavar="T", help="CPU threads to compute with (default: as torch chooses)"
    )


def add_workers(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--workers",
        type=count_or_zero,
        default=min(2, os.cpu_count() or 1),
        metavar="W",
        help="processes that read images; 0 reads in the main one; the result is the same (default: %(default)s)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="what to compute on (default: cuda where there is one, else cpu)"
    )


def device(options: argparse.Namespace) -> torch.device:
    found, built = torch.cuda.is_available(), segnet_ext.build_info()["cuda"] is not None
    if options.device == "cuda" and not (found and built):
        reason = "segnet_ext was built without CUDA" if found else "torch finds no CUDA device here"
        raise InputError(f"--device cuda: {reason}")
    return torch.device(options.device or ("cuda" if found and built else "cpu"))


def apply_threads(options: argparse.Namespace) -> None:
    if options.threads is not None:
        torch.set_num_threads(options.threads)


def check_size(size: tuple[int, int], model: str, minimum: int, flag: str = "--size") -> None:
    if min(size) < minimum:
        raise InputError(f"{flag} must be at least {minimum}x{minimum} for {model}, got {size[0]}x{size[1]}")


def size_text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def note(text: str) -> None:
    """A line about progress."""
    print(text, file=sys.stderr, flush=True)


def progress_bar(total: int, label: str, done: int = 0, shown: bool = True) -> Any:
    """A tqdm bar on stderr that counts images, of which some may be done; where stderr is no terminal it writes a line
    now and then."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    interactive = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        disable=not shown,
        desc=label,
        unit=" images",
        leave=False,
        mininterval=0.2 if interactive else 30,
        delay=0 if interactive else 30,
        dynamic_ncols=interactive,
        file=sys.stderr,
    )


def track(items: Iterable[T], total: int, label: str) -> Iterable[T]:
    """``items``, with a progress bar."""
    with progress_bar(total, label) as bar:
        for item in items:
            yield item
            bar.update()
