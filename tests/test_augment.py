"""Mirroring, scaling, cropping and colouring of training samples."""

import functools

import numpy as np
import pytest
import torch
from camvid_layout import write_camvid

from segnet_ext.data import CAMVID, Augmentation, MemoryDataset, camvid_dataset, synthetic_dataset
from segnet_ext.data.images import normalize, read_image


def augmented(dataset, seed, **changes):
    """The first sample, changed."""
    random = np.random.default_rng(seed)
    load = functools.partial(dataset.load, 0)
    return Augmentation(**changes).apply(load, dataset.sample_size(0), dataset.classes.void, random)


def plain(size: tuple[int, int], level: int = 100, label: int = 0) -> MemoryDataset:
    return MemoryDataset([np.full((*size, 3), level, np.uint8)], [np.full(size, label, np.uint8)], CAMVID)


def test_mirrors_half_of_the_samples():
    dataset = synthetic_dataset(1, (16, 24))
    image, label = dataset.load(0)
    mirrored = 0
    for seed in range(40):
        new_image, new_label = augmented(dataset, seed)
        if not np.array_equal(new_image, image):
            assert np.array_equal(new_image, image[:, ::-1]) and np.array_equal(new_label, label[:, ::-1])
            mirrored += 1
    assert 10 <= mirrored <= 30
    assert all(np.array_equal(augmented(dataset, seed, flip=False)[0], image) for seed in range(10))


def test_crop_is_a_part_of_image_and_labels():
    numbers = np.arange(20 * 30).reshape(20, 30)
    image = np.stack([numbers // 256, numbers % 256, 0 * numbers], -1).astype(np.uint8)
    dataset = MemoryDataset([image], [(numbers % 7).astype(np.uint8)], CAMVID)
    starts = set()
    for seed in range(90):
        part, label = augmented(dataset, seed, flip=False, crop=(18, 28))
        top, left = divmod(256 * int(part[0, 0, 0]) + int(part[0, 0, 1]), 30)
        assert np.array_equal(part, image[top : top + 18, left : left + 28])
        assert np.array_equal(label, dataset.labels[0][top : top + 18, left : left + 28])
        starts.add((top, left))
    assert starts == {(top, left) for top in range(3) for left in range(3)}


def test_a_small_sample_lies_on_void():
    for seed in range(10):
        image, label = augmented(plain((8, 12), 9, label=5), seed, flip=False, scale=(0.5, 0.5), crop=(10, 5))
        assert image.shape == (10, 5, 3)
        assert (label == 5).sum() == 4 * 5 and (label == 11).sum() == 10 * 5 - 4 * 5
        assert (image[label == 5] == 9).all()
        outside = normalize(torch.from_numpy(image[None]))[0, :, torch.from_numpy(label == 11)]
        assert outside.abs().max() < 0.01


def test_scales_are_spread_over_the_range():
    dataset, factors = plain((40, 40)), []

    def load(factor):
        factors.append(factor)
        return dataset.load(0, factor)

    for seed in range(60):
        image, _ = Augmentation(scale=(0.5, 2)).apply(load, (40, 40), 11, np.random.default_rng(seed))
        assert image.shape == (40, 40, 3)
    assert 0.5 <= min(factors) < 0.6 and 1.7 < max(factors) <= 2
    assert 20 <= sum(factor < 1 for factor in factors) <= 40, "halving is as likely as doubling"


def test_files_are_scaled_from_the_stored_pixels(tmp_path):
    dataset = camvid_dataset(write_camvid(tmp_path, size=(24, 32)), "train", (12, 16))
    image, label = dataset.load(0, 2.0)
    assert np.array_equal(image, read_image(dataset.pairs[0][0]))
    assert np.array_equal(label, dataset.load_label(0))


def test_color_keeps_to_its_range():
    levels = []
    for seed in range(40):
        image, label = augmented(plain((4, 4)), seed, color=0.4)
        assert not label.any() and len(np.unique(image)) == 1, "of plain grey only the brightness changes"
        levels.append(int(image[0, 0, 0]))
    assert 60 <= min(levels) < 75 and 125 < max(levels) <= 140


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"scale": (0, 1)}, "scale must be two factors above 0"),
        ({"scale": (2, 1)}, "scale must be two factors above 0"),
        ({"crop": (0, 4)}, "crop must be a height and a width"),
        ({"color": 1}, "color must be from 0 to below 1, got 1"),
    ],
)
def test_bad_changes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**changes)
