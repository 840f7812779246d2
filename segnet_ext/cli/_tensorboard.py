"""Event files of a training run, for TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segnet_ext.errors import InputError

if TYPE_CHECKING:
    from segnet_ext.training import EpochResult

_TAGS = {
    "train/loss": "loss",
    "train/lr": "lr",
    "train/images_per_second": "images_per_second",
    "val/global_accuracy": "global_accuracy",
    "val/class_average": "class_average",
    "val/mean_iou": "mean_iou",
}


@contextlib.contextmanager
def event_files(folder: Path, history: Sequence[EpochResult]) -> Iterator[Callable[[EpochResult], None]]:
    """Yields a function that writes an epoch to ``folder``, under its number as the step.

    Args:
        folder: may have event files of the run; TensorBoard then forgets what they say of epochs after the history.
        history: the epochs that are done. They are written first where the folder has no event files.

    Raises:
        InputError: the files cannot be written, or the disk is full.
    """
    from torch.utils.tensorboard import SummaryWriter

    known = any(folder.glob("events.out.tfevents.*"))
    with _as_input_error(folder):
        writer = SummaryWriter(str(folder), purge_step=len(history) + 1 if known else None)

    def write(result: EpochResult) -> None:
        with _as_input_error(folder):
            for tag, name in _TAGS.items():
                writer.add_scalar(tag, getattr(result, name), result.epoch)
            writer.flush()

    try:
        for result in () if known else history:
            write(result)
        yield write
    finally:
        with _as_input_error(folder):
            writer.close()


@contextlib.contextmanager
def _as_input_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}") from error
