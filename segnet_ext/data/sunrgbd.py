"""SUN RGB-D with its 37 classes: the release with the label maps of its toolbox (.mat), or as numbered PNG files."""

from __future__ import annotations

import contextlib
import hashlib
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from segnet_ext.classes import SUNRGBD
from segnet_ext.data.dataset import FileDataset
from segnet_ext.data.files import check_root
from segnet_ext.data.images import Bytes, image_size
from segnet_ext.data.labels import ValueLabels
from segnet_ext.errors import InputError, require

T = TypeVar("T")

TOOLBOX = "SUNRGBDtoolbox"
_META, _SPLITS = "Metadata/SUNRGBDMeta.mat", "traintestSUNRGBD/allsplit.mat"
_LABELS, _CLASSES = "Metadata/SUNRGBD2Dseg.mat", "Metadata/seg37list.mat"

# Of the PNG layouts, {split} being train or test: the folders of images and of labels, and what the number of a
# training image's labels is more than its own.
PNG_LAYOUTS = (
    ("image/{split}", "label37/{split}", 0),
    ("SUNRGBD-{split}_images", "sunrgbd_train_test_labels", 5050),
)
_TABLE = ValueLabels({0: SUNRGBD.void} | {index + 1: index for index in range(len(SUNRGBD))}, "SUN RGB-D (0 to 37)")
_VAL_EVERY = 10

# What scipy and h5py raise for files that are cut short or hold something else.
_UNREADABLE = (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, NotImplementedError)


def sunrgbd_dataset(root: Path, split: str, size: tuple[int, int] | None = None) -> FileDataset:
    """One split of SUN RGB-D; label 0 of the files is void, and 1 to 37 are the classes 0 to 36.

    ``root`` has one of

    - ``SUNRGBD/`` and ``SUNRGBDtoolbox/`` as the authors' archives unpack. The toolbox needs scipy and h5py.
    - ``image/train/*.jpg`` and ``label37/train/*.png``, and the same for test, as in the repository chrischoy/SUN_RGBD.
    - ``SUNRGBD-train_images/*.jpg``, ``SUNRGBD-test_images/*.jpg`` and ``sunrgbd_train_test_labels/*.png``: the
      archives of the repository ankurhanda/sunrgbd-meta-data, each unpacked in a folder of its name.

    In the latter two, files belong together by the last number in their names. In the last, the labels of the 5050
    test images come first.

    The authors (Song, Lichtenberg and Xiao, SUN RGB-D, CVPR 2015) give 5285 images to train with and 5050 to test. Here
    every tenth of the former is ``val``, the others are ``train`` and all are ``trainval``.

    Args:
        root: the folder.
        split: ``train``, ``val``, ``trainval`` or ``test``.
        size: (height, width) that samples are resized to; None keeps each as stored.

    Raises:
        InputError: the split or the layout is unknown, a file is missing or damaged, the toolbox has other classes, a
            package is missing, or an image and its labels differ in size. A label map with a label past 37 is refused
            when it is read.
    """
    check_root(root)
    if split not in ("train", "val", "trainval", "test"):
        raise InputError(f"SUN RGB-D has the splits train, val, trainval and test, got {split!r}")
    part = "test" if split == "test" else "train"
    if (root / TOOLBOX).is_dir():
        entries = _choose(_toolbox_entries(root, part), split)
        images = [image for image, _ in entries]
        dataset: FileDataset = _ToolboxDataset(images, [place for _, place in entries], root / TOOLBOX, size)
    else:
        dataset = FileDataset(_choose(_numbered_pairs(root, part), split), SUNRGBD, size, _TABLE)
    dataset.check_files()
    return dataset


def _choose(entries: list[T], split: str) -> list[T]:
    if split in ("train", "val"):
        entries = [entry for number, entry in enumerate(entries, 1) if (number % _VAL_EVERY == 0) == (split == "val")]
    if not entries:
        raise InputError(f"SUN RGB-D: there are too few images for the split {split}")
    return entries


def _numbered_pairs(root: Path, part: str) -> list[tuple[Path, Path]]:
    layouts = [(images.format(split=part), labels.format(split=part), more) for images, labels, more in PNG_LAYOUTS]
    for image_folder, label_folder, more in layouts:
        if not (root / image_folder).is_dir():
            continue
        images, labels = _by_number(root / image_folder), _by_number(root / label_folder)
        shift = more if part == "train" else 0
        for number, path in images.items():
            if number + shift not in labels:
                raise InputError(f"{path} has no labels: {root / label_folder} has no PNG file number {number + shift}")
        return [(images[number], labels[number + shift]) for number in sorted(images)]
    folders = ", ".join(f"{images}/" for images, _, _ in layouts)
    raise InputError(f"{root} has none of SUN RGB-D's folders for {part}: {TOOLBOX}/, {folders}")


