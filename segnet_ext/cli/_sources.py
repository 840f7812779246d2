"""What ``segnet-ext predict`` reads, and the names of what it writes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from segnet_ext.errors import InputError

VIDEO_SUFFIXES = frozenset(
    (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv")
)


@dataclass(frozen=True)
class Source:
    """A file to read.

    Attributes:
        path: the file.
        target: what the names of its results begin with, a path below the output folder.
    """

    path: Path
    target: Path

    @property
    def is_video(self) -> bool:
        return _is_video(self.path)

    def outputs(self, kinds: Sequence[str], frames: bool) -> list[Path]:
        """The file of each of ``kinds`` (``overlay`` and so on), or the one folder of a video's ``frames``."""
        if self.is_video and frames:
            return [self.target]
        suffixes = {kind: ".png" if not self.is_video else ".mp4" if kind == "overlay" else ".mkv" for kind in kinds}
        return [self.target.with_name(f"{self.target.name}_{kind}{suffix}") for kind, suffix in suffixes.items()]


def find_sources(inputs: Sequence[Path], out: Path) -> list[Source]:
    """The files that ``inputs`` stand for: themselves, and of a folder all images and videos in it and below.

    Results of a file NAME.EXT are named ``out``/NAME; those of a folder's file keep its path from the folder's name on.
    Hidden files and earlier results in ``out`` are left out.

    Raises:
        InputError: a folder has no image and no video, or cannot be read.
    """
    sources = []
    for path in inputs:
        if not path.is_dir():
            sources.append(Source(path, out / path.stem))
            continue
        target = out / path.resolve().name
        files = list(_walk(path, {out.resolve(), target.resolve()}))
        if not files:
            raise InputError(f"the folder {path} has no image and no video")
        for file in files:
            relative = file.relative_to(path)
            sources.append(Source(file, target / relative.parent / relative.stem))
    return sources


def _walk(top: Path, skipped: set[Path]) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise InputError(f"the folder {error.filename} cannot be read: {error.strerror}") from error

    for name, folders, files in os.walk(top, onerror=stop):
        folder = Path(name)
        folders[:] = sorted(
            child for child in folders if not child.startswith(".") and (folder / child).resolve() not in skipped
        )
        for file in sorted(files):
            if not file.startswith(".") and (is_image(folder / file) or _is_video(folder / file)):
                yield folder / file


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def is_image(path: Path) -> bool:
    """Whether Pillow reads files with such a name."""
    from PIL import Image

    return Image.registered_extensions().get(path.suffix.lower()) in Image.OPEN


def check_outputs(sources: Sequence[Source], out: Path, kinds: Sequence[str], frames: bool) -> None:
    """Refuses two files whose results would have the same name or lie among another's frames, and results that would
    be written over a file that is read.

    Raises:
        InputError: names the two files.
    """
    read = {source.path.resolve() for source in sources}
    owners: dict[Path, Source] = {}
    for source in sources:
        for output in source.outputs(kinds, frames):
            other = owners.setdefault(output, source)
            if other is not source:
                raise _clash(other, source, output.relative_to(out))
            if output.resolve() in read:
                raise InputError(f"the result of {source.path} would overwrite the image {output}: give another --out")
    if not frames:
        return
    folders = {source.target: source for source in sources if source.is_video}
    for output, source in owners.items():
        for folder in output.parents:
            if folder in folders:
                raise _clash(folders[folder], source, folder.relative_to(out))
    for folder, source in folders.items():
        for path in read:
            if path.parent == folder.resolve():
                raise InputError(
                    f"the frames of {source.path} would be written beside the input {path}: give another --out"
                )


def _clash(first: Source, second: Source, name: Path) -> InputError:
    return InputError(
        f"{first.path} and {second.path} would both be written as {name}: run them apart, with another --out"
    )
