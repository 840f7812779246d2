"""The data sets that can be opened by name, and which of them a folder holds."""

from __future__ import annotations

from pathlib import Path

from segnet_ext.data.camvid import CAMVID32_LABELS, camvid32_dataset, camvid32_to_11_dataset, camvid_dataset
from segnet_ext.data.dataset import FileDataset
from segnet_ext.data.files import check_root
from segnet_ext.data.folder import CLASSES_FILE, folder_dataset
from segnet_ext.data.sunrgbd import PNG_LAYOUTS, TOOLBOX, sunrgbd_dataset
from segnet_ext.errors import InputError

DATASETS = {
    "camvid": camvid_dataset,
    "camvid32": camvid32_dataset,
    "camvid32-to-11": camvid32_to_11_dataset,
    "sunrgbd": sunrgbd_dataset,
    "folder": folder_dataset,
}


def open_dataset(root: Path, split: str, size: tuple[int, int] | None = None, name: str | None = None) -> FileDataset:
    """One split of a data set.

    Args:
        root: its folder.
        split: such as ``train``, ``val`` or ``test``.
        size: (height, width) that samples are resized to; None keeps each as stored.
        name: which of ``DATASETS``; None looks at the folder.

    Raises:
        InputError: as ``detect_dataset`` and the function of that name in ``DATASETS``.
        ValueError: ``DATASETS`` has no such name.
    """
    name = name or detect_dataset(root)
    if name not in DATASETS:
        raise ValueError(f"open_dataset: name must be one of {', '.join(DATASETS)}, got {name!r}")
    return DATASETS[name](root, split, size)


def detect_dataset(root: Path) -> str:
    """The name in ``DATASETS`` of what ``root`` holds; CamVid's release is taken with its own classes, ``camvid32``.

    Raises:
        InputError: the folder does not exist, or holds none.
    """
    check_root(root)
    if (root / CLASSES_FILE).exists():
        return "folder"
    if (root / CAMVID32_LABELS).is_dir():
        return "camvid32"
    sunrgbd = [TOOLBOX, *(labels.partition("/")[0] for _, labels, _ in PNG_LAYOUTS)]
    if any((root / folder).is_dir() for folder in sunrgbd):
        return "sunrgbd"
    if any((root / f"{split}.txt").exists() for split in ("train", "val", "test")):
        return "camvid"
    raise InputError(
        f"{root} holds no known data set: it has none of train.txt (CamVid as SegNet's authors publish it), "
        f"{CAMVID32_LABELS}/ (CamVid's release), {'/, '.join(sunrgbd)}/ (SUN RGB-D) and {CLASSES_FILE} (a folder of "
        "one's own)"
    )
