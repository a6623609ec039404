"""Single frames as small JPEG files: thumbnails, trim previews, the live preview."""

from __future__ import annotations

import io
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from src.config import Options
from src.errors import FlashVSRError
from src.video import MediaInfo, PictureFolder, PictureReader, Source, VideoReader, is_picture, open_source, probe
from src.video.pictures import to_8bit

log = logging.getLogger(__name__)

PREVIEW_SECONDS = 1.0  # between two live previews
PREVIEW_SIZE = 1280
THUMBNAIL_SIZE = 320


def jpeg(frame: np.ndarray, size: int, quality: int = 85) -> bytes:
    """``frame`` (H, W, 3) uint8 or uint16 as a JPEG whose longer side is at most ``size``."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(to_8bit(frame[..., :3])))
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_whole(path: Path, data: bytes) -> None:
    """A file that is being fetched while it is replaced is the old or the new one, never half."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)  # noqa: PTH105
    finally:
        temporary.unlink(missing_ok=True)


def frame_at(info: MediaInfo, time: Fraction) -> np.ndarray:
    """The frame that is shown ``time`` seconds after the beginning of the video, (H, W, 3). FlashVSRError."""
    last = max(info.first, info.first + info.duration - 1 / info.fps)
    start = min(max(time, info.first), last)
    with VideoReader(info, start, start + 1 / info.fps) as reader:
        return next(iter(reader))


class InputFrames:
    """Single frames of a job's input, by the number that they have in its output."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._info = None if options.input.is_dir() or is_picture(options.input) else probe(options.input)
        self._source: Source | None = None
        if self._info is None:
            self._source = open_source(options.input, options.start, options.end, options.fps)
        else:
            window = VideoReader(self._info, options.start, options.end, options.fps).window
            self._begin, self._rate = window.begin, window.rate

    def get(self, index: int) -> np.ndarray:
        """(H, W, 3). Raises FlashVSRError."""
        if isinstance(self._source, (PictureReader, PictureFolder)):
            return next(iter(PictureReader(self._source.paths[min(index, len(self._source.paths) - 1)])))
        assert self._info is not None
        return frame_at(self._info, self._begin + index / self._rate)


def save_thumbnail(options: Options, folder: Path) -> None:
    """``thumb.jpg`` of the first frame. An input that cannot be read raises what the job would raise."""
    with open_source(options.input, options.start, options.end, options.fps) as source:
        frame = next(iter(source))
    write_whole(folder / "thumb.jpg", jpeg(frame, THUMBNAIL_SIZE))


class Preview:
    """The live preview: the newest output frame and its input, written beside each other as the job runs.

    ``offer`` returns at once; a thread of its own encodes, and frames that come meanwhile are skipped.
    """

    def __init__(self, options: Options, folder: Path, report: Callable[..., None]) -> None:
        self._options, self._folder, self._report = options, folder, report
        self._inputs: InputFrames | None = None
        self._busy: threading.Thread | None = None
        self._next = 0.0
        self._number = 0

    def offer(self, done: int, frame: np.ndarray) -> None:
        """``done``: frames so far. ``frame``: the last of them, (H, W, 3) uint8."""
        if time.monotonic() < self._next or (self._busy is not None and self._busy.is_alive()):
            return
        # daemon: a worker that is told to end does not wait for a picture
        self._busy = threading.Thread(target=self._make, args=(done - 1, frame.copy()), name="preview", daemon=True)
        self._busy.start()

    def finish(self) -> None:
        """Wait for the picture in work."""
        if self._busy is not None:
            self._busy.join(30)

    def _make(self, index: int, frame: np.ndarray) -> None:
        began = time.monotonic()
        try:
            self._inputs = self._inputs or InputFrames(self._options)
            write_whole(self._folder / "preview_in.jpg", jpeg(self._inputs.get(index), PREVIEW_SIZE))
            write_whole(self._folder / "preview_out.jpg", jpeg(frame, PREVIEW_SIZE))
        except (FlashVSRError, OSError, StopIteration) as error:
            log.warning("no preview of frame %d: %s", index, error)
            self._next = time.monotonic() + 10
            return
        self._number += 1
        self._report(preview=self._number, preview_frame=index)
        # Never more than a tenth of the time for looking.
        self._next = time.monotonic() + max(PREVIEW_SECONDS, 9 * (time.monotonic() - began))
