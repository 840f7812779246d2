"""Video files, read and written frame by frame through PyAV (FFmpeg)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from segnet_ext.data.images import Bytes
from segnet_ext.errors import InputError, require

require("segnet_ext.data.video", "av", extra="video")

import av  # noqa: E402
from av.error import FFmpegError  # noqa: E402

_DEFAULT_RATE = Fraction(25)
_UNREADABLE = (FFmpegError, OSError, ValueError, EOFError)


@dataclass(frozen=True)
class Frame:
    """One picture of a video.

    Attributes:
        image: uint8 RGB [H, W, 3], upright; all frames of a video have the size of the first.
        time: seconds since the video's clock began; frames come in its order.
    """

    image: Bytes
    time: Fraction


def frame_count(path: Path) -> int:
    """About how many frames the video has by its header, at least 1; checks that it can be read.

    Raises:
        InputError: the file is missing, not a video, or holds no pictures.
    """
    with _open(path) as (container, stream):
        if stream.frames:
            return int(stream.frames)
        seconds = container.duration / av.time_base if container.duration else 0
        return max(1, round(seconds * _rate(stream)))


def frame_rate(path: Path) -> Fraction:
    """Frames in a second, on average; 25 where the file does not say.

    Raises:
        InputError: as in :func:`frame_count`.
    """
    with _open(path) as (_, stream):
        return _rate(stream)


def read_video(path: Path) -> Iterator[Frame]:
    """Decodes a video frame by frame; no more than the decoder's few frames are in memory.

    Raises:
        InputError: as in :func:`frame_count`, or the file is damaged or empty.
    """
    with _open(path) as (container, stream):
        size: tuple[int, int] | None = None
        last = Fraction(-1)
        for decoded in container.decode(stream):
            turns = decoded.rotation // 90 % 4
            height, width = (decoded.height, decoded.width) if turns % 2 == 0 else (decoded.width, decoded.height)
            size = size or (height, width)
            height, width = size if turns % 2 == 0 else size[::-1]
            pixels = decoded.reformat(width=width, height=height, format="rgb24").to_ndarray()
            time = None if decoded.pts is None else decoded.pts * decoded.time_base
            if time is None or time <= last:  # raw streams have no clock, damaged ones repeat themselves
                time = last + 1 / _rate(stream) if last >= 0 else Fraction(0)
            last = time
            yield Frame(np.ascontiguousarray(np.rot90(pixels, turns)), time)
        if size is None:
            raise InputError(f"{path} cannot be read as a video: it holds no frame")


def _rate(stream: Any) -> Fraction:
    return stream.average_rate or stream.guessed_rate or _DEFAULT_RATE


@contextmanager
def _open(path: Path) -> Iterator[tuple[Any, Any]]:
    if not path.is_file():
        raise InputError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
    try:
        # A file may name others to play, also on the network: it is held to files.
        with av.open(str(path.resolve()), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise ValueError("it holds no pictures")
            yield container, container.streams.video[0]
    except _UNREADABLE as error:
        raise InputError(f"{path} cannot be read as a video: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class VideoWriter:
    """Writes a video frame by frame, beside ``path``, and renames it to ``path`` once it is whole.

    ``with VideoWriter(...) as video: video.write(...)``; where the block ends with an exception, nothing is left.

    Args:
        path: ``.mp4`` is written as H.264 (MPEG-4 where PyAV was built without) in the colours that all players
            show, which loses some detail; ``.mkv`` as FFV1, in which every pixel keeps its value.
        rate: frames in a second, for players that do not go by the frames' times.

    Raises:
        InputError: in any method, the file cannot be written.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        self._path = path
        self._rate = rate
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._container: Any = None
        self._stream: Any = None
        self._start = Fraction(0)

    def __enter__(self) -> VideoWriter:
        container_format = {".mp4": "mp4", ".mkv": "matroska"}[self._path.suffix]
        with self._errors():
            self._container = av.open(str(self._temporary.resolve()), "w", format=container_format)
        return self

    def write(self, pixels: Bytes, time: Fraction) -> None:
        """Adds a frame, uint8 [H, W, 3] RGB or [H, W] grey, all of one size, shown from ``time`` (seconds) on."""
        with self._errors():
            if self._stream is None:
                self._start = time
                self._add_stream(pixels)
            if self._path.suffix == ".mp4":  # 4:2:0 has colours for every second row and column alone
                edges = [(0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)]
                pixels = np.pad(pixels, edges[: pixels.ndim], mode="edge")
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24" if pixels.ndim == 3 else "gray")
            frame.time_base = self._stream.codec_context.time_base
            frame.pts = round((time - self._start) / frame.time_base)
            self._container.mux(self._stream.encode(frame))

    def _add_stream(self, pixels: Bytes) -> None:
        height, width = pixels.shape[:2]
        if self._path.suffix == ".mp4":
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            self._stream = self._container.add_stream(codec, rate=self._rate)
            self._stream.pix_fmt = "yuv420p"
            height, width = height + height % 2, width + width % 2
        else:
            self._stream = self._container.add_stream("ffv1", rate=self._rate)
            self._stream.pix_fmt = "gray" if pixels.ndim == 2 else "bgr0"
        self._stream.height, self._stream.width = height, width
        # Finer than any camera's clock, so that frames of uneven times keep them.
        self._stream.codec_context.time_base = Fraction(1, 60000)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._errors():
                try:
                    if kind is None and self._stream is not None:
                        self._container.mux(self._stream.encode())
                finally:
                    self._container.close()
                if kind is None:
                    with open(self._temporary, "rb") as file:
                        os.fsync(file.fileno())
                    os.replace(self._temporary, self._path)
        except InputError:
            if kind is None:  # else the first error is the one to tell
                raise
        finally:
            self._temporary.unlink(missing_ok=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (FFmpegError, OSError) as error:
            raise InputError(f"{self._path} cannot be written: {_reason(error)}") from error
