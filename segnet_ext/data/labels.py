"""What the pixels of label files stand for, where they are not simply the classes' numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segnet_ext.classes import Color
from segnet_ext.data.images import Bytes, read_label_colors, read_label_values
from segnet_ext.errors import InputError


class LabelTable(ABC):
    """Reads label files to uint8 [H, W]: 0 to K-1, or K for void."""

    @abstractmethod
    def read(self, path: Path) -> Bytes:
        """The labels of a file.

        Raises:
            InputError: the file cannot be read, or has a pixel that the table lacks; names the file and the place.
        """

    @abstractmethod
    def key(self) -> str:
        """The table as text, the same for equal tables."""


@dataclass(frozen=True)
class ValueLabels(LabelTable):
    """By pixel value (in palette files, by index).

    Attributes:
        classes: the label, 0 to 255, of each value.
        source: what defines the values, as messages name it.
    """

    classes: Mapping[int, int]
    source: str

    def read(self, path: Path) -> Bytes:
        return self.translate(read_label_values(path), str(path))

    def translate(self, values: NDArray[Any], subject: str) -> Bytes:
        """The label of each of the values [H, W]. ``subject`` is what has them, as messages name it."""
        labels, known = _look_up(values, self.classes)
        if not known.all():
            row, column = np.argwhere(~known)[0]
            raise InputError(
                f"{subject} has the label {values[row, column]} at row {row}, column {column}, "
                f"which {self.source} does not have"
            )
        return labels

    def key(self) -> str:
        return repr(sorted(self.classes.items()))


@dataclass(frozen=True)
class ColorLabels(LabelTable):
    """By colour.

    Attributes:
        classes: the label, 0 to 255, of each colour.
        source: what defines the colours, as messages name it.
        damaged: names of files that are known to have other colours, and the label of those.
    """

    classes: Mapping[Color, int]
    source: str
    damaged: Mapping[str, int] = field(default_factory=dict)

    def read(self, path: Path) -> Bytes:
        pixels = read_label_colors(path)
        codes = pixels.astype(np.int32) @ np.array((1 << 16, 1 << 8, 1), np.int32)
        by_code = {red << 16 | green << 8 | blue: label for (red, green, blue), label in self.classes.items()}
        labels, known = _look_up(codes, by_code)
        if not known.all():
            if path.name not in self.damaged:
                row, column = np.argwhere(~known)[0]
                color = tuple(pixels[row, column].tolist())
                raise InputError(
                    f"{path} has the colour {color} at row {row}, column {column}, which {self.source} does not have"
                )
            labels[~known] = self.damaged[path.name]
        return labels

    def key(self) -> str:
        return repr(sorted(self.classes.items()))


def _look_up(values: NDArray[Any], table: Mapping[int, int]) -> tuple[Bytes, NDArray[np.bool_]]:
    """The table's label of each value, and whether it has one."""
    keys = np.array(sorted(table))
    places = np.searchsorted(keys, values).clip(max=len(keys) - 1)
    labels = np.array([table[key] for key in keys.tolist()], np.uint8)
    return labels[places], keys[places] == values
