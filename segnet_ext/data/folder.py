"""Any folder of images and label maps, with a ``classes.json`` that says what the labels mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from segnet_ext.classes import ClassSet, Color, palette
from segnet_ext.data.dataset import FileDataset
from segnet_ext.data.files import check_root, read_pairs
from segnet_ext.data.labels import ColorLabels, LabelTable, ValueLabels
from segnet_ext.errors import InputError

CLASSES_FILE = "classes.json"
# Labels are 8 bits, and void needs one.
_MOST_CLASSES = 255
_VOID_VALUE = 255


def folder_dataset(root: Path, split: str, size: tuple[int, int] | None = None) -> FileDataset:
    """One split of a folder with a ``classes.json``.

    The pairs of the split are those that a list ``root/split.txt`` has, in each line the paths, from ``root`` on, of an
    image and its labels; without a list ``split/images/NAME.*`` and ``split/labels/NAME.*``, or ``images/split/NAME.*``
    and ``labels/split/NAME.*``. ``classes.json`` is a list of names, or an object::

        {
          "classes": [{"name": "road", "value": 7, "color": [128, 64, 128]}, {"name": "car", "value": 26}],
          "labels": "values",
          "void": [0, 255]
        }

    - ``labels`` is ``values`` (the default) where a label map has one channel of 8 or 16 bits, or ``colors`` where it
      shows each class in its colour, which each class must then have.
    - ``value`` of a class is the label's in the files; by default its place in the list, from 0 on.
    - ``color`` is also what predictions are shown in; by default one of PASCAL VOC's.
    - ``void`` lists the values (by default 255) or colours (by default black) that count nowhere.

    Args:
        root: the folder.
        split: such as ``train``.
        size: (height, width) that samples are resized to; None keeps each as stored.

    Raises:
        InputError: ``classes.json`` is missing or says something else, the split or a file is missing, an image has no
            labels or labels no image, or the two differ in size. A label map with a value or a colour that
            ``classes.json`` does not have is refused when it is read.
    """
    check_root(root)
    classes, labels = read_classes(root / CLASSES_FILE)
    dataset = FileDataset(_find_pairs(root, split), classes, size, labels)
    dataset.check_files()
    return dataset


def _find_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    listed = root / f"{split}.txt"
    if listed.exists():
        return [(root / image, root / label) for image, label in read_pairs(listed)]
    for image_folder, label_folder in (
        (root / split / "images", root / split / "labels"),
        (root / "images" / split, root / "labels" / split),
    ):
        if image_folder.is_dir():
            return _pairs_by_name(image_folder, label_folder)
    raise InputError(
        f"{root} has no split {split!r}: neither {split}.txt nor the folders {split}/images and {split}/labels, nor "
        f"images/{split} and labels/{split}"
    )


def _pairs_by_name(image_folder: Path, label_folder: Path) -> list[tuple[Path, Path]]:
    images, labels = _by_stem(image_folder), _by_stem(label_folder)
    for name in sorted(images.keys() ^ labels.keys()):
        if name in images:
            raise InputError(f"{images[name]} has no labels: {label_folder} has no image file named {name}")
        raise InputError(f"{labels[name]} has no image: {image_folder} has no image file named {name}")
    return [(images[name], labels[name]) for name in sorted(images)]


def _by_stem(folder: Path) -> dict[str, Path]:
    """The image files in a folder, by their names without suffix; hidden ones do not count."""
    suffixes = Image.registered_extensions()
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.name[0] != ".")
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read: {error.strerror}") from error
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise InputError(f"{found[path.stem]} and {path} have the same name, so that it is open which one counts")
        found[path.stem] = path
    if not found:
        raise InputError(f"the folder {folder} has no image files")
    return found


def read_classes(path: Path) -> tuple[ClassSet, LabelTable]:
    """The classes of a ``classes.json``, and what reads label maps of theirs.

    Raises:
        InputError: the file is missing or says something else than ``folder_dataset`` describes.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    try:
        return _parse({"classes": content} if isinstance(content, list) else content)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _parse(content: Any) -> tuple[ClassSet, LabelTable]:
    if not isinstance(content, dict) or not isinstance(content.get("classes"), list):
        raise ValueError('must be a list of class names, or an object with such a list as "classes"')
    _check_keys(content, {"classes", "labels", "void"}, "the file")
    entries = [entry if isinstance(entry, dict) else {"name": entry} for entry in content["classes"]]
    if not 1 <= len(entries) <= _MOST_CLASSES:
        raise ValueError(f"must have 1 to {_MOST_CLASSES} classes, got {len(entries)}")
    names: list[str] = []
    for number, entry in enumerate(entries):
        name = entry.get("name")
        if not isinstance(name, str) or not name.strip() or name in names:
            raise ValueError(f'the "name" of class {number} (from 0) must be a text that no other has, got {name!r}')
        names.append(name)
        _check_keys(entry, {"name", "value", "color"}, f"the class {name!r}")
    colors = [_color(entry["color"]) if "color" in entry else None for entry in entries]
    shown = tuple(color or other for color, other in zip(colors, palette(len(entries)), strict=True))
    classes = ClassSet(tuple(names), shown)
    kind = content.get("labels", "values")
    if kind == "values":
        values = [_value(entry.get("value", number)) for number, entry in enumerate(entries)]
        void_values = [_value(value) for value in _listed(content, [] if _VOID_VALUE in values else [_VOID_VALUE])]
        return classes, ValueLabels(_table(names, values, void_values), CLASSES_FILE)
    if kind == "colors":
        if None in colors:
            raise ValueError(f'the class {names[colors.index(None)]!r} must have a "color", as the labels are colours')
        given = [color for color in colors if color is not None]
        void_colors = [_color(color) for color in _listed(content, [] if (0, 0, 0) in given else [[0, 0, 0]])]
        return classes, ColorLabels(_table(names, given, void_colors), CLASSES_FILE)
    raise ValueError(f'"labels" must be "values" or "colors", got {kind!r}')


def _check_keys(entry: dict[str, Any], known: set[str], subject: str) -> None:
    if unknown := sorted(entry.keys() - known):
        raise ValueError(f"{subject} has the unknown key {unknown[0]!r}")


def _listed(content: dict[str, Any], default: list[Any]) -> list[Any]:
    void = content.get("void", default)
    if not isinstance(void, list):
        raise ValueError(f'"void" must be a list, got {void!r}')
    return void


def _table(names: list[str], given: list[Any], void: list[Any]) -> dict[Any, int]:
    """The label of each value or colour."""
    table: dict[Any, int] = {}
    for label, key in enumerate([*given, *void]):
        if label < len(names) and key in table:
            raise ValueError(f"{names[table[key]]!r} and {names[label]!r} have the same label {key}")
        if label >= len(names) and table.get(key, len(names)) < len(names):
            raise ValueError(f'"void" has {key}, which is the label of {names[table[key]]!r}')
        table[key] = min(label, len(names))
    return table


def _value(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 16:
        raise ValueError(f"a label must be a whole number from 0 to 65535, got {value!r}")
    return value


def _color(value: Any) -> Color:
    if not isinstance(value, list) or len(value) != 3 or not all(type(v) is int and 0 <= v <= 255 for v in value):
        raise ValueError(f"a colour must be three whole numbers from 0 to 255, got {value!r}")
    return value[0], value[1], value[2]
