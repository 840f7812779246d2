"""Drawn street scenes with exact labels of CamVid's eleven classes: data for the demo and for tests."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from segnet_ext.classes import CAMVID, Color
from segnet_ext.data.dataset import MemoryDataset
from segnet_ext.data.images import Bytes

# Scenes are drawn this many times larger and then averaged down, so that edges in the image are smooth.
_OVERSAMPLING = 3

_LABEL = {name: index for index, name in enumerate(CAMVID.names)}

Point = tuple[float, float]


def synthetic_dataset(count: int, size: tuple[int, int], seed: int = 0) -> MemoryDataset:
    """``count`` scenes of ``size`` (height, width) pixels; the same arguments give the same scenes."""
    scenes = [draw_scene(size, np.random.default_rng([seed, index])) for index in range(count)]
    return MemoryDataset([image for image, _ in scenes], [label for _, label in scenes], CAMVID)


def draw_scene(size: tuple[int, int], random: np.random.Generator) -> tuple[Bytes, Bytes]:
    """A street seen from a car.

    Args:
        size: (height, width) in pixels.
        random: decides the road, the houses, the light and everything that stands about.

    Returns:
        The image, uint8 RGB [H, W, 3], and its labels, uint8 [H, W].
    """
    height, width = size
    scene = _Scene.sketch(random)
    canvas = _Canvas(height, width)
    _draw_sky(canvas, scene, random)
    _draw_houses(canvas, scene, random)
    _draw_ground(canvas, scene, random)
    _draw_objects(canvas, scene, random)
    return _light(canvas.image(), random), canvas.label()


@dataclass(frozen=True)
class _Scene:
    """The street's geometry in units of the picture's size: x to the right, y down, both 0 to 1."""

    horizon: float
    vanishing_x: float
    road_left: float
    road_right: float
    pavement: float

    @classmethod
    def sketch(cls, random: np.random.Generator) -> _Scene:
        return cls(
            horizon=random.uniform(0.40, 0.52),
            vanishing_x=random.uniform(0.38, 0.62),
            road_left=random.uniform(-0.15, 0.16),
            road_right=random.uniform(0.84, 1.15),
            pavement=random.uniform(0.25, 0.45),
        )

    def at(self, x: float, depth: float) -> Point:
        """The ground point that is at ``x`` on the picture's lower edge, moved away: depth 1 is near, 0 the horizon."""
        return self.vanishing_x + (x - self.vanishing_x) * depth, self.horizon + (1 - self.horizon) * depth


