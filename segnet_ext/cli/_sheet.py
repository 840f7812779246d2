"""A picture of what a model makes of chosen images of a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from segnet_ext._files import write_atomically
from segnet_ext.data import SegmentationDataset
from segnet_ext.pictures import Row, prediction_sheet
from segnet_ext.training import predict_classes

# How many images with the lowest mean IoU are shown, and how many at equal distances among the others.
WORST, SPREAD = 4, 4


def write_sheet(path: Path, model: nn.Module, dataset: SegmentationDataset, mean_iou: Sequence[float], of: str) -> None:
    """Writes a PNG with input, truth and prediction of the images that the model labels worst, and of some others.

    Args:
        path: the file.
        model: of the data set's classes.
        dataset: its images are of one size.
        mean_iou: of each image, NaN for one that is all void.
        of: what the images are of, for the title.
    """
    worst, others = choose(mean_iou)
    model.eval()
    rows = []
    for index in (*worst, *others):
        image, truth = dataset.load(index)
        device = next(model.parameters()).device
        predicted = predict_classes(model, torch.from_numpy(np.ascontiguousarray(image))[None].to(device))
        score = "all void" if math.isnan(mean_iou[index]) else f"mIoU {100 * mean_iou[index]:.2f} %"
        rows.append(Row(image, truth, predicted[0].cpu().numpy().astype(np.uint8), f"{dataset.name(index)}   {score}"))
    title = f"{of}: the {len(worst)} of {len(mean_iou)} images with the lowest mIoU"
    if others:
        title += f", and {len(others)} at equal distances among the others"
    sheet = prediction_sheet(rows, dataset.classes, title)
    write_atomically(path, lambda file: sheet.save(file, format="PNG"))


def choose(mean_iou: Sequence[float]) -> tuple[list[int], list[int]]:
    """The images with the lowest scores, lowest first, and images at equal distances among the others, in order."""
    ranked = sorted(range(len(mean_iou)), key=lambda index: (math.isnan(mean_iou[index]), mean_iou[index]))
    worst, rest = ranked[:WORST], sorted(ranked[WORST:])
    places = np.linspace(0, len(rest) - 1, min(SPREAD, len(rest))).round().astype(int)
    return worst, [rest[place] for place in places]
