"""Finding the files of a data set."""

from __future__ import annotations

from pathlib import Path

from segnet_ext.errors import InputError


def check_root(root: Path) -> None:
    """Raises InputError if the data set's folder does not exist."""
    if not root.is_dir():
        raise InputError(f"the data folder {root} does not exist")


def read_list(path: Path) -> list[tuple[int, list[str]]]:
    """Number (from 1) and words of each line that has any.

    Raises:
        InputError: the file is missing, not text, or empty.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"the list {path} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list {path} cannot be read: {error}") from error
    entries = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise InputError(f"the list {path} is empty")
    return entries


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The two paths that each line has: an image and its annotation.

    Raises:
        InputError: as ``read_list``, or a line has fewer or more.
    """
    pairs = []
    for number, words in read_list(path):
        if len(words) != 2:
            line = " ".join(words)
            raise InputError(f"{path}, line {number}: must be an image path and an annotation path, got {line!r}")
        pairs.append((words[0], words[1]))
    return pairs