def _by_number(folder: Path) -> dict[int, Path]:
    found: dict[int, Path] = {}
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read: {error.strerror}") from error
    for path in paths:
        numbers = re.findall(r"\d+", path.stem)
        if not numbers or path.name[0] == ".":
            continue
        number = int(numbers[-1])
        if number in found:
            raise InputError(f"{found[number]} and {path} have the same number, so that it is open which one counts")
        found[number] = path
    return found


class _ToolboxDataset(FileDataset):
    """Images of the release with label maps of ``SUNRGBD2Dseg.mat``, which are read one at a time: together they fill
    64 GB.

    Args:
        images: paths.
        places: of each image in the toolbox's lists, from 0 on.
        toolbox: the folder.
        size: as of ``FileDataset``.
    """

    def __init__(self, images: list[Path], places: list[int], toolbox: Path, size: tuple[int, int] | None) -> None:
        super().__init__([(image, toolbox / _LABELS) for image in images], SUNRGBD, size, _TABLE)
        self._places = places
        self._path = toolbox / _LABELS

    def check_files(self) -> None:
        with _label_maps(self._path) as label_map:
            for (image, _), place in zip(self.pairs, self._places, strict=True):
                stored, labelled = image_size(image), label_map(place).shape[::-1]
                if stored != labelled:
                    raise InputError(
                        f"{image} is {stored[0]}x{stored[1]} but its labels, entry {place + 1} of {self._path}, are "
                        f"{'x'.join(map(str, labelled))} (height x width)"
                    )

    def load_label(self, index: int) -> Bytes:
        place = self._places[index]
        with _label_maps(self._path) as label_map:
            values = np.array(label_map(place)).T  # MATLAB's arrays lie column by column
        return _TABLE.translate(values, f"{self.pairs[index][0]}, entry {place + 1} of {self._path},")

    def sample_size(self, index: int) -> tuple[int, int]:
        return self.size or image_size(self.pairs[index][0])

    def fingerprint(self) -> str:
        digest = hashlib.sha256(super().fingerprint().encode())
        digest.update(repr(self._places).encode())
        return digest.hexdigest()


@contextlib.contextmanager
def _label_maps(path: Path) -> Iterator[Callable[[int], Any]]:
    """Yields a function that gives the label map at a place, an h5py dataset [W, H].

    The file is opened anew each time, since an HDF5 file that is open cannot be handed to worker processes.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            references = file["SUNRGBD2Dseg"]["seglabel"]
            yield lambda place: file[references[place].item()]
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except _UNREADABLE as error:
        raise InputError(f"{path} is damaged, or not SUN RGB-D's file of label maps: {error}") from error


def _toolbox_entries(root: Path, part: str) -> list[tuple[Path, int]]:
    """The images of ``train`` or ``test`` in the toolbox's order, and their places in its lists."""
    require("SUN RGB-D's toolbox", "h5py", "scipy")
    toolbox = root / TOOLBOX
    if (toolbox / _CLASSES).exists():
        names = tuple(str(name) for name in np.atleast_1d(_load_mat(toolbox / _CLASSES, "seg37list")))
        if names != SUNRGBD.names:
            raise InputError(
                f"{toolbox / _CLASSES} must have the classes {', '.join(SUNRGBD.names)}, got {', '.join(names)}"
            )
    scenes = {_from_sunrgbd(path) for path in np.atleast_1d(_load_mat(toolbox / _SPLITS, f"all{part}"))}
    entries = []
    for place, entry in enumerate(np.atleast_1d(_load_mat(toolbox / _META, "SUNRGBDMeta"))):
        parts = _from_sunrgbd(getattr(entry, "rgbpath", ""))
        if parts and parts[:-2] in scenes:  # a scene's image is in its folder image
            entries.append((root.joinpath(*parts), place))
    if not entries:
        raise InputError(f"{toolbox / _META} has none of the images that {toolbox / _SPLITS} has as all{part}")
    return entries


def _from_sunrgbd(path: object) -> tuple[str, ...]:
    """The parts from SUNRGBD on of a path on the authors' machine, /n/fs/sun3d/data/SUNRGBD/kv2/…; else none."""
    parts = PurePosixPath(str(path)).parts
    return parts[parts.index("SUNRGBD") :] if "SUNRGBD" in parts and ".." not in parts else ()


def _load_mat(path: Path, name: str) -> Any:
    from scipy.io import loadmat  # type: ignore[import-untyped]
    from scipy.io.matlab import MatReadError  # type: ignore[import-untyped]

    try:
        return loadmat(str(path), squeeze_me=True, struct_as_record=False, variable_names=[name])[name]
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (*_UNREADABLE, MatReadError, zlib.error) as error:
        raise InputError(f"{path} is damaged, or has no {name}: {error}") from error