class _Canvas:
    """Draws each shape twice: its colour into the picture, its class into the label map."""

    def __init__(self, height: int, width: int) -> None:
        self._size = (width, height)
        self._scale = (width * _OVERSAMPLING, height * _OVERSAMPLING)
        self._picture = Image.new("RGB", self._scale)
        self._labels = Image.new("L", self._scale, CAMVID.void)
        self._picture_draw = ImageDraw.Draw(self._picture)
        self._labels_draw = ImageDraw.Draw(self._labels)

    def polygon(self, points: list[Point], color: Color, name: str) -> None:
        pixels = [(x * self._scale[0], y * self._scale[1]) for x, y in points]
        self._picture_draw.polygon(pixels, fill=color)
        self._labels_draw.polygon(pixels, fill=_LABEL[name])

    def box(self, left: float, top: float, right: float, bottom: float, color: Color, name: str) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color, name)

    def ellipse(self, center: Point, radius_x: float, radius_y: float, color: Color, name: str) -> None:
        (x, y), (scale_x, scale_y) = center, self._scale
        bounds = (
            (x - radius_x) * scale_x,
            (y - radius_y) * scale_y,
            (x + radius_x) * scale_x,
            (y + radius_y) * scale_y,
        )
        self._picture_draw.ellipse(bounds, fill=color)
        self._labels_draw.ellipse(bounds, fill=_LABEL[name])

    def ring(self, center: Point, radius_x: float, radius_y: float, thickness: float, color: Color, name: str) -> None:
        (x, y), (scale_x, scale_y) = center, self._scale
        bounds = (
            (x - radius_x) * scale_x,
            (y - radius_y) * scale_y,
            (x + radius_x) * scale_x,
            (y + radius_y) * scale_y,
        )
        pixels = max(1, round(thickness * scale_x))
        self._picture_draw.ellipse(bounds, outline=color, width=pixels)
        self._labels_draw.ellipse(bounds, outline=_LABEL[name], width=pixels)

    def line(self, start: Point, end: Point, thickness: float, color: Color, name: str) -> None:
        scale_x, scale_y = self._scale
        pixels = [(start[0] * scale_x, start[1] * scale_y), (end[0] * scale_x, end[1] * scale_y)]
        stroke = max(1, round(thickness * scale_x))
        self._picture_draw.line(pixels, fill=color, width=stroke)
        self._labels_draw.line(pixels, fill=_LABEL[name], width=stroke)

    def gradient(self, top: Color, bottom: Color, until: float, name: str) -> None:
        rows = round(until * self._scale[1])
        for row in range(rows):
            share = row / max(1, rows - 1)
            color = _mix(top, bottom, share)
            self._picture_draw.line([(0, row), (self._scale[0], row)], fill=color)
        self._labels_draw.rectangle((0, 0, self._scale[0], rows), fill=_LABEL[name])

    def image(self) -> Bytes:
        return np.array(self._picture.resize(self._size, Image.Resampling.BOX))

    def label(self) -> Bytes:
        return np.array(self._labels.resize(self._size, Image.Resampling.NEAREST))


def _mix(first: Color, second: Color, share: float) -> Color:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _vary(color: Color, random: np.random.Generator, spread: int = 14) -> Color:
    red, green, blue = (int(np.clip(channel + random.integers(-spread, spread + 1), 0, 255)) for channel in color)
    return red, green, blue


def _pick(colors: tuple[Color, ...], random: np.random.Generator) -> Color:
    return _vary(colors[random.integers(len(colors))], random)


_SKIES: tuple[tuple[Color, Color], ...] = (
    ((96, 150, 215), (200, 220, 238)),
    ((150, 165, 182), (222, 224, 226)),
    ((120, 140, 190), (245, 214, 184)),
)
_WALLS: tuple[Color, ...] = ((158, 92, 70), (190, 166, 134), (140, 132, 126), (206, 196, 178), (122, 86, 74))
_PAINTS: tuple[Color, ...] = (
    (178, 32, 36),
    (28, 62, 130),
    (214, 216, 220),
    (34, 36, 40),
    (150, 154, 160),
    (36, 98, 66),
)
_CLOTHES: tuple[Color, ...] = ((160, 44, 52), (42, 58, 112), (60, 60, 62), (206, 170, 62), (70, 112, 84))
_SKIN: tuple[Color, ...] = ((224, 178, 146), (150, 104, 76), (96, 66, 48))


def _draw_sky(canvas: _Canvas, scene: _Scene, random: np.random.Generator) -> None:
    top, bottom = _SKIES[random.integers(len(_SKIES))]
    canvas.gradient(_vary(top, random), _vary(bottom, random), 1, "Sky")
    for _ in range(random.integers(0, 4)):
        x, y = random.uniform(0, 1), random.uniform(0.02, scene.horizon * 0.6)
        for _ in range(4):
            center = (x + random.uniform(-0.07, 0.07), y + random.uniform(-0.015, 0.015))
            radii = random.uniform(0.04, 0.09), random.uniform(0.015, 0.03)
            canvas.ellipse(center, *radii, _vary(bottom, random, 8), "Sky")


