"""Where frames go: a picture, a video in segments, or a folder of pictures."""

from __future__ import annotations

import logging
import re
import shutil
import threading
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np

from src.config import Options
from src.errors import InputError, OutputExistsError, VideoError
from src.journal import JobFolder, Segment
from src.video import MediaInfo, VideoWriter, join, pick_encoder, ticks_per_second, write_picture
from src.video.containers import check_container

log = logging.getLogger(__name__)

FRAMES_FOLDER = "frames"


class Sink(Protocol):
    """Frames in order: ``done`` of them are there already. ``finish`` makes the output appear, ``close`` lets go."""

    done: int
    cuts: list[int]

    def begin(self, words: dict[str, object], resume: bool) -> None: ...
    def write(self, frame: np.ndarray) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


class PictureSink:
    """The one frame of a picture."""

    def __init__(self, target: Path, options: Options) -> None:
        _refuse_existing(target, options)
        self.done, self.cuts = 0, list[int]()
        self._target, self._options = target, options

    def begin(self, words: dict[str, object], resume: bool) -> None:
        """A picture is never resumed."""

    def write(self, frame: np.ndarray) -> None:
        write_picture(self._target, frame, self._options.quality, self._options.overwrite)

    def finish(self) -> None:
        """``write`` leaves the file complete or not at all."""

    def close(self) -> None:
        """Nothing is open."""


class _Resumable:
    """What a video and a folder of pictures share: the job's folder and its finished segments.

    ``write`` comes from a thread of its own and ``close`` from another, so one waits for the other.
    """

    def __init__(self, target: Path, options: Options) -> None:
        self.target, self.options = target, options
        self.done, self.cuts = 0, list[int]()
        self.job = JobFolder(target)
        self._guard = threading.Lock()
        self._closed = False
        self._open_frames = 0  # in the segment that is not finished yet

    def begin(self, words: dict[str, object], resume: bool) -> None:
        journal = self.job.begin(words, resume)
        self.done, self.cuts = journal.frames, list(journal.cuts)

    def write(self, frame: np.ndarray) -> None:
        with self._guard:
            if self._closed:
                return
            self._put(frame)
            self._open_frames += 1
            if self._open_frames == self.options.segment_frames:
                self._end_segment()

    def finish(self) -> None:
        with self._guard:
            if self._open_frames:
                self._end_segment()
            if not self.job.journal.segments:
                raise VideoError(f"{self.target}: no frame was written")
            self._assemble()
            self._closed = True
        self.job.remove()

    def close(self) -> None:
        """Let go; finished segments stay for the next run unless the job is finished."""
        with self._guard:
            if not self._closed:
                self._closed = True
                self._abort()
                self.job.close()

    def _commit(self, name: str, size: int) -> None:
        self.job.commit(Segment(name, self._open_frames, size), self.cuts)
        self._open_frames = 0

    def _put(self, frame: np.ndarray) -> None: ...
    def _end_segment(self) -> None: ...
    def _assemble(self) -> None: ...
    def _abort(self) -> None: ...


