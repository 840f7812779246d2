"""Reading, resizing, normalising and colouring images and label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from segnet_ext.classes import Color
from segnet_ext.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Bytes = NDArray[np.uint8]

# What Pillow raises for files that are no image, are cut short or unfold to an absurd size.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    # Pillow's "cannot identify image file '/long/path'" repeats the path.
    reason = "not an image file" if isinstance(error, UnidentifiedImageError) else str(error)
    return InputError(f"{path} cannot be read as an image: {reason}")


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of what ``read_image`` gives, read from the file's header alone."""
    with _open(path) as image:
        # Pillow would read all of a PNG to look for EXIF behind its pixels.
        exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
        lies_on_its_side = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return (image.width, image.height) if lies_on_its_side else (image.height, image.width)


def read_image(path: Path) -> Bytes:
    """Reads an image as 8-bit RGB, turned upright by its EXIF orientation.

    Greyscale, palette and 16-bit images are converted; transparent pixels are shown on white.

    Returns:
        uint8 [H, W, 3].
    """
    with _open(path) as image:
        try:
            upright = ImageOps.exif_transpose(image)
            return np.array(_to_rgb(upright))
        except _UNREADABLE as error:
            raise _unreadable(path, error) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit greyscale; convert() would clip it at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def read_label(path: Path, num_classes: int) -> Bytes:
    """Reads a label map: one 8-bit channel, label = pixel value (in palette files, the index).

    Returns:
        uint8 [H, W] with values 0 to num_classes; num_classes is void.
    """
    with _open(path) as image:
        if image.mode not in ("L", "P"):
            raise InputError(f"{path} must be an 8-bit single-channel label image, but its pixels are {image.mode}")
        label = _pixels(path, image)
    if label.size and label.max() > num_classes:
        row, column = np.argwhere(label > num_classes)[0]
        raise InputError(
            f"{path} has the label {label[row, column]} at row {row}, column {column}; "
            f"labels must be 0 to {num_classes - 1}, or {num_classes} for void"
        )
    return label


def read_label_values(path: Path) -> NDArray[np.integer[Any]]:
    """Reads the pixel values (in palette files, the indices) of a label map of one channel, 8 or 16 bits, [H, W]."""
    with _open(path) as image:
        if image.mode not in ("L", "P") and not image.mode.startswith("I"):
            raise InputError(f"{path} must be a single-channel label image, but its pixels are {image.mode}")
        return _pixels(path, image)


def read_label_colors(path: Path) -> Bytes:
    """Reads the colours of a label map in RGB, of a palette or grey: uint8 [H, W, 3]. Transparency does not count."""
    with _open(path) as image:
        if image.mode not in ("RGB", "RGBA", "P", "L"):
            raise InputError(f"{path} must be a label image in 8-bit colours, but its pixels are {image.mode}")
        try:
            return np.array(image.convert("RGB"))
        except _UNREADABLE as error:
            raise _unreadable(path, error) from error


def _pixels(path: Path, image: Image.Image) -> NDArray[Any]:
    try:
        return np.array(image)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def resize_image(image: Bytes, size: tuple[int, int]) -> Bytes:
    """Bilinear (averaging when it shrinks), uint8 [H, W, 3] to uint8 [size[0], size[1], 3]."""
    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_label(label: Bytes, size: tuple[int, int]) -> Bytes:
    """Nearest neighbour, uint8 [H, W] to uint8 [size[0], size[1]]."""
    if label.shape == size:
        return label
    return np.array(Image.fromarray(label).resize((size[1], size[0]), Image.Resampling.NEAREST))


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Scales to [0, 1], takes ImageNet's mean off and divides by its standard deviation.

    Args:
        images: uint8 RGB [N, H, W, 3].

    Returns:
        float32 [N, 3, H, W], channels_last.
    """
    scale = 255 * torch.tensor(IMAGENET_STD, device=images.device)
    offset = torch.tensor(IMAGENET_MEAN, device=images.device) / torch.tensor(IMAGENET_STD, device=images.device)
    return (images / scale - offset).permute(0, 3, 1, 2)


def colorize(label: Bytes, colors: tuple[Color, ...]) -> Bytes:
    """uint8 [H, W] to uint8 RGB [H, W, 3]; labels past the colours (void) are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    return table[label]


def overlay(image: Bytes, label: Bytes, colors: tuple[Color, ...], opacity: float = 0.5) -> Bytes:
    """The label's colours laid over the image, uint8 RGB [H, W, 3]."""
    blend = np.empty_like(image)
    for start in range(0, len(image), 256):  # some rows at a time: in float32 a large image would take gigabytes
        rows = slice(start, start + 256)
        colored = colorize(label[rows], colors).astype(np.float32)
        blend[rows] = np.rint((1 - opacity) * image[rows].astype(np.float32) + opacity * colored)
    return blend


def uncertainty_map(variance: torch.Tensor, num_classes: int) -> Bytes:
    """Shows class-averaged variances of a softmax on one scale for all images.

    A pixel is 255 * sqrt(num_classes * variance). The sum of the classes' variances is below 1 whatever the samples,
    and its square root keeps small ones apart in 8 bits. 0 is black: all samples agree.

    Args:
        variance: floating [H, W], not negative.
        num_classes: how many classes the average was over.

    Returns:
        uint8 [H, W].
    """
    return (variance * num_classes).sqrt().mul(255).round().clamp(0, 255).to(torch.uint8).numpy()