def _draw_houses(canvas: _Canvas, scene: _Scene, random: np.random.Generator) -> None:
    """Two rows of fronts that run towards the vanishing point, the far ones first."""
    for side in (-1, 1):
        edges = [0.06]
        while edges[-1] < 1.6:
            edges.append(edges[-1] * random.uniform(1.35, 1.9))
        for far, near in itertools.pairwise(edges):
            if random.random() < 0.12:
                continue  # a gap, filled by sky and trees
            _draw_house(canvas, scene, side, far, near, random)


def _draw_house(
    canvas: _Canvas, scene: _Scene, side: int, far: float, near: float, random: np.random.Generator
) -> None:
    front = scene.road_left - scene.pavement if side < 0 else scene.road_right + scene.pavement
    tall = random.uniform(0.7, 1.5)
    wall = _pick(_WALLS, random)

    def corner(depth: float, level: float) -> Point:
        x, ground = scene.at(front, depth)
        return x, ground - level * tall * depth

    canvas.polygon([corner(far, 0), corner(near, 0), corner(near, 1), corner(far, 1)], wall, "Building")
    end = corner(far, 0)[0] + side
    (inner, ground), (_, roof) = corner(far, 0), corner(far, 1)
    canvas.box(min(end, inner), roof, max(end, inner), ground, _mix(wall, (0, 0, 0), 0.25), "Building")
    glass = _mix(wall, (52, 62, 78), 0.75)
    floors, columns = int(random.integers(2, 5)), int(random.integers(2, 5))
    for floor in range(floors):
        low, high = (floor + 0.3) / floors, (floor + 0.75) / floors
        for column in range(columns):
            start, stop = (far + (near - far) * (column + part) / columns for part in (0.25, 0.7))
            canvas.polygon(
                [corner(start, low), corner(stop, low), corner(stop, high), corner(start, high)], glass, "Building"
            )


def _draw_ground(canvas: _Canvas, scene: _Scene, random: np.random.Generator) -> None:
    asphalt = _vary((92, 92, 98), random, 8)
    slabs = _vary((150, 144, 140), random, 8)
    far_left, far_right = scene.at(scene.road_left - 3, 1), scene.at(scene.road_right + 3, 1)
    vanishing = (scene.vanishing_x, scene.horizon)
    canvas.polygon([vanishing, far_left, far_right], slabs, "Pavement")
    canvas.box(0, scene.horizon + (1 - scene.horizon) * 0.99, 1, 1, slabs, "Pavement")
    left, right = scene.at(scene.road_left, 1.2), scene.at(scene.road_right, 1.2)
    canvas.polygon([vanishing, left, right], asphalt, "Road")
    kerb = _mix(slabs, (235, 235, 235), 0.5)
    for edge in (scene.road_left, scene.road_right):
        canvas.polygon([vanishing, scene.at(edge - 0.012, 1.2), scene.at(edge + 0.012, 1.2)], kerb, "Pavement")
    middle = (scene.road_left + scene.road_right) / 2
    paint = _vary((222, 222, 214), random, 8)
    for start in np.geomspace(0.08, 1.0, 7):
        stop = start * 1.22
        canvas.polygon(
            [
                scene.at(middle - 0.012, start),
                scene.at(middle + 0.012, start),
                scene.at(middle + 0.012, stop),
                scene.at(middle - 0.012, stop),
            ],
            paint,
            "Road",
        )


