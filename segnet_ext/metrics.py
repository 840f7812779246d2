"""Segmentation scores as in the SegNet paper: global accuracy, class average accuracy, mean IoU and boundary F1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from segnet_ext.distributed import ALONE, Processes
from segnet_ext.errors import require

# Boundaries this share of the image's diagonal apart still match (SegNet paper, section 4).
BOUNDARY_TOLERANCE = 0.0075


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
        confusion: int64 [K, K], pixels by (truth, prediction).
    """

    global_accuracy: float
    class_average: float
    mean_iou: float
    accuracy: torch.Tensor
    iou: torch.Tensor
    pixels: torch.Tensor
    confusion: torch.Tensor


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

        # Labels are checked where they are read; torchmetrics' own check would sort every map again. What several
        # processes have gathered is added below, since torchmetrics would want it on a GPU for NCCL.
        self._matrix = MulticlassConfusionMatrix(
            num_classes, ignore_index=num_classes, validate_args=False, sync_on_compute=False
        )

    def update(self, predicted: torch.Tensor, truth: torch.Tensor) -> None:
        """Adds class maps of one shape, with values 0 to K-1; K is void in ``truth``."""
        self._matrix.update(predicted, truth)

    def compute(self, processes: Processes = ALONE) -> Scores:
        """The scores of all that was added, in all of these processes."""
        return scores_from_confusion(processes.sum(self._matrix.confmat))


def scores_from_confusion(matrix: torch.Tensor) -> Scores:
    """Scores of a confusion matrix [K, K] that counts pixels by (truth, prediction)."""
    confusion, matrix = matrix.long(), matrix.double()
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
        confusion=confusion,
    )


class ImageScores:
    """Gathers the mean IoU of each image alone, over the classes in its truth or prediction.

    Attributes:
        mean_iou: of the images in the order in which they were added; NaN for one that is all void.

    >>> scores = ImageScores(num_classes=2)
    >>> scores.update(torch.tensor([[[0, 0, 1, 1]], [[0, 0, 0, 0]]]), torch.tensor([[[0, 0, 1, 1]], [[0, 1, 2, 2]]]))
    >>> scores.mean_iou
    [1.0, 0.25]
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.mean_iou: list[float] = []

    def update(self, predicted: torch.Tensor, truth: torch.Tensor) -> None:
        """Adds class maps [N, H, W] with values 0 to K-1; K is void in ``truth``."""
        k = self.num_classes
        for guess, true in zip(predicted, truth, strict=True):
            seen = true != k
            pairs = (k * true[seen] + guess[seen]).bincount(minlength=k * k)
            self.mean_iou.append(scores_from_confusion(pairs.view(k, k)).mean_iou)


@dataclass(frozen=True)
class BoundaryF1:
    """Boundary F1 between 0 and 1.

    Attributes:
        mean: mean over images of the mean over the classes in each image's truth (BF); NaN if no image has one.
        per_class: [K], mean over the images whose truth has the class; NaN if none has.
    """

    mean: float
    per_class: torch.Tensor


class BoundaryScores:
    """Gathers the boundary F1 of each image and class, as the SegNet paper averages it (section 4; Csurka et al., "What
    is a good evaluation measure for semantic segmentation?", BMVC 2013).

    A pixel is on its class's boundary if one of its four neighbours is of another class. Precision is the share of the
    predicted boundary that lies within ``tolerance`` of the true one, recall the reverse, F1 their harmonic mean. Only
    classes in an image's truth count there, and of them those that have a boundary in truth or prediction. Void pixels
    are taken out of the prediction, too, and the border of void is no boundary.

    Args:
        num_classes: K.
        tolerance: as a share of the image's diagonal.

    >>> scores = BoundaryScores(num_classes=2)
    >>> scores.update(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 1]]]))
    >>> scores.compute().mean
    0.0
    """

    def __init__(self, num_classes: int, tolerance: float = BOUNDARY_TOLERANCE) -> None:
        require("segnet_ext.metrics.BoundaryScores", "scipy")
        self.num_classes = num_classes
        self.tolerance = tolerance
        self._images: list[NDArray[np.float64]] = []

    def update(self, predicted: torch.Tensor, truth: torch.Tensor) -> None:
        """Adds class maps [N, H, W] with values 0 to K-1; K is void in ``truth``."""
        for one, other in zip(predicted.cpu().numpy(), truth.cpu().numpy(), strict=True):
            self._images.append(self._image_scores(one, other))

    def compute(self) -> BoundaryF1:
        scores = torch.from_numpy(np.reshape(self._images, (-1, self.num_classes)))
        return BoundaryF1(mean=scores.nanmean(1).nanmean().item(), per_class=scores.nanmean(0))

    def _image_scores(self, predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
        """F1 of each class, NaN where it does not count: [K]."""
        void = self.num_classes
        reach = self.tolerance * float(np.hypot(*truth.shape))
        predicted = np.where(truth == void, void, predicted)
        true_edges, predicted_edges = _edges(truth, void), _edges(predicted, void)
        scores = np.full(self.num_classes, np.nan)
        for label in np.unique(truth[truth != void]):
            true, guessed = true_edges & (truth == label), predicted_edges & (predicted == label)
            if true.any() and guessed.any():
                precision, recall = _share_near(guessed, true, reach), _share_near(true, guessed, reach)
                scores[label] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
            elif true.any() or guessed.any():
                scores[label] = 0.0
        return scores


def _edges(labels: NDArray[np.int64], void: int) -> NDArray[np.bool_]:
    """Pixels beside which, above, below, left or right, lies another class; [H, W]."""
    edges = np.zeros(labels.shape, bool)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = (labels[one] != labels[other]) & (labels[one] != void) & (labels[other] != void)
        edges[one] |= differ
        edges[other] |= differ
    return edges


def _share_near(these: NDArray[np.bool_], those: NDArray[np.bool_], reach: float) -> float:
    """The share of the pixels of ``these`` that are at most ``reach`` from one of ``those``; neither is empty."""
    from scipy.ndimage import distance_transform_edt  # type: ignore[import-untyped]

    rows, columns = (np.flatnonzero((these | those).any(axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return float((distance_transform_edt(~those[box])[these[box]] <= reach).mean())
