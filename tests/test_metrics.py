"""Scores against values worked out by hand."""

import math

import numpy as np
import pytest
import torch

from segnet_ext.metrics import BoundaryScores, ImageScores, SegmentationScores, scores_from_confusion


def test_scores_by_hand():
    truth = torch.tensor([[0, 0, 0, 1], [1, 1, 2, 3]])  # 3 is void
    predicted = torch.tensor([[0, 0, 1, 1], [1, 2, 2, 0]])
    scores = SegmentationScores(3)
    scores.update(predicted[:1], truth[:1])
    scores.update(predicted[1:], truth[1:])
    result = scores.compute()
    # class 0: 2 of 3 found, union 3; class 1: 2 of 3 found, union 4; class 2: 1 of 1 found, union 2
    assert result.global_accuracy == pytest.approx(5 / 7)
    assert result.accuracy.tolist() == pytest.approx([2 / 3, 2 / 3, 1])
    assert result.iou.tolist() == pytest.approx([2 / 3, 1 / 2, 1 / 2])
    assert result.class_average == pytest.approx(7 / 9)
    assert result.mean_iou == pytest.approx(5 / 9)
    assert result.pixels.tolist() == [3, 3, 1]
    assert result.confusion.tolist() == [[2, 1, 0], [0, 2, 1], [0, 0, 1]]


def test_absent_classes_are_left_out():
    # Class 2 is only predicted: no accuracy, but an IoU of 0. Class 3 is nowhere: neither.
    matrix = torch.tensor([[2, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    result = scores_from_confusion(matrix)
    assert result.class_average == pytest.approx((2 / 3 + 1) / 2)
    assert result.mean_iou == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert math.isnan(result.accuracy[2]) and math.isnan(result.accuracy[3])
    assert result.iou[2] == 0 and math.isnan(result.iou[3])


def test_scores_of_each_image():
    truth = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 1, 3]], [[3, 3, 3, 3]]])  # 3 is void
    predicted = torch.tensor([[[0, 0, 1, 1]], [[0, 2, 1, 1]], [[0, 1, 2, 0]]])
    scores = ImageScores(3)
    scores.update(predicted[:2], truth[:2])
    scores.update(predicted[2:], truth[2:])
    assert scores.mean_iou == pytest.approx([1, (1 / 2 + 1 + 0) / 3, math.nan], nan_ok=True)


def test_all_void_has_no_scores():
    scores = SegmentationScores(2)
    scores.update(torch.tensor([0, 1]), torch.tensor([2, 2]))
    result = scores.compute()
    assert math.isnan(result.global_accuracy) and math.isnan(result.mean_iou) and math.isnan(result.class_average)


# ---- boundary F1


def boundary(predicted, truth, num_classes, reach):
    """With a tolerance of ``reach`` pixels."""
    predicted, truth = torch.as_tensor(predicted), torch.as_tensor(truth)
    scores = BoundaryScores(num_classes, tolerance=reach / np.hypot(*truth.shape[1:]))
    scores.update(predicted, truth)
    return scores.compute()


def by_definition(predicted, truth, label, void, reach):
    """F1 of one class of one image: pixel after pixel, and all distances."""

    def edge(labels):
        found = []
        for y, x in np.argwhere(labels == label):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [(a, b) for a, b in around if 0 <= a < labels.shape[0] and 0 <= b < labels.shape[1]]
            if any(labels[a, b] not in (label, void) for a, b in inside):
                found.append((y, x))
        return np.array(found).reshape(-1, 2)

    true, guessed = edge(truth), edge(np.where(truth == void, void, predicted))
    if not len(true) and not len(guessed):
        return math.nan
    if not len(true) or not len(guessed):
        return 0.0
    far = np.linalg.norm(true[:, None] - guessed[None], axis=-1) > reach
    recall, precision = 1 - far.all(1).mean(), 1 - far.all(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("reach", [0.5, 1.1, 1.5])
def test_boundary_f1_is_the_definition(reach):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 5, (3, 4, 5))  # 4 is void
    truth = coarse.repeat(3, 1).repeat(4, 2)
    predicted = np.roll(np.where(truth == 4, 0, truth), (1, 2), (1, 2))
    predicted[rng.random(truth.shape) < 0.05] = 2
    truth[0][truth[0] == 3] = 1  # not in the first image's truth: does not count there
    expected = np.full((3, 4), np.nan)
    for image, label in np.ndindex(3, 4):
        if (truth[image] == label).any():
            expected[image, label] = by_definition(predicted[image], truth[image], label, 4, reach)
    result = boundary(predicted, truth, 4, reach)
    assert result.mean == pytest.approx(np.nanmean(np.nanmean(expected, 1)))
    assert result.per_class.tolist() == pytest.approx(np.nanmean(expected, 0).tolist())
    assert 0 < result.mean < 1


def test_boundaries_match_within_the_tolerance():
    truth = np.zeros((1, 30, 40), np.int64)
    truth[:, :, 20:] = 1
    moved = np.roll(truth, 2, 2)
    moved[:, :, :2] = 0
    assert boundary(truth, truth, 2, reach=0).mean == 1
    assert boundary(moved, truth, 2, reach=2.1).mean == 1
    assert boundary(moved, truth, 2, reach=1.9).mean == 0


def test_the_border_of_void_is_no_boundary():
    truth = np.zeros((1, 10, 10), np.int64)
    truth[:, 3:6] = 2  # void
    assert math.isnan(boundary(np.zeros_like(truth), truth, 2, 1).mean)
    guess = np.zeros_like(truth)
    guess[:, 3:6] = 1  # in void: not looked at
    assert math.isnan(boundary(guess, truth, 2, 1).mean)
    guess[:, 8:] = 1
    assert boundary(guess, truth, 2, 1).per_class.tolist() == pytest.approx([0.0, math.nan], nan_ok=True)


def test_the_default_tolerance_is_the_papers():
    truth = np.zeros((1, 360, 480), np.int64)
    truth[:, :, 100:] = 1  # 0.75 percent of the diagonal of 600 are 4.5 pixels
    for shift, expected in ((4, 1.0), (5, 0.0)):
        guess = np.zeros_like(truth)
        guess[:, :, 100 + shift :] = 1
        scores = BoundaryScores(2)
        scores.update(torch.from_numpy(guess), torch.from_numpy(truth))
        assert scores.compute().mean == expected