def _draw_objects(canvas: _Canvas, scene: _Scene, random: np.random.Generator) -> None:
    """Everything that stands on the ground, from far to near so that near things cover far ones."""
    left, right, kerb = scene.road_left, scene.road_right, scene.pavement
    lane = (right - left) / 4
    standing = []
    for edge, outwards in ((left, -1), (right, 1)):
        if random.random() < 0.5:
            standing.append((0.05, _fence, edge + outwards * kerb * 0.92))
        for _ in range(random.integers(1, 4)):
            standing.append((_depth(random), _tree, edge + outwards * kerb * random.uniform(0.6, 1.1)))
        for depth in np.geomspace(0.14, 0.75, random.integers(1, 4)):
            standing.append((depth, _lamp, edge + outwards * 0.05))
        if random.random() < 0.75:
            standing.append((_depth(random), _sign, edge + outwards * 0.08))
        for _ in range(random.integers(0, 3)):
            standing.append((_depth(random), _pedestrian, edge + outwards * kerb * random.uniform(0.2, 0.7)))
        for _ in range(random.integers(0, 3)):
            standing.append((_depth(random), _car, edge - outwards * lane * random.uniform(0.35, 1.2)))
        if random.random() < 0.5:
            standing.append((_depth(random), _bicyclist, edge - outwards * lane * random.uniform(0.2, 0.5)))
    for depth, draw, x in sorted(standing, key=lambda item: item[0]):
        draw(canvas, scene, x, depth, random)


def _depth(random: np.random.Generator) -> float:
    return float(random.uniform(0.16, 0.85))


def _tree(canvas: _Canvas, scene: _Scene, x: float, depth: float, random: np.random.Generator) -> None:
    foot, ground = scene.at(x, depth)
    tall = random.uniform(0.45, 0.75) * depth
    trunk = 0.018 * depth
    canvas.box(foot - trunk, ground - tall * 0.6, foot + trunk, ground, _vary((84, 62, 44), random), "Tree")
    leaves = _vary((70, 108, 52), random, 20)
    for _ in range(9):
        center = (foot + random.uniform(-0.10, 0.10) * depth, ground - tall * random.uniform(0.6, 1.0))
        radius = random.uniform(0.06, 0.10) * depth
        canvas.ellipse(center, radius, radius * 1.25, _vary(leaves, random, 16), "Tree")


def _fence(canvas: _Canvas, scene: _Scene, x: float, depth: float, random: np.random.Generator) -> None:
    far, near = random.uniform(0.10, 0.3), random.uniform(0.5, 1.1)
    color = _vary((112, 108, 92), random, 20)

    def corner(at_depth: float, level: float) -> Point:
        px, ground = scene.at(x, at_depth)
        return px, ground - level * 0.20 * at_depth

    canvas.polygon([corner(far, 0), corner(near, 0), corner(near, 1), corner(far, 1)], color, "Fence")
    for at_depth in np.geomspace(far, near, 14):
        dark = _mix(color, (40, 40, 40), 0.5)
        canvas.line(corner(at_depth, 0), corner(at_depth, 1), 0.006 * at_depth, dark, "Fence")


def _lamp(canvas: _Canvas, scene: _Scene, x: float, depth: float, random: np.random.Generator) -> None:
    foot, ground = scene.at(x, depth)
    top = ground - 0.85 * depth
    color = _vary((78, 80, 82), random)
    half = max(0.011 * depth, 0.005)
    canvas.box(foot - half, top, foot + half, ground, color, "Pole")
    arm = 0.10 * depth * (1 if x < scene.vanishing_x else -1)
    canvas.line((foot, top), (foot + arm, top), 1.6 * half, color, "Pole")


def _sign(canvas: _Canvas, scene: _Scene, x: float, depth: float, random: np.random.Generator) -> None:
    foot, ground = scene.at(x, depth)
    top = ground - 0.48 * depth
    half = max(0.009 * depth, 0.004)
    canvas.box(foot - half, top, foot + half, ground, _vary((130, 132, 134), random), "Pole")
    radius = 0.065 * depth
    rim, inside = (((200, 36, 40), (236, 236, 236)), ((34, 74, 168), (60, 104, 196)))[random.integers(2)]
    canvas.ellipse((foot, top), radius, radius * 1.3, rim, "SignSymbol")
    canvas.ellipse((foot, top), radius * 0.65, radius * 0.85, inside, "SignSymbol")


