"""Small data sets in CamVid's published layout, drawn for the tests."""

from pathlib import Path

import numpy as np
from PIL import Image

from segnet_ext.data import draw_scene


def write_camvid(root: Path, train: int = 5, val: int = 3, size: tuple[int, int] = (24, 32)) -> Path:
    """Writes ``root`` with train.txt, train/, trainannot/ and the same for val; returns it."""
    for split, count, seed in (("train", train, 1), ("val", val, 2)):
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        lines = []
        for index in range(count):
            image, label = draw_scene(size, np.random.default_rng([seed, index]))
            label[0, 0] = 11
            name = f"{index:04}.png"
            Image.fromarray(image).save(root / split / name)
            Image.fromarray(label).save(root / f"{split}annot" / name)
            lines.append(f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}\n")
        (root / f"{split}.txt").write_text("".join(lines))
    return root
