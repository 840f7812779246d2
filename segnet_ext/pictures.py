"""Pictures of predictions: input, truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from segnet_ext.classes import ClassSet
from segnet_ext.data.images import Bytes, colorize, overlay

_BACKGROUND = (24, 24, 28)
_TEXT = (235, 235, 235)
_GAP = 8
_TITLE_HEIGHT = 24
_CAPTION_HEIGHT = 20
# What a column should measure: small images are enlarged by a whole factor up to it, large ones made smaller.
_COLUMN_WIDTH = 360
_LEGEND_CELL = 144
_LEGEND_ROW = 22


@dataclass(frozen=True)
class Row:
    """An image, uint8 RGB [H, W, 3], its label maps, uint8 [H, W], and a line to write above them."""

    image: Bytes
    truth: Bytes | None
    prediction: Bytes
    caption: str = ""


def prediction_sheet(rows: Sequence[Row], classes: ClassSet, title: str = "") -> Image.Image:
    """A picture with a line for each of the rows, whose images are of one size, and the classes' colours below.

    Where the truth is unknown, the last column lays the prediction over the image instead.
    """
    tile_height, tile_width = _tile_size(*rows[0].image.shape[:2])
    caption_height = _CAPTION_HEIGHT if any(row.caption for row in rows) else 0
    width = 3 * tile_width + 4 * _GAP
    columns = max(1, (width - 2 * _GAP) // _LEGEND_CELL)
    names = [*zip(classes.names, classes.colors, strict=True), ("void", (0, 0, 0))]
    legend_height = -(-len(names) // columns) * _LEGEND_ROW
    top = _TITLE_HEIGHT * (2 if title else 1)
    row_height = caption_height + tile_height + _GAP
    sheet = Image.new("RGB", (width, top + len(rows) * row_height + legend_height + 2 * _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    if title:
        draw.text((_GAP, _TITLE_HEIGHT // 2), title, fill=_TEXT, font=font, anchor="lm")
    known = rows[0].truth is not None
    titles = ("input", "truth", "prediction") if known else ("input", "prediction", "overlay")
    for column, name in enumerate(titles):
        middle = _GAP + column * (tile_width + _GAP) + tile_width // 2
        draw.text((middle, top - _TITLE_HEIGHT // 2 + 2), name, fill=_TEXT, font=font, anchor="mm")
    for row in rows:
        draw.text((_GAP, top + caption_height // 2), row.caption, fill=_TEXT, font=font, anchor="lm")
        top += caption_height
        for column, pixels in enumerate(_tiles(row, classes)):
            photo = titles[column] in ("input", "overlay")
            smooth = Image.Resampling.BICUBIC if photo else Image.Resampling.NEAREST
            tile = Image.fromarray(pixels).resize((tile_width, tile_height), smooth)
            sheet.paste(tile, (_GAP + column * (tile_width + _GAP), top))
        top += tile_height + _GAP
    for index, (name, color) in enumerate(names):
        x, y = _GAP + index % columns * _LEGEND_CELL, top + _GAP + index // columns * _LEGEND_ROW
        draw.rectangle((x, y, x + 14, y + 14), fill=color, outline=_TEXT)
        draw.text((x + 20, y + 7), name, fill=_TEXT, font=font, anchor="lm")
    return sheet


def _tiles(row: Row, classes: ClassSet) -> tuple[Bytes, Bytes, Bytes]:
    prediction = colorize(row.prediction, classes.colors)
    if row.truth is None:
        return row.image, prediction, overlay(row.image, row.prediction, classes.colors)
    return row.image, colorize(row.truth, classes.colors), prediction


def _tile_size(height: int, width: int) -> tuple[int, int]:
    factor = _COLUMN_WIDTH / width
    if factor >= 1:
        factor = int(factor)
    return max(1, round(factor * height)), max(1, round(factor * width))
