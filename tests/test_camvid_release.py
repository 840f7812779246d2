"""CamVid's original release: 32 colours, its own classes or SegNet's eleven."""

from pathlib import Path

import numpy as np
import pytest
from data_files import error_of, save, save_image
from PIL import Image

from segnet_ext.data import CAMVID, CAMVID32, CAMVID32_TO_11, camvid32_dataset, camvid32_to_11_dataset
from segnet_ext.data.images import colorize

FRAMES = {"train": ["0001TP_006690", "Seq05VD_f02610"], "val": ["0016E5_07959"]}


@pytest.fixture
def release(tmp_path) -> Path:
    """Three frames whose labels show all 32 colours, in each row the next one."""
    root, random = tmp_path / "release", np.random.default_rng(0)
    rows = np.array([*CAMVID32.colors, (0, 0, 0)], np.uint8)
    for split, names in FRAMES.items():
        for name in names:
            save_image(root / "701_StillsRaw_full" / f"{name}.png", random, (32, 40))
            save(np.repeat(rows[:, None], 40, 1), root / "LabeledApproved_full" / f"{name}_L.png")
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    named = zip([*CAMVID32.names, "Void"], rows.tolist(), strict=True)
    lines = [f"{red} {green} {blue}\t\t{name}" for name, (red, green, blue) in named]
    (root / "label_colors.txt").write_text("\n".join(lines))
    return root


def test_release_has_31_classes_and_void(release):
    dataset = camvid32_dataset(release, "train", (32, 20))
    image, label = dataset[0]
    assert image.shape == (32, 20, 3)
    assert label[:, 0].tolist() == list(range(32)) and dataset.classes.void == 31
    assert np.array_equal(colorize(dataset.load_label(0), CAMVID32.colors)[:31, 0], np.array(CAMVID32.colors))


def test_release_takes_the_authors_lists(release):
    (release / "train.txt").write_text("/SegNet/CamVid/train/0001TP_006690.png /SegNet/CamVid/trainannot/x.png\n")
    assert camvid32_dataset(release, "train").pairs == [
        (
            release / "701_StillsRaw_full" / "0001TP_006690.png",
            release / "LabeledApproved_full" / "0001TP_006690_L.png",
        )
    ]


def test_release_in_the_eleven_classes(release):
    dataset = camvid32_to_11_dataset(release, "train")
    labels = dataset.load_label(0)[:, 0]
    assert dataset.classes == CAMVID and labels.tolist() == [*CAMVID32_TO_11, 11]
    groups: dict[str, list[str]] = {name: [] for name in CAMVID.names}
    for name, label in zip(CAMVID32.names, CAMVID32_TO_11, strict=True):
        groups[CAMVID.names[label]].append(name)
    assert groups["Car"] == ["Car", "OtherMoving", "SUVPickupTruck", "Train", "Truck_Bus"]
    assert groups["Pole"] == ["Column_Pole", "TrafficCone"] and groups["Sky"] == ["Sky"]
    # A class that keeps its name keeps its colour, but for the pavement, which the authors show in another.
    for group in CAMVID.names:
        if group in CAMVID32.names:
            assert CAMVID.colors[CAMVID.names.index(group)] == CAMVID32.colors[CAMVID32.names.index(group)]
    assert dataset.fingerprint() != camvid32_dataset(release, "train").fingerprint()


def test_release_with_an_unknown_colour(release):
    for name in FRAMES["train"]:
        path = release / "LabeledApproved_full" / f"{name}_L.png"
        pixels = np.array(Image.open(path))
        pixels[2, 31] = (26, 26, 26)
        save(pixels, path)
    dataset = camvid32_dataset(release, "train")
    path = release / "LabeledApproved_full" / "0001TP_006690_L.png"
    assert error_of(dataset.load_label, 0) == (
        f"{path} has the colour (26, 26, 26) at row 2, column 31, which CamVid does not have"
    )
    assert dataset.load_label(1)[2, 30:33].tolist() == [2, 31, 2], "the published file that is known to have others"


@pytest.mark.parametrize(
    "line, message",
    [
        ("1 2 3\tTree", "line 1: CamVid has no class of the colour '1 2 3'"),
        ("128 0 0\tTree", "line 1: the colour of Tree must be (128, 128, 0), got '128 0 0'"),
        ("Tree", "line 1: CamVid has no class of the colour 'Tree'"),
    ],
)
def test_release_with_other_label_colors(release, line, message):
    (release / "label_colors.txt").write_text(line)
    assert message in error_of(camvid32_dataset, release, "train")


def test_release_that_lacks_something(release):
    assert error_of(camvid32_dataset, release, "test") == f"the list {release / 'test.txt'} does not exist"
    path = release / "LabeledApproved_full" / "0001TP_006690_L.png"
    Image.new("RGB", (40, 30)).save(path)
    assert f"its annotation {path} is 30x40" in error_of(camvid32_dataset, release, "train")
    path.unlink()
    assert error_of(camvid32_dataset, release, "train") == f"{path} does not exist"