def _car(canvas: _Canvas, scene: _Scene, x: float, depth: float, random: np.random.Generator) -> None:
    middle, ground = scene.at(x, depth)
    half, tall = 0.145 * depth, 0.235 * depth
    paint = _pick(_PAINTS, random)
    shade = _mix(paint, (0, 0, 0), 0.35)
    tyre: Color = (24, 24, 26)
    for side in (-1, 1):
        at = middle + side * half * 0.72
        canvas.box(at - half * 0.18, ground - tall * 0.25, at + half * 0.18, ground, tyre, "Car")
    canvas.polygon(
        [
            (middle - half * 0.80, ground - tall * 0.55),
            (middle - half * 0.58, ground - tall),
            (middle + half * 0.58, ground - tall),
            (middle + half * 0.80, ground - tall * 0.55),
        ],
        shade,
        "Car",
    )
    canvas.polygon(
        [
            (middle - half * 0.66, ground - tall * 0.58),
            (middle - half * 0.50, ground - tall * 0.92),
            (middle + half * 0.50, ground - tall * 0.92),
            (middle + half * 0.66, ground - tall * 0.58),
        ],
        _vary((74, 92, 108), random),
        "Car",
    )
    canvas.box(middle - half, ground - tall * 0.60, middle + half, ground - tall * 0.12, paint, "Car")
    lights: Color = (196, 30, 30) if x > scene.vanishing_x else (240, 236, 200)
    for side in (-1, 1):
        canvas.ellipse((middle + side * half * 0.78, ground - tall * 0.42), half * 0.12, tall * 0.07, lights, "Car")
    plate = 0.25 * half
    canvas.box(middle - plate, ground - tall * 0.30, middle + plate, ground - tall * 0.18, (230, 230, 224), "Car")


def _person(canvas: _Canvas, foot: float, ground: float, tall: float, name: str, random: np.random.Generator) -> None:
    wide = tall * 0.13
    legs, shirt = _pick(_CLOTHES, random), _pick(_CLOTHES, random)
    for side in (-1, 1):
        at = foot + side * wide * 0.55
        canvas.box(at - wide * 0.42, ground - tall * 0.48, at + wide * 0.42, ground, legs, name)
    canvas.box(foot - wide, ground - tall * 0.86, foot + wide, ground - tall * 0.42, shirt, name)
    canvas.ellipse((foot, ground - tall * 0.92), wide * 0.7, tall * 0.09, _pick(_SKIN, random), name)


def _pedestrian(canvas: _Canvas, scene: _Scene, x: float, depth: float, random: np.random.Generator) -> None:
    foot, ground = scene.at(x, depth)
    _person(canvas, foot, ground, random.uniform(0.27, 0.33) * depth, "Pedestrian", random)


def _bicyclist(canvas: _Canvas, scene: _Scene, x: float, depth: float, random: np.random.Generator) -> None:
    middle, ground = scene.at(x, depth)
    radius = 0.055 * depth
    frame = _pick(_PAINTS, random)
    for side in (-1, 1):
        wheel = (middle + side * radius * 1.15, ground - radius * 1.3)
        canvas.ring(wheel, radius, radius * 1.3, 0.014 * depth, (26, 26, 28), "Bicyclist")
    for start, (x_end, rise) in ((-1, (1.0, 2.6)), (1, (0.0, 2.8))):
        hub, end = (middle + start * radius, ground - radius * 1.3), (middle + x_end * radius, ground - radius * rise)
        canvas.line(hub, end, 0.014 * depth, frame, "Bicyclist")
    _person(canvas, middle, ground - radius * 1.5, 0.26 * depth, "Bicyclist", random)


def _light(image: Bytes, random: np.random.Generator) -> Bytes:
    """Exposure, a tint, a brightness slope across the picture and sensor noise."""
    height, width, _ = image.shape
    exposure = random.uniform(0.75, 1.15) * random.uniform(0.94, 1.06, 3)
    slope = 1 + random.uniform(-0.15, 0.15) * np.linspace(-1, 1, width)[None, :, None]
    lit = image * exposure * slope + random.normal(0, 5, (height, width, 3))
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)
