"""The curves of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from segnet_ext.training import EpochResult

_LOSS, _LR = "#0b6e99", "#7a5195"
_SCORES = {
    "global_accuracy": ("global accuracy", "#0b6e99"),
    "class_average": ("class average", "#d9822b"),
    "mean_iou": ("mean IoU", "#b33a3a"),
}


def draw_curves(history: Sequence[EpochResult], file: BinaryIO) -> None:
    """Writes a PNG: loss, val scores and learning rate over epochs."""
    # Not pyplot, which would choose a display and keep figures.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    loss, scores, lr = figure.subplots(1, 3)
    epochs = [result.epoch for result in history]
    marker = "o" if len(epochs) <= 30 else ""
    style = {"marker": marker, "markersize": 3, "linewidth": 1.5}
    loss.plot(epochs, [result.loss for result in history], color=_LOSS, **style)
    loss.set_title("training loss")
    for name, (label, color) in _SCORES.items():
        scores.plot(epochs, [100 * getattr(result, name) for result in history], color=color, label=label, **style)
    best = max(history, key=lambda result: result.mean_iou)
    scores.axvline(best.epoch, color="grey", linewidth=0.8, linestyle=":")
    scores.set_title(f"val, percent; best mean IoU {100 * best.mean_iou:.2f} in epoch {best.epoch}")
    scores.legend(fontsize=8)
    lr.plot(epochs, [result.lr for result in history], color=_LR, **style)
    lr.set_title("learning rate")
    lr.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    for axes in (loss, scores, lr):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(0.5, max(epochs) + 0.5)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_size(10)
    loss.set_ylim(bottom=0)
    lr.set_ylim(bottom=0)
    figure.savefig(file, format="png", dpi=110)
