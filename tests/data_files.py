"""Small images and label maps on the disk, and whole data sets of them, for the tests."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnet_ext.errors import InputError

SIZE = (24, 32)


def error_of(call, *arguments) -> str:
    """The message of the InputError that a call raises."""
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return str(caught.value)


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_image(path: Path, random: np.random.Generator, size: tuple[int, int] = SIZE) -> None:
    save(random.integers(0, 256, (*size, 3), np.uint8), path)


def write_folder(root: Path, content: object, labels: list[np.ndarray], split: str = "train") -> Path:
    """Writes classes.json, and SPLIT/images/ and SPLIT/labels/ with a random image for each of the label maps."""
    random = np.random.default_rng(len(labels))
    for index, label in enumerate(labels):
        save_image(root / split / "images" / f"{index}.jpg", random, label.shape[:2])
        save(label, root / split / "labels" / f"{index}.png")
    (root / "classes.json").write_text(json.dumps(content))
    return root
