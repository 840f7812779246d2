"""Scores against values worked out by hand."""

import math

import pytest
import torch

from segnet_ext.metrics import SegmentationScores, scores_from_confusion


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


def test_absent_classes_are_left_out():
    # Class 2 is only predicted: no accuracy, but an IoU of 0. Class 3 is nowhere: neither.
    matrix = torch.tensor([[2, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    result = scores_from_confusion(matrix)
    assert result.class_average == pytest.approx((2 / 3 + 1) / 2)
    assert result.mean_iou == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert math.isnan(result.accuracy[2]) and math.isnan(result.accuracy[3])
    assert result.iou[2] == 0 and math.isnan(result.iou[3])


def test_all_void_has_no_scores():
    scores = SegmentationScores(2)
    scores.update(torch.tensor([0, 1]), torch.tensor([2, 2]))
    result = scores.compute()
    assert math.isnan(result.global_accuracy) and math.isnan(result.mean_iou) and math.isnan(result.class_average)
