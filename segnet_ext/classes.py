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
