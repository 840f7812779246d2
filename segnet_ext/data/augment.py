"""Random changes to training samples: mirroring, scale, crop and colour, decided by a seed alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from segnet_ext.data.images import IMAGENET_MEAN, Bytes

# What lies outside an image that is smaller than the crop: ImageNet's mean, which normalises to about 0.
_PADDING = tuple(round(255 * mean) for mean in IMAGENET_MEAN)

# Brightness, contrast and saturation, each around 1.
_ENHANCEMENTS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training sample.

    Attributes:
        flip: mirror left to right, half of the time.
        scale: smallest and largest factor that image and labels are scaled by; as likely to halve as to double.
        crop: (height, width) of the part that is kept, at a random place; where the scaled sample is smaller, it is
            placed at random on void. None keeps the size that the sample had before scaling.
        color: brightness, contrast and saturation are each multiplied by a factor from 1 - color to 1 + color, in
            random order; 0 to below 1.

    Raises:
        ValueError: a value outside those.
    """

    flip: bool = True
    scale: tuple[float, float] = (1.0, 1.0)
    crop: tuple[int, int] | None = None
    color: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high < np.inf:
            raise ValueError(f"Augmentation: scale must be two factors above 0, the smaller first, got {self.scale}")
        if self.crop is not None and min(self.crop) < 1:
            raise ValueError(f"Augmentation: crop must be a height and a width of at least 1, got {self.crop}")
        if not 0 <= self.color < 1:
            raise ValueError(f"Augmentation: color must be from 0 to below 1, got {self.color}")

    def apply(
        self,
        load: Callable[[float], tuple[Bytes, Bytes]],
        size: tuple[int, int],
        void: int,
        random: np.random.Generator,
    ) -> tuple[Bytes, Bytes]:
        """One changed sample.

        Args:
            load: gives the image, uint8 RGB [H, W, 3], and its labels, uint8 [H, W], scaled by a factor.
            size: (height, width) of the sample at factor 1.
            void: the label of what lies outside the image.
            random: decides everything.

        Returns:
            uint8 [h, w, 3] and uint8 [h, w], of the size of ``crop``, else of ``size``.
        """
        # Drawn in log space, and drawn whether used or not: a setting does not change what the others do.
        low, high = np.log(self.scale)
        factor = float(np.exp(random.uniform(low, high)))
        mirrored = random.random() < 0.5
        place = random.random(2)
        image, label = load(factor if low < high else self.scale[0])
        image, label = _cut(image, label, self.crop or size, void, place)
        if self.flip and mirrored:
            image, label = image[:, ::-1], label[:, ::-1]
        if self.color:
            image = _recolor(image, self.color, random)
        return image, label


def _cut(image: Bytes, label: Bytes, size: tuple[int, int], void: int, place: np.ndarray) -> tuple[Bytes, Bytes]:
    """A window of ``size``; ``place`` in [0, 1) says where it lies, or in it the image where that is smaller."""
    if label.shape == size:
        return image, label
    source: list[slice] = []
    target: list[slice] = []
    for have, want, where in zip(label.shape, size, place, strict=True):
        start = int(where * (abs(have - want) + 1))
        kept = min(have, want)
        source.append(slice(start, start + kept) if have > want else slice(0, kept))
        target.append(slice(0, kept) if have > want else slice(start, start + kept))
    cut_image = np.full((*size, 3), _PADDING, np.uint8)
    cut_label = np.full(size, void, np.uint8)
    cut_image[target[0], target[1]] = image[source[0], source[1]]
    cut_label[target[0], target[1]] = label[source[0], source[1]]
    return cut_image, cut_label


def _recolor(image: Bytes, strength: float, random: np.random.Generator) -> Bytes:
    picture = Image.fromarray(np.ascontiguousarray(image))
    factors = random.uniform(1 - strength, 1 + strength, len(_ENHANCEMENTS))
    for which in random.permutation(len(_ENHANCEMENTS)):
        picture = _ENHANCEMENTS[which](picture).enhance(float(factors[which]))
    return np.array(picture)
