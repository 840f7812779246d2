"""``segnet-ext predict``."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from segnet_ext._files import make_folder, write_atomically
from segnet_ext.cli import _options
from segnet_ext.errors import InputError, require


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "predict",
        help="label images",
        formatter_class=_options.HelpFormatter,
        description="Writes OUT/NAME_label.png (8-bit, pixel value = class) and OUT/NAME_overlay.png (the classes' "
        "colours over the image) for each image, in the image's own size. The model sees the image resized to --size; "
        "its scores are scaled back bilinearly before the best class is taken.",
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image file of any size")
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="checkpoint of segnet-ext train")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--size",
        type=_options.size,
        metavar="HxW",
        help="height x width in pixels that the model sees (default: the checkpoint's training size)",
    )
    _options.add_threads(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    require("segnet-ext predict", "PIL", "tqdm")
    from segnet_ext.checkpoint import MODEL_TYPES, read_checkpoint
    from segnet_ext.data.images import image_size, overlay, read_image

    _options.apply_threads(options)
    checkpoint = read_checkpoint(options.weights)
    size = options.size or checkpoint.size
    _options.check_size(size, checkpoint.model, MODEL_TYPES[checkpoint.model].minimum_size)
    outputs = _name_outputs(options.images, options.out)
    for path in options.images:
        image_size(path)
    model = checkpoint.build_model()
    make_folder(options.out)
    for path, (label_path, overlay_path) in _options.track(outputs.items(), len(outputs), "predict"):
        image = read_image(path)
        label = label_image(model, image, size)
        _write_png(label_path, label)
        _write_png(overlay_path, overlay(image, label, checkpoint.classes.colors))
        print(f"{path}: {label_path} {overlay_path}", flush=True)
    return 0


def label_image(model: nn.Module, image: Any, size: tuple[int, int]) -> Any:
    """The class of each pixel of a uint8 RGB image [H, W, 3], which the model sees at ``size``: uint8 [H, W]."""
    from segnet_ext.data.images import normalize, resize_image

    with torch.inference_mode():
        logits = model(normalize(torch.from_numpy(resize_image(image, size))[None]))
        return _best_class(logits, image.shape[:2]).numpy()


def _best_class(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Scales logits [1, K, h, w] bilinearly to ``size`` and takes the best class, one class at a time: of a large image
    the scaled logits of all classes would take gigabytes."""
    best = torch.full(size, -torch.inf)
    label = torch.zeros(size, dtype=torch.uint8)
    for index in range(logits.shape[1]):
        scaled = F.interpolate(logits[:, index : index + 1], size, mode="bilinear", align_corners=False)[0, 0]
        better = scaled > best
        best[better] = scaled[better]
        label[better] = index
    return label


def _name_outputs(images: list[Path], out: Path) -> dict[Path, tuple[Path, Path]]:
    """The two files written for each image; refuses two images that would write the same, or over an input."""
    outputs: dict[Path, tuple[Path, Path]] = {}
    owners: dict[str, Path] = {}
    inputs = {path.resolve() for path in images}
    for path in images:
        other = owners.setdefault(path.stem, path)
        if path in outputs or other != path:
            raise InputError(
                f"{other} and {path} would both be written as {path.stem}_label.png: run them apart, with another --out"
            )
        outputs[path] = (out / f"{path.stem}_label.png", out / f"{path.stem}_overlay.png")
        for output in outputs[path]:
            if output.resolve() in inputs:
                raise InputError(f"the result of {path} would overwrite the image {output}: give another --out")
    return outputs


def _write_png(path: Path, pixels: Any) -> None:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    write_atomically(path, lambda file: file.write(content.getvalue()))
