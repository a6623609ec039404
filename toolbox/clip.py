"""A clip on its way through a chain: frames that are made when asked for, a rate, and the sound that goes with them."""

from __future__ import annotations

import copy
import itertools
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from src.errors import Cancelled, InputError, VideoError
from src.video import MediaInfo, PictureFolder, VideoReader, VideoWriter, is_picture, open_source, probe
from src.video.presets import LOSSLESS, SILENT
from toolbox.sound import Segment, Sound

log = logging.getLogger(__name__)

WINDOW_BYTES = 128 * 2**20  # frames held at once where a clip is read backwards
REPORT_SECONDS = 0.1


@dataclass(frozen=True)
class Progress:
    """``stage``: what is being done. ``done`` of ``total`` (None: unknown) in ``unit``: "frames" or "%"."""

    stage: str
    done: int
    total: int | None
    unit: str = "frames"


@dataclass(frozen=True)
class Clip:
    """Frames (height, width, 3) RGB, uint8, or uint16 (0..65535) where ``deep``.

    ``frames(first, stop)``: an iterator over that part (None: to the end). Where not ``seekable``, only the whole
    may be asked for, and each time it is computed anew. ``count``: frames expected. ``media``: the file whose colour
    tags and tracks belong to it.
    """

    width: int
    height: int
    rate: Fraction
    count: int
    deep: bool
    frames: Callable[[int, int | None], Iterator[np.ndarray]]
    seekable: bool
    sound: Sound
    media: MediaInfo | None = None
    name: str = ""
    pictures: bool = False

    @property
    def duration(self) -> Fraction:
        """Seconds."""
        return self.count / self.rate

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.frames(0, None)

    def mapped(self, change: Callable[[np.ndarray], np.ndarray], width: int = 0, height: int = 0) -> Clip:
        """The clip with every frame changed by itself."""

        def frames(first: int, stop: int | None) -> Iterator[np.ndarray]:
            return (change(frame) for frame in self.frames(first, stop))

        return replace(self, frames=frames, width=width or self.width, height=height or self.height)

    def streamed(self, make: Callable[[Iterator[np.ndarray]], Iterator[np.ndarray]], **changes: object) -> Clip:
        """The clip with its stream of frames replaced; no longer seekable."""

        def frames(first: int, stop: int | None) -> Iterator[np.ndarray]:
            return itertools.islice(make(iter(self)), first, stop)

        return replace(self, frames=frames, seekable=False, **changes)  # type: ignore[arg-type]

    def part(self, first: int, stop: int) -> Clip:
        """Frames ``first`` to ``stop`` (excluded), with their sound."""

        def frames(begin: int, end: int | None) -> Iterator[np.ndarray]:
            return self.frames(first + begin, stop if end is None else min(stop, first + end))

        if (first, stop) == (0, self.count):
            return self
        sound = self.sound.cut(first / self.rate, stop / self.rate)
        return replace(self, frames=frames, count=stop - first, sound=sound)