class VideoSink(_Resumable):
    """A video: each segment a file that begins with a key frame, joined in the end without encoding again."""

    def __init__(
        self,
        target: Path,
        options: Options,
        size: tuple[int, int],
        fps: Fraction,
        info: MediaInfo | None,
        alpha: bool,
    ) -> None:
        """``size``: width and height. ``alpha``: frames are RGBA."""
        if options.bit_depth == "10" and options.codec == "h264":
            raise InputError("--bit-depth 10 needs --codec hevc, av1, vp9 or prores: few players can show 10-bit h264")
        if options.bit_depth == "10" and options.codec == "vp9" and alpha:
            raise InputError("vp9 keeps transparency with 8 bits only; use --codec prores or --bit-depth 8")
        _refuse_existing(target, options)
        check_container(target, options.codec)
        pick_encoder(options.codec, False, *size)  # a size that cannot be encoded shows before the job begins
        super().__init__(target, options)
        self._size, self._fps, self._info, self._alpha = size, fps, info, alpha
        self._writer: VideoWriter | None = None

    def _put(self, frame: np.ndarray) -> None:
        if self._writer is None:
            self._writer = self._open()
        self._writer.write(frame)

    def _open(self) -> VideoWriter:
        number = len(self.job.journal.segments)
        suffix = ".mov" if self.options.codec == "prores" else ".webm" if self._alpha else ".mp4"
        return VideoWriter(
            self.job.folder / f"segment_{number:06d}{suffix}",
            *self._size,
            self._fps,
            codec=self.options.codec,
            quality=self.options.quality,
            overwrite=True,
            hardware="auto" if self.options.encoder == "auto" else "off",
            bit_depth=int(self.options.bit_depth),
            alpha=self._alpha,
            colors=self._info,
            ticks=ticks_per_second(self._fps),
        )

    def _end_segment(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            path = writer.close()
            self._commit(path.name, path.stat().st_size)

    def _assemble(self) -> None:
        segments = [(self.job.folder / segment.name, segment.frames) for segment in self.job.journal.segments]
        options = self.options
        join(
            segments,
            self.target,
            self._fps,
            codec=options.codec,
            source=self._info,
            start=options.start,
            end=options.end,
            overwrite=options.overwrite,
        )

    def _abort(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()


class FolderSink(_Resumable):
    """A folder of numbered PNG pictures, 000001.png first."""

    def __init__(self, target: Path, options: Options, info: MediaInfo | None) -> None:
        if target.exists() and not target.is_dir():
            raise InputError(f"{target} is a file; choose another output name")
        if target.is_dir() and any(target.iterdir()):
            if not options.overwrite:
                raise OutputExistsError(f"{target} exists already; choose another name or use --overwrite")
            strangers = [item.name for item in target.iterdir() if not re.fullmatch(r"\d{6,}\.png", item.name)]
            if strangers:
                raise InputError(f"{target} holds other files too ({strangers[0]}); choose another output")
        if info is not None and info.audio_streams:
            log.warning("%s: pictures have no sound, that of the input is left out", target)
        super().__init__(target, options)
        self._frames = self.job.folder / FRAMES_FOLDER
        self._number = 0

    def begin(self, words: dict[str, object], resume: bool) -> None:
        super().begin(words, resume)
        written = 0  # after a loss of power the journal may know more than the disk
        while written < self.done and self._is_there(written + 1):
            written += 1
        self.done = self.job.keep(written).frames
        self._number = self.done
        try:
            self._frames.mkdir(exist_ok=True)
        except OSError as error:
            raise VideoError(f"{self.target} cannot be written: {error.strerror or error}") from error

    def _is_there(self, number: int) -> bool:
        path = self._frames / f"{number:06d}.png"
        return path.is_file() and path.stat().st_size > 0

    def _put(self, frame: np.ndarray) -> None:
        self._number += 1
        write_picture(self._frames / f"{self._number:06d}.png", frame, overwrite=True)

    def _end_segment(self) -> None:
        self._commit(FRAMES_FOLDER, 0)

    def _assemble(self) -> None:
        for extra in self._frames.iterdir():
            if not extra.stem.isdecimal() or int(extra.stem) > self._number:
                extra.unlink()
        try:
            if self.target.is_dir():
                shutil.rmtree(self.target)
            self._frames.replace(self.target)
        except OSError as error:
            raise VideoError(f"{self.target} cannot be written: {error.strerror or error}") from error

    def _abort(self) -> None:
        """Nothing is open between two pictures; unfinished ones are written again."""


def _refuse_existing(target: Path, options: Options) -> None:
    if target.is_dir():
        raise InputError(f"{target} is a folder; choose another output name")
    if target.exists() and not options.overwrite:
        raise OutputExistsError(f"{target} exists already; choose another name or use --overwrite")
