"""The loss, its two normalisations, and the class weights."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segnet_ext.data import ClassSet, MemoryDataset, camvid_dataset
from segnet_ext.errors import InputError
from segnet_ext.loss import loss_denominator, median_frequency_weights, segmentation_loss


def test_loss_is_divided_by_the_number_of_pixels():
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float32)
    target = torch.randint(0, 4, (2, 4, 5))  # 3 is void
    weights = torch.tensor([0.5, 2.0, 1.0])
    expected, pixels = 0.0, 0
    for n, y, x in np.ndindex(*target.shape):
        label = target[n, y, x].item()
        if label != 3:
            expected -= (weights[label] * logits[n, :, y, x].log_softmax(0)[label]).item()
            pixels += 1
    assert segmentation_loss(logits, target, weights).item() == pytest.approx(expected / pixels, rel=1e-5)
    by_weight = F.cross_entropy(logits, target, weights, ignore_index=3)
    assert segmentation_loss(logits, target, weights).item() != pytest.approx(by_weight.item(), rel=1e-3)
    torch.testing.assert_close(segmentation_loss(logits, target, weights, by="weights"), by_weight)


@pytest.mark.parametrize("by", ["pixels", "weights"])
def test_parts_of_a_batch_add_up(by):
    logits, target = torch.randn(4, 3, 4, 5), torch.randint(0, 4, (4, 4, 5))
    target[2:] = 3  # a part that is void but for a pixel
    target[3, 0, 0] = 1
    weights = torch.tensor([0.5, 2.0, 1.0])
    denominator = loss_denominator(target, weights, by)
    parts = [
        segmentation_loss(some, other, weights, denominator=denominator)
        for some, other in zip(logits.split(2), target.split(2), strict=True)
    ]
    torch.testing.assert_close(sum(parts), segmentation_loss(logits, target, weights, by))


def test_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="by must be one of pixels, weights, got 'area'"):
        segmentation_loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), torch.ones(2), by="area")


@pytest.mark.parametrize("by", ["pixels", "weights"])
def test_loss_of_void_alone_is_zero(by):
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 2, 2), 3), torch.ones(3), by)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


# ---- class weights


def test_median_frequency_by_hand():
    classes = ClassSet(("a", "b", "c", "nowhere"), ((0, 0, 0),) * 4)
    labels = [
        np.array([[0, 0], [0, 1]], np.uint8),  # a 3, b 1 of 4
        np.array([[0, 4], [2, 2]], np.uint8),  # a 1, c 2 of 4 (void counts as a pixel of the image)
    ]
    dataset = MemoryDataset([np.zeros((2, 2, 3), np.uint8)] * 2, labels, classes)
    # frequencies 4/8, 1/4, 2/4: median 1/2
    assert median_frequency_weights(dataset).tolist() == [1.0, 2.0, 1.0, 0.0]


def test_median_of_an_even_number_of_classes():
    labels = [np.array([[0, 0, 0, 1]], np.uint8)]  # frequencies 3/4 and 1/4: median 1/2
    dataset = MemoryDataset([np.zeros((1, 4, 3), np.uint8)], labels, ClassSet(("a", "b"), ((0, 0, 0),) * 2))
    assert median_frequency_weights(dataset).tolist() == pytest.approx([2 / 3, 2])


def test_labels_void_everywhere_are_refused():
    labels = [np.full((1, 4), 2, np.uint8)]
    dataset = MemoryDataset([np.zeros((1, 4, 3), np.uint8)], labels, ClassSet(("a", "b"), ((0, 0, 0),) * 2))
    with pytest.raises(InputError, match="void everywhere"):
        median_frequency_weights(dataset)


def test_real_camvid_weights():
    folder = os.environ.get("SEGNET_EXT_DATA")
    if not folder:
        pytest.skip("SEGNET_EXT_DATA does not name a folder that holds camvid/")
    weights = median_frequency_weights(camvid_dataset(Path(folder) / "camvid", "train"))
    expected = [0.2793, 0.2017, 4.7865, 0.1490, 1.0, 0.4217, 3.8467, 1.9736, 0.7889, 6.3747, 8.8587]
    assert weights.tolist() == pytest.approx(expected, abs=5e-5)