@dataclass
class Job:
    """One run: where notes are taken, progress goes and a wish to stop is heard.

    ``folder``: for temporary files; removed at the end. ``models_dir``: folder of the weights.
    """

    output: Path | None = None
    overwrite: bool = False
    progress: Callable[[Progress], None] | None = None
    cancel: threading.Event | None = None
    models_dir: Path = Path("models")
    notes: list[str] = field(default_factory=list)
    _folder: tempfile.TemporaryDirectory[str] | None = None
    _told: float = 0.0
    _stage: str = ""
    _number: int = 0

    def note(self, text: str) -> None:
        """Something the person should know."""
        if text not in self.notes:
            self.notes.append(text)
            log.info("%s", text)

    def check(self) -> None:
        """Raises Cancelled when the caller wants to stop."""
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled("cancelled; nothing was written")

    def report(self, stage: str, done: int, total: int | None, unit: str = "frames", last: bool = False) -> None:
        """Tell how far it is, not more often than a person can see."""
        self.check()
        now = time.monotonic()
        due = last or stage != self._stage or now - self._told >= REPORT_SECONDS
        if self.progress is not None and due:
            self._told, self._stage = now, stage
            self.progress(Progress(stage, done, total, unit))

    def follow(self, frames: Iterator[np.ndarray], stage: str, total: int | None) -> Iterator[np.ndarray]:
        """The same frames, counted."""
        done = 0
        for frame in frames:
            self.report(stage, done, total)
            yield frame
            done += 1
        self.report(stage, done, total, last=True)

    def workspace(self, name: str) -> Path:
        """A new name in a folder that is removed at the end; on the disk of the output, where room is expected."""
        if self._folder is None:
            beside = None if self.output is None else self.output.parent
            try:
                if beside is not None:
                    beside.mkdir(parents=True, exist_ok=True)
                self._folder = tempfile.TemporaryDirectory(prefix=".toolbox-", dir=beside)
            except OSError as error:
                raise VideoError(
                    f"{beside}: no temporary folder can be made there: {error.strerror or error}"
                ) from error
        self._number += 1
        return Path(self._folder.name) / f"{self._number}-{name}"

    def close(self) -> None:
        """Remove the temporary files."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def seekable(self, clip: Clip, why: str) -> Clip:
        """``clip`` itself, or a lossless copy of it on disk where it cannot be read from anywhere."""
        return clip if clip.seekable else self.stored(clip, why)

    def stored(self, clip: Clip, why: str) -> Clip:
        """The clip with a lossless copy of its frames on disk: computed once, read as often as needed."""
        path, count = self.store(clip, why)
        copied = open_clip(path)
        return replace(
            copied, rate=clip.rate, count=count, sound=clip.sound, media=clip.media, name=clip.name, pictures=False
        )

    def store(self, clip: Clip, why: str) -> tuple[Path, int]:
        """Write the frames without loss to a temporary file. Returns it and their number."""
        path = self.workspace("frames.mkv")
        depth = 16 if clip.deep else 8
        with VideoWriter(
            path, clip.width, clip.height, clip.rate, encoder=LOSSLESS, sound=SILENT, bit_depth=depth
        ) as writer:
            for frame in self.follow(iter(clip), why, clip.count):
                writer.write(frame)
        return path, writer.frames_written

    def backwards(self, clip: Clip, first: int, stop: int) -> Iterator[np.ndarray]:
        """Frames ``stop`` - 1 down to ``first`` of a seekable clip, holding WINDOW_BYTES of them at a time."""
        size = clip.width * clip.height * (6 if clip.deep else 3)
        step = max(1, min(256, WINDOW_BYTES // size))
        for end in range(stop, first, -step):
            window = list(clip.frames(max(first, end - step), end))
            while window:
                yield window.pop()


def open_clip(path: Path, fps: Fraction | None = None) -> Clip:
    """A video, a picture (one frame) or a folder of pictures as a clip. InputError when it is none.

    ``fps``: rate of a folder of pictures, or a new constant rate for a video.
    """
    path = Path(path)
    if not path.is_dir() and not is_picture(path):
        return _open_video(probe(path), fps)
    source = open_source(path, fps=fps)
    pictures = source if isinstance(source, PictureFolder) else None

    def frames(first: int, stop: int | None) -> Iterator[np.ndarray]:
        if pictures is None:
            return itertools.islice(iter(source), first, stop)
        part = copy.copy(pictures)  # its headers were all read once; that is not repeated for every part
        part.paths = pictures.paths[first:stop]
        return iter(part)

    return Clip(
        source.width,
        source.height,
        source.fps,
        source.frames_expected or 1,
        source.bit_depth > 8,
        frames,
        True,
        Sound((Segment(None, Fraction(0), (source.frames_expected or 1) / source.fps),)),
        name=path.stem if path.is_file() else path.name,
        pictures=True,
    )


def _open_video(info: MediaInfo, fps: Fraction | None) -> Clip:
    whole = VideoReader(info, fps=fps)
    rate, count = whole.fps, whole.frames_expected or 1

    def frames(first: int, stop: int | None) -> Iterator[np.ndarray]:
        if first >= count and first:
            return iter(())
        begin = info.first + first / rate if first else None
        # Half a frame early, so that no rounding takes a frame more.
        end = None if stop is None or stop >= count else info.first + (stop - Fraction(1, 2)) / rate
        return iter(VideoReader(info, begin, end, fps))

    sound = Sound((Segment(info, info.first, count / rate),))
    return Clip(whole.width, whole.height, rate, count, whole.bit_depth > 8, frames, True, sound, info, info.path.stem)


def single_frame(clip: Clip, index: int) -> np.ndarray:
    """One frame of a seekable clip. InputError when it is not there."""
    for frame in clip.frames(index, index + 1):
        return frame
    raise InputError(f"{clip.name}: frame {index} cannot be read; the file may be damaged")
