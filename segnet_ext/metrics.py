"""Segmentation scores as in the SegNet paper: global accuracy, class average accuracy and mean IoU."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from segnet_ext.errors import require


@dataclass(frozen=True)
class Scores:
    """Scores between 0 and 1, taken over all pixels of a data set that are not void.

    Attributes:
        global_accuracy: share of pixels whose class is right (G).
        class_average: mean of ``accuracy`` over the classes that occur in the truth (C).
        mean_iou: mean of ``iou`` over the classes that occur in the truth or in the prediction (mIoU).
        accuracy: [K], share of a class's true pixels that are found; NaN for a class absent from the truth.
        iou: [K], intersection over union; NaN for a class absent from truth and prediction.
        pixels: [K], true pixels of each class.
    """

    global_accuracy: float
    class_average: float
    mean_iou: float
    accuracy: torch.Tensor
    iou: torch.Tensor
    pixels: torch.Tensor


class SegmentationScores:
    """Gathers a confusion matrix (torchmetrics) over batches and computes ``Scores`` from it.

    >>> scores = SegmentationScores(num_classes=2)
    >>> scores.update(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 2]))  # label 2 is void
    >>> round(scores.compute().global_accuracy, 4)
    0.6667
    """

    def __init__(self, num_classes: int) -> None:
        require("segnet_ext.metrics", "torchmetrics")
        from torchmetrics.classification import MulticlassConfusionMatrix

        # Labels are checked where they are read; torchmetrics' own check would sort every map again.
        self._matrix = MulticlassConfusionMatrix(num_classes, ignore_index=num_classes, validate_args=False)

    def update(self, predicted: torch.Tensor, truth: torch.Tensor) -> None:
        """Adds class maps of one shape, with values 0 to K-1; K is void in ``truth``."""
        self._matrix.update(predicted, truth)

    def compute(self) -> Scores:
        return scores_from_confusion(self._matrix.compute())


def scores_from_confusion(matrix: torch.Tensor) -> Scores:
    """Scores of a confusion matrix [K, K] that counts pixels by (truth, prediction)."""
    matrix = matrix.double()
    right, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    accuracy = right / true
    iou = right / (true + predicted - right)
    return Scores(
        global_accuracy=(right.sum() / matrix.sum()).item(),
        class_average=accuracy.nanmean().item(),
        mean_iou=iou.nanmean().item(),
        accuracy=accuracy,
        iou=iou,
        pixels=true.long(),
    )
