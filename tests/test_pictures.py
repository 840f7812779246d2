"""Sheets of predictions: which images, and where their maps stand."""

import math

import numpy as np

from segnet_ext.cli._sheet import choose
from segnet_ext.data import ClassSet
from segnet_ext.pictures import Row, prediction_sheet

CLASSES = ClassSet(("road", "rest"), ((255, 0, 0), (0, 255, 0)))


def test_a_sheet_shows_image_truth_and_prediction():
    row = Row(np.full((10, 36, 3), 77, np.uint8), np.zeros((10, 36), np.uint8), np.ones((10, 36), np.uint8), "name")
    sheet = np.asarray(prediction_sheet([row, row], CLASSES, "title"))
    tiles = [8 + column * (360 + 8) for column in range(3)]  # ten times as large, with gaps
    assert sheet.shape[1] == tiles[-1] + 360 + 8
    for top in (48 + 20, 48 + 20 + 100 + 8 + 20):
        for left, color in zip(tiles, ((77, 77, 77), (255, 0, 0), (0, 255, 0)), strict=True):
            assert (sheet[top : top + 100, left : left + 360] == color).all()
    small = prediction_sheet(
        [Row(np.zeros((1000, 3600, 3), np.uint8), *[np.zeros((1000, 3600), np.uint8)] * 2)], CLASSES
    )
    assert small.width == len(sheet[0])


def test_the_worst_and_some_others_are_chosen():
    scores = [0.5, 0.1, 0.9, math.nan, 0.3, 0.8, 0.2, 0.7, 0.6, 0.95, 0.55]
    assert choose(scores) == ([1, 6, 4, 0], [2, 5, 8, 10])
    assert choose([0.2, 0.1]) == ([1, 0], [])
    assert choose([0.2, math.nan, 0.1, 0.4, 0.3]) == ([2, 0, 4, 3], [1])
