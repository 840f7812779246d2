"""Draws docs/fusion.svg and docs/fusion-dark.svg: one channel through both fused operations, beside plain torch.

    python docs/make_fusion_figure.py

Needs nothing but Python. Every colour and number in the picture is computed here from CONV_OUTPUT.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

Map = list[list[float]]

CONV_OUTPUT: Map = [
    [-0.5, -0.5, 0.9, 0.1, 0.2, 1.8],
    [0.6, 0.4, 0.4, 0.3, -0.7, -1.9],
    [-0.8, 0.6, -0.4, 1.5, 0.9, 0.7],
    [1.0, 1.7, -1.0, -1.3, -0.4, 0.8],
    [1.2, -0.5, -0.6, -0.4, 1.5, -1.4],
    [1.5, -1.4, -1.1, 1.7, -1.1, -0.4],
]
CONV_WEIGHT: Map = [[0.4, -0.3, 0.2], [0.5, 0.7, -0.4], [-0.2, 0.3, 0.6]]
PIXEL = (2, 3)  # the decoder's output pixel that is looked at
SIDE = 96  # of a drawn map
WIDTH, HEIGHT = 1000, 792
COLUMNS = (176, 348, 510, 672, 810)  # left edges of the maps
SANS = "-apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


@dataclass(frozen=True)
class Theme:
    page: str
    panel: str
    line: str
    text: str
    dim: str
    zero: str  # a cell of value 0
    high: str  # a cell of the largest value
    low: str  # a cell of the smallest value
    ours: str  # what the library does
    ours_fill: str
    kept: str  # what backward keeps
    kept_fill: str


LIGHT = Theme(
    page="#ffffff",
    panel="#f6f8fa",
    line="#d0d7de",
    text="#1f2328",
    dim="#59636e",
    zero="#ffffff",
    high="#0a6ab8",
    low="#d9822b",
    ours="#1a7f37",
    ours_fill="#dafbe1",
    kept="#8250df",
    kept_fill="#fbefff",
)
DARK = Theme(
    page="#0d1117",
    panel="#151b23",
    line="#3d444d",
    text="#f0f6fc",
    dim="#9198a1",
    zero="#0d1117",
    high="#58b0ff",
    low="#e09b4a",
    ours="#3fb950",
    ours_fill="#12261e",
    kept="#c297ff",
    kept_fill="#271f3d",
)


# ------------------------------------------------------------------------------------------------------- the numbers


def batch_norm(values: Map) -> Map:
    flat = [value for row in values for value in row]
    mean = sum(flat) / len(flat)
    std = (sum((value - mean) ** 2 for value in flat) / len(flat)) ** 0.5
    return [[(value - mean) / std for value in row] for row in values]


def relu(values: Map) -> Map:
    return [[max(value, 0.0) for value in row] for row in values]


def max_pool(values: Map) -> tuple[Map, list[list[int]]]:
    """The pooled map and the codes, 2 * row + col of each winner in its window."""
    pooled, codes = [], []
    for i in range(0, len(values), 2):
        windows = [[values[i + k // 2][j + k % 2] for k in range(4)] for j in range(0, len(values), 2)]
        pooled.append([max(window) for window in windows])
        codes.append([window.index(max(window)) for window in windows])
    return pooled, codes


def max_unpool(pooled: Map, codes: list[list[int]]) -> Map:
    values = [[0.0] * (2 * len(pooled)) for _ in range(2 * len(pooled))]
    for i, row in enumerate(codes):
        for j, code in enumerate(row):
            values[2 * i + code // 2][2 * j + code % 2] = pooled[i][j]
    return values


def footprint(values: Map, row: int, col: int) -> Map:
    """The 3x3 neighbourhood of a pixel, zeros outside the map."""
    inside = range(len(values))
    return [
        [values[i][j] if i in inside and j in inside else 0.0 for j in range(col - 1, col + 2)]
        for i in range(row - 1, row + 2)
    ]


def conv(values: Map) -> Map:
    def pixel(row: int, col: int) -> float:
        taps = footprint(values, row, col)
        return sum(taps[i][j] * CONV_WEIGHT[i][j] for i in range(3) for j in range(3))

    return [[pixel(row, col) for col in range(len(values))] for row in range(len(values))]


# ------------------------------------------------------------------------------------------------------- the drawing


def blend(start: str, end: str, share: float) -> str:
    pairs = [(int(start[k : k + 2], 16), int(end[k : k + 2], 16)) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


class Figure:
    """SVG elements in the order they are drawn."""

    def __init__(self, theme: Theme) -> None:
        self.theme = theme
        self.parts: list[str] = []

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str,
        stroke: str = "none",
        stroke_width: float = 1,
        radius: float = 0,
        extra: str = "",
    ) -> None:
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}" '
            f'stroke="{stroke}" stroke-width="{stroke_width:g}"{extra}/>'
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float = 13,
        color: str | None = None,
        anchor: str = "start",
        weight: int = 400,
        font: str = SANS,
    ) -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-family="{font}" font-size="{size:g}" font-weight="{weight}" '
            f'text-anchor="{anchor}" fill="{color or self.theme.text}">{escape(words)}</text>'
        )

    def cells(self, x: float, y: float, values: Map, side: float = SIDE) -> None:
        """A map as coloured squares; zeros are empty."""
        theme, cell = self.theme, side / len(values)
        largest = max(abs(value) for row in values for value in row)
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                share = (abs(value) / largest) ** 0.8
                fill = blend(theme.zero, theme.high if value > 0 else theme.low, share)
                self.rect(x + j * cell, y + i * cell, cell, cell, fill, theme.line, 0.75)
        self.rect(x, y, side, side, "none", theme.dim, 1.25)

    def numbers(self, x: float, y: float, words: list[list[str]], color: str) -> None:
        """A table of numbers as large as a map."""
        theme, cell = self.theme, SIDE / len(words)
        for i, row in enumerate(words):
            for j, word in enumerate(row):
                self.rect(x + j * cell, y + i * cell, cell, cell, theme.zero, theme.line, 0.75)
                self.text(x + (j + 0.5) * cell, y + (i + 0.5) * cell + 5, word, 14, color, "middle", 600, MONO)
        self.rect(x, y, SIDE, SIDE, "none", theme.dim, 1.25)

    def bits(self, x: float, y: float, count: int, color: str) -> None:
        """``count`` bits to scale: 64 are as wide as a map."""
        step = SIDE / 64
        for k in range(count):
            self.rect(x + k * step, y, step * 0.62, 7, color)
        self.text(x, y + 21, f"{count} bits a window", 12, color, weight=600)

    def windows(self, x: float, y: float, count: int) -> None:
        """The borders of the 2x2 windows over a map."""
        step = SIDE / count
        for k in range(1, count):
            for line in (f"M{x + k * step:g} {y}v{SIDE}", f"M{x} {y + k * step:g}h{SIDE}"):
                self.parts.append(f'<path d="{line}" stroke="{self.theme.dim}" stroke-width="1.25" fill="none"/>')

    def frame(self, x: float, y: float, row: int, col: int, span: int, color: str) -> None:
        """A border around ``span`` x ``span`` pixels of a 6x6 map."""
        cell = SIDE / len(CONV_OUTPUT)
        self.rect(x + col * cell, y + row * cell, span * cell, span * cell, "none", color, 2.5)

    def arrow(self, x: float, end: float, y: float, words: str = "") -> None:
        theme = self.theme
        self.parts.append(
            f'<path d="M{x} {y}H{end - 7}" stroke="{theme.dim}" stroke-width="1.5" fill="none"/>'
            f'<path d="M{end} {y}l-8 -4.5v9z" fill="{theme.dim}"/>'
        )
        if words:
            self.text((x + end) / 2 - 2, y - 9, words, 11.5, theme.text, "middle", 500)

    def kept(self, x: float, y: float) -> None:
        theme = self.theme
        self.rect(x + SIDE / 2 - 26, y, 52, 19, theme.kept_fill, theme.kept, 1, 9.5)
        self.text(x + SIDE / 2, y + 13.5, "kept", 11.5, theme.kept, "middle", 600)

    def fused(self, x: float, y: float, width: float, name: str, lines: tuple[str, ...]) -> None:
        theme = self.theme
        self.rect(x, y, width, SIDE, theme.ours_fill, theme.ours, 1.5, 8)
        self.text(x + width / 2, y + 27, name, 14.5, theme.ours, "middle", 700, MONO)
        for k, line in enumerate(lines):
            self.text(x + width / 2, y + 52 + 19 * k, line, 12, theme.text, "middle")

    def lane(self, y: float, name: str, color: str, lines: tuple[str, ...]) -> None:
        self.text(40, y + 20, name, 15, color, weight=700, font=MONO)
        for k, line in enumerate(lines):
            self.text(40, y + 42 + 17 * k, line, 12, self.theme.dim)

    def panel(self, y: float, height: float, title: str, subtitle: str) -> None:
        theme = self.theme
        self.rect(16, y, WIDTH - 32, height, theme.panel, theme.line, 1, 10)
        self.text(40, y + 31, title, 17, weight=700)
        self.text(WIDTH - 40, y + 31, subtitle, 12.5, theme.dim, "end")

    def svg(self) -> str:
        title = (
            "Plain torch makes a normalised and a rectified map and 64-bit indices at the end of an encoder stage, and "
            "an unpooled map at the start of a decoder stage; segnet_ext makes none of them and keeps 2-bit codes."
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">\n'
            f"<title>{title}</title>\n" + "\n".join(self.parts) + "\n</svg>\n"
        )


def draw_encoder(figure: Figure, top: float) -> None:
    theme = figure.theme
    normalised = batch_norm(CONV_OUTPUT)
    rectified = relu(normalised)
    pooled, codes = max_pool(rectified)
    size = len(CONV_OUTPUT)
    indices = [[f"{(2 * i + c // 2) * size + 2 * j + c % 2}" for j, c in enumerate(row)] for i, row in enumerate(codes)]
    names = ("conv output", "normalised", "rectified", "pooled")
    figure.panel(top, 368, "End of an encoder stage", "BatchNorm → ReLU → 2x2 max pool, one channel of a 6x6 map")

    y = top + 76
    figure.lane(y, "torch", theme.text, ("three operations,", "two maps in between"))
    for x, name, values in zip(COLUMNS, names, (CONV_OUTPUT, normalised, rectified, pooled), strict=False):
        figure.text(x, y - 8, name, 12, theme.dim)
        figure.cells(x, y, values)
    figure.windows(COLUMNS[2], y, 3)
    for k, name in enumerate(("BatchNorm", "ReLU", "MaxPool")):
        figure.arrow(COLUMNS[k] + SIDE, COLUMNS[k + 1] - 2, y + SIDE / 2, name)
    figure.text(COLUMNS[4], y - 8, "indices (int64)", 12, theme.dim)
    figure.numbers(COLUMNS[4], y, indices, theme.text)
    figure.bits(COLUMNS[4], y + SIDE + 9, 64, theme.text)
    figure.kept(COLUMNS[0], y + SIDE + 8)
    figure.kept(COLUMNS[2], y + SIDE + 8)
    figure.kept(COLUMNS[4] + SIDE - 14, y + SIDE / 2 - 10)

    y = top + 236
    figure.lane(y, "segnet_ext", theme.ours, ("one operation,", "no map in between"))
    figure.text(COLUMNS[0], y - 8, names[0], 12, theme.dim)
    figure.cells(COLUMNS[0], y, CONV_OUTPUT)
    figure.windows(COLUMNS[0], y, 3)
    left, right = COLUMNS[1] - 34, COLUMNS[2] + SIDE + 34
    figure.arrow(COLUMNS[0] + SIDE, left - 2, y + SIDE / 2)
    lines = ("normalises and rectifies a window's four pixels,", "writes the largest and which of them it was")
    figure.fused(left, y, right - left, "bn_relu_max_pool2d", lines)
    figure.arrow(right, COLUMNS[3] - 2, y + SIDE / 2)
    figure.text(COLUMNS[3], y - 8, names[3], 12, theme.dim)
    figure.cells(COLUMNS[3], y, pooled)
    figure.text(COLUMNS[4], y - 8, "codes (2 bits)", 12, theme.dim)
    figure.numbers(COLUMNS[4], y, [[f"{code:02b}" for code in row] for row in codes], theme.ours)
    figure.bits(COLUMNS[4], y + SIDE + 9, 2, theme.ours)
    figure.kept(COLUMNS[0], y + SIDE + 8)
    figure.kept(COLUMNS[4] + SIDE - 14, y + SIDE / 2 - 10)


def draw_decoder(figure: Figure, top: float) -> None:
    theme = figure.theme
    pooled, codes = max_pool(relu(batch_norm(CONV_OUTPUT)))
    unpooled = max_unpool(pooled, codes)
    output = conv(unpooled)
    row, col = PIXEL
    taps = footprint(unpooled, row, col)
    winners = sum(value != 0 for line in taps for value in line)
    figure.panel(top, 368, "Start of a decoder stage", "max unpool → 3x3 convolution, one channel")
    size = len(CONV_OUTPUT)
    indices = [[f"{(2 * i + c // 2) * size + 2 * j + c % 2}" for j, c in enumerate(row)] for i, row in enumerate(codes)]

    def column(k: int, y: float, name: str, values: Map) -> None:
        figure.text(COLUMNS[k], y - 8, name, 12, theme.dim)
        figure.cells(COLUMNS[k], y, values)

    y = top + 76
    figure.lane(y, "torch", theme.text, ("writes a map that is", "three quarters zeros,", "then multiplies them"))
    column(0, y, "pooled", pooled)
    figure.text(COLUMNS[1] - 44, y - 8, "indices (int64)", 12, theme.dim)
    figure.numbers(COLUMNS[1] - 44, y, indices, theme.text)
    figure.text(COLUMNS[1] - 58, y + SIDE / 2 + 6, "+", 18, theme.dim, "middle")
    figure.arrow(COLUMNS[1] - 44 + SIDE, COLUMNS[2] - 2, y + SIDE / 2, "MaxUnpool")
    column(2, y, "unpooled", unpooled)
    figure.windows(COLUMNS[2], y, 3)
    figure.frame(COLUMNS[2], y, row - 1, col - 1, 3, theme.text)
    figure.arrow(COLUMNS[2] + SIDE, COLUMNS[3] - 2, y + SIDE / 2, "Conv")
    column(3, y, "output", output)
    figure.frame(COLUMNS[3], y, row, col, 1, theme.text)
    figure.text(COLUMNS[4], y - 8, "one output pixel", 12, theme.dim)
    draw_taps(figure, COLUMNS[4], y, taps, only_winners=False)
    figure.text(COLUMNS[4], y + SIDE + 21, f"9 products, {9 - winners} by zero", 12, theme.text, weight=600)
    figure.kept(COLUMNS[1] - 44, y + SIDE + 8)
    figure.kept(COLUMNS[2], y + SIDE + 8)

    y = top + 236
    figure.lane(y, "segnet_ext", theme.ours, ("no unpooled map,", "no product by a zero"))
    column(0, y, "pooled", pooled)
    figure.text(COLUMNS[1] - 44, y - 8, "codes (2 bits)", 12, theme.dim)
    figure.numbers(COLUMNS[1] - 44, y, [[f"{code:02b}" for code in row] for row in codes], theme.ours)
    figure.text(COLUMNS[1] - 58, y + SIDE / 2 + 6, "+", 18, theme.dim, "middle")
    left, right = COLUMNS[1] + 82, COLUMNS[3] - 28
    figure.arrow(COLUMNS[1] - 44 + SIDE, left - 2, y + SIDE / 2)
    lines = ("adds each winner that lies in a", "pixel's footprint, times its weight")
    figure.fused(left, y, right - left, "max_unpool2d_conv2d", lines)
    figure.arrow(right, COLUMNS[3] - 2, y + SIDE / 2)
    column(3, y, "output", output)
    figure.frame(COLUMNS[3], y, row, col, 1, theme.ours)
    figure.text(COLUMNS[4], y - 8, "one output pixel", 12, theme.dim)
    draw_taps(figure, COLUMNS[4], y, taps, only_winners=True)
    figure.text(COLUMNS[4], y + SIDE + 21, f"{winners} products", 12, theme.ours, weight=600)
    figure.kept(COLUMNS[0], y + SIDE + 8)
    figure.kept(COLUMNS[1] - 44, y + SIDE + 8)


def draw_taps(figure: Figure, x: float, y: float, taps: Map, only_winners: bool) -> None:
    """The 3x3 footprint with its values; without the zeros where they are never touched."""
    theme, cell = figure.theme, SIDE / 3
    largest = max(abs(value) for line in taps for value in line)
    for i, line in enumerate(taps):
        for j, value in enumerate(line):
            left, top = x + j * cell, y + i * cell
            if value:
                fill = blend(theme.zero, theme.high, 0.35 + 0.4 * value / largest)
                figure.rect(left, top, cell, cell, fill, theme.dim, 1)
                figure.text(left + cell / 2, top + cell / 2 + 5, f"{value:.1f}", 13, theme.text, "middle", 600, MONO)
            elif only_winners:
                dashes = ' stroke-dasharray="2 3"'
                figure.rect(left + 0.5, top + 0.5, cell - 1, cell - 1, "none", theme.line, 1, extra=dashes)
            else:
                figure.rect(left, top, cell, cell, theme.zero, theme.dim, 1)
                figure.text(left + cell / 2, top + cell / 2 + 5, "0", 13, theme.dim, "middle", 400, MONO)


def draw(theme: Theme) -> str:
    figure = Figure(theme)
    figure.rect(0, 0, WIDTH, HEIGHT, theme.page)
    draw_encoder(figure, 12)
    draw_decoder(figure, 392)
    figure.text(WIDTH - 24, HEIGHT - 9, "kept: what autograd holds until backward", 12, theme.kept, "end")
    return figure.svg()


FILES = {"fusion.svg": LIGHT, "fusion-dark.svg": DARK}

if __name__ == "__main__":
    for name, theme in FILES.items():
        (Path(__file__).parent / name).write_text(draw(theme), encoding="utf-8")
