"""Folders with a classes.json: how they may be arranged, what the labels may be, and what is refused."""

import shutil

import numpy as np
import pytest
from data_files import error_of, save, save_image, write_folder
from PIL import Image

from segnet_ext.data import folder_dataset, palette


def test_folder_with_names_alone(tmp_path):
    root = write_folder(tmp_path, ["road", "car"], [np.array([[0, 1, 255]], np.uint8)])
    dataset = folder_dataset(root, "train")
    assert dataset.classes.names == ("road", "car") and dataset.classes.colors == palette(2)
    assert dataset.load_label(0).tolist() == [[0, 1, 2]]
    label = root / "train" / "labels" / "0.png"
    save(np.array([[0, 1, 2]], np.uint8), label)
    assert error_of(dataset.load_label, 0) == (
        f"{label} has the label 2 at row 0, column 2, which classes.json does not have"
    )


def test_folder_with_values(tmp_path):
    classes = [{"name": "road", "value": 700, "color": [1, 2, 3]}, {"name": "car", "value": 26}]
    root = write_folder(tmp_path, {"classes": classes, "void": [0, 9]}, [np.array([[700, 26, 0, 9]], np.uint16)])
    dataset = folder_dataset(root, "train")
    assert dataset.load_label(0).tolist() == [[0, 1, 2, 2]]
    assert dataset.classes.colors == ((1, 2, 3), palette(2)[1])
    fingerprint = dataset.fingerprint()
    write_folder(tmp_path, {"classes": classes, "void": [0]}, [])
    assert folder_dataset(root, "train").fingerprint() != fingerprint, "what void is makes another data set"


def test_folder_with_colors(tmp_path):
    classes = [{"name": "road", "color": [128, 64, 128]}, {"name": "car", "color": [0, 0, 142]}]
    pixels = np.array([[(128, 64, 128), (0, 0, 142), (0, 0, 0)]], np.uint8)
    root = write_folder(tmp_path, {"classes": classes, "labels": "colors"}, [pixels, pixels])
    label = root / "train" / "labels" / "1.png"
    Image.fromarray(pixels).quantize(4).save(label)
    dataset = folder_dataset(root, "train")
    assert [dataset.load_label(index).tolist() for index in range(2)] == [[[0, 1, 2]]] * 2
    Image.new("L", (3, 1), 7).save(label)
    assert "1.png has the colour (7, 7, 7) at row 0, column 0, which classes.json" in error_of(dataset.load_label, 1)
    Image.new("I;16", (3, 1)).save(label)
    assert "must be a label image in 8-bit colours, but its pixels are I;16" in error_of(dataset.load_label, 1)


def test_folder_arrangements(tmp_path):
    label = np.zeros((4, 6), np.uint8)
    root = write_folder(tmp_path / "a", ["road"], [label, label])
    by_list = tmp_path / "b"
    shutil.copytree(root, by_list)
    (by_list / "some.txt").write_text("train/images/1.jpg train/labels/1.png\n")
    assert folder_dataset(by_list, "some").pairs == [
        (by_list / "train" / "images" / "1.jpg", by_list / "train" / "labels" / "1.png")
    ]
    other = tmp_path / "c"
    other.mkdir()
    shutil.copy(root / "classes.json", other)
    for kind in ("images", "labels"):
        shutil.copytree(root / "train" / kind, other / kind / "train")
    (other / "images" / "train" / "._0.jpg").write_bytes(b"what a Mac leaves")
    assert [image.name for image, _ in folder_dataset(other, "train").pairs] == ["0.jpg", "1.jpg"]


def test_folder_that_lacks_something(tmp_path):
    label = np.zeros((4, 6), np.uint8)
    root = write_folder(tmp_path / "data", ["road"], [label, label])
    images, labels = root / "train" / "images", root / "train" / "labels"
    assert "has no split 'val': neither val.txt nor" in error_of(folder_dataset, root, "val")
    save_image(images / "0.png", np.random.default_rng(0))
    assert "have the same name" in error_of(folder_dataset, root, "train")
    (images / "0.png").rename(images / "2.png")
    message = f"{images / '2.png'} has no labels: {labels} has no image file named 2"
    assert error_of(folder_dataset, root, "train") == message
    save(label, labels / "2.png")
    assert "2.png is 24x32 but its annotation" in error_of(folder_dataset, root, "train")
    (images / "2.png").unlink()
    message = f"{labels / '2.png'} has no image: {images} has no image file named 2"
    assert error_of(folder_dataset, root, "train") == message
    shutil.rmtree(labels)
    assert error_of(folder_dataset, root, "train") == f"the folder {labels} cannot be read: No such file or directory"
    labels.mkdir()
    assert error_of(folder_dataset, root, "train") == f"the folder {labels} has no image files"
    (root / "classes.json").unlink()
    assert error_of(folder_dataset, root, "train") == f"{root / 'classes.json'} does not exist"


@pytest.mark.parametrize(
    "content, message",
    [
        ("[", "cannot be read as JSON"),
        ("7", "must be a list of class names"),
        ("[]", "must have 1 to 255 classes, got 0"),
        ('["a", "a"]', "the \"name\" of class 1 (from 0) must be a text that no other has, got 'a'"),
        ("[1]", "got 1"),
        ('{"classes": ["a"], "ignore": 255}', "the file has the unknown key 'ignore'"),
        ('[{"name": "a", "colour": [1, 2, 3]}]', "the class 'a' has the unknown key 'colour'"),
        (
            '[{"name": "a", "color": [1, 2, 300]}]',
            "a colour must be three whole numbers from 0 to 255, got [1, 2, 300]",
        ),
        ('[{"name": "a", "value": true}]', "a label must be a whole number from 0 to 65535, got True"),
        ('["a", {"name": "b", "value": 0}]', "'a' and 'b' have the same label 0"),
        ('{"classes": ["a", "b"], "void": [1]}', "\"void\" has 1, which is the label of 'b'"),
        ('{"classes": ["a"], "void": 255}', '"void" must be a list, got 255'),
        ('{"classes": ["a"], "labels": "rgb"}', '"labels" must be "values" or "colors", got \'rgb\''),
        ('{"classes": ["a"], "labels": "colors"}', "the class 'a' must have a \"color\""),
    ],
)
def test_folder_with_a_bad_classes_json(tmp_path, content, message):
    path = write_folder(tmp_path, [], []) / "classes.json"
    path.write_text(content)
    refused = error_of(folder_dataset, tmp_path, "train")
    assert refused.startswith(str(path)) and message in refused
