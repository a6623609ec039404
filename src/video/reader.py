"""Reading frames: one FFmpeg process per video, raw RGB through a pipe."""

from __future__ import annotations

import bisect
import logging
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from src.errors import VideoError
from src.video import ffmpeg
from src.video.pictures import PictureFolder, PictureReader
from src.video.probe import MediaInfo, is_picture, loose_format, probe
from src.video.streams import is_rgb
from src.video.timing import Window, round_half_up, window

log = logging.getLogger(__name__)

SCALE_FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
# Seeking to a time in a format without an index starts this much earlier.
_PREROLL = Fraction(10)


class Source(Protocol):
    """Where frames come from. Iterating yields (H, W, 3) RGB, uint8 0..255 or uint16 0..65535.

    ``skip``: frames to leave out at the start, set before iterating. ``has_alpha``: the source has transparency;
    with ``keep_alpha`` set, frames are (H, W, 4).
    """

    width: int
    height: int
    fps: Fraction
    frames_expected: int | None
    bit_depth: int
    info: MediaInfo | None
    is_picture: bool
    skip: int
    has_alpha: bool
    keep_alpha: bool

    def __iter__(self) -> Iterator[np.ndarray]: ...
    def __enter__(self) -> Any: ...
    def __exit__(self, *details: object) -> None: ...
    def close(self) -> None: ...


def clip_window(info: MediaInfo, start: Fraction | None, end: Fraction | None, fps: Fraction | None) -> Window:
    """The frames of ``info`` between ``start`` and ``end`` at ``fps`` (None: its own rate).

    InputError when there are none.
    """
    rate = fps or info.fps
    frames = info.frames
    if frames is not None and _thinned(info, rate):
        frames = max(1, math.ceil((info.duration - _early(info)) * rate))
    elif frames is not None and (info.variable_rate or rate != info.fps):
        frames = max(1, round_half_up(info.duration * rate))
    return window(info.first, info.duration, frames, rate, start, end)


def _thinned(info: MediaInfo, rate: Fraction) -> bool:
    """True when a constant-rate clip is delivered at a lower rate."""
    return not info.variable_rate and rate < info.fps


def _early(info: MediaInfo) -> Fraction:
    """How much earlier than its own time a frame may be shown: more than any rounding of timestamps."""
    return Fraction(1, 4) / info.fps


class VideoReader:
    """Frames of a video in order, each (height, width, 3) RGB, full range.

    uint8 for sources of 8 bits, uint16 (0..65535) for deeper ones. Rotated, with square pixels,
    deinterlaced where declared. A constant-rate clip is delivered frame by frame; a variable rate
    or another ``fps`` is resampled by time. ``start``, ``end``: seconds, frame-exact, end excluded.
    """

    is_picture = False

    def __init__(
        self,
        info: MediaInfo,
        start: Fraction | None = None,
        end: Fraction | None = None,
        fps: Fraction | None = None,
    ) -> None:
        """Raises InputError for a trim without frames."""
        self.info: MediaInfo | None = info
        self._media = info
        self.window = clip_window(info, start, end, fps)
        self._trimmed = start is not None or end is not None
        self.fps = self.window.rate
        self.width, self.height = info.width, info.height
        self.bit_depth = 8 if info.bit_depth <= 8 else 16
        self.frames_expected = self.window.count
        if self.frames_expected is None:
            left = info.first + info.duration - self.window.begin
            self.frames_expected = max(1, round_half_up(left * self.fps))
        self.skip = 0
        self.has_alpha, self.keep_alpha = info.alpha, False
        self.process: ffmpeg.Process | None = None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading. Safe to call more than once."""
        if self.process is not None:
            self.process.stop()
            self.process = None

    def __iter__(self) -> Iterator[np.ndarray]:
        """Start over from the first frame after ``skip``. Raises VideoError when FFmpeg fails or vanishes."""
        self.close()
        self._announce()
        process = self.process = ffmpeg.Process(self._command(), feed=False)
        shape = (self.height, self.width, 4 if self.keep_alpha else 3)
        dtype = np.dtype(np.uint8) if self.bit_depth == 8 else np.dtype("<u2")
        correction = self._correction()
        delivered = self.skip
        try:
            while True:
                frame = np.empty(shape, dtype)
                missing = _fill(process, frame)
                if missing:
                    break
                delivered += 1
                yield frame if correction is None else _corrected(frame, correction)
            self._finish(process, delivered, frame.nbytes - missing)
        finally:
            process.stop()
            if self.process is process:
                self.process = None

    def _correction(self) -> np.ndarray | None:
        """Table that makes white of a deep YUV source 65535.

        swscale shifts instead of scaling: its white is 255 << 8 for limited range and the source's
        highest value, shifted to 16 bits, for full range.
        """
        info = self._media
        if self.bit_depth == 8 or is_rgb(info.pix_fmt):
            return None
        depth = min(info.bit_depth, 16)
        white = 255 << 8 if info.color_range == "tv" else ((1 << depth) - 1) << (16 - depth)
        return np.minimum(np.arange(65536) * 65535.0 / white + 0.5, 65535).astype(np.uint16)

    def _announce(self) -> None:
        info = self._media
        if info.interlaced:
            log.warning("%s is interlaced: it is deinterlaced to %s frames per second", info.path, info.fps)
        if info.variable_rate:
            log.info("%s has a variable frame rate: it is made constant at %s", info.path, self.fps)
        if self.has_alpha and not self.keep_alpha:
            log.warning("%s: its transparency is dropped", info.path)
        if not info.tagged:
            log.debug("%s does not name its colour matrix: %s assumed", info.path, info.color_matrix)

    def _finish(self, process: ffmpeg.Process, delivered: int, rest: int) -> None:
        """Judge the end of the stream. ``rest``: bytes of an incomplete last frame."""
        path = self._media.path
        if process.wait():
            raise VideoError(f"reading {path} failed after {delivered} frames: {process.why()}")
        if not delivered:
            raise VideoError(f"{path} gave no frames: {process.why()}")
        if rest:
            log.warning("%s: an incomplete frame at the end is dropped", path)
        expected = self.window.count
        if self._media.damage:
            log.warning("%s is damaged (%s): %s frames were read", path, self._media.damage, delivered)
        if expected is not None and delivered != expected:
            log.warning("%s: %d frames expected, %d could be read: %s", path, expected, delivered, process.why())

    def _command(self) -> list[str]:
        seek, filters = self._timeline()
        info = self._media
        chain = []
        if info.interlaced:
            chain.append("bwdif=mode=send_frame:parity=auto:deint=interlaced")
        chain += filters
        if self.skip:
            chain.append(f"trim=start_frame={self.skip}")  # decoded, but neither converted nor handed over
        scale = f"scale={info.width}:{info.height}:flags={SCALE_FLAGS}:out_range=pc"
        if not is_rgb(info.pix_fmt):
            scale += f":in_color_matrix={info.color_matrix}:in_range={info.color_range}"
            scale += ffmpeg.chroma_location("in", info.chroma_location, info.pix_fmt)
        letters = "rgba" if self.keep_alpha else "rgb"
        pix_fmt = f"{letters}{8 * len(letters)}" if self.bit_depth == 8 else f"{letters}{16 * len(letters)}le"
        pix_fmt = "rgba" if pix_fmt == "rgba32" else pix_fmt
        chain += [scale, f"format={pix_fmt}", "setsar=1"]
        args = ["-loglevel", "warning"]
        if seek:
            args += ["-ss", _seconds(seek)]
        args += [*ffmpeg.input_args(info.path, info.codec, self.keep_alpha), "-map", f"0:{info.video_index}"]
        args += ["-vf", ",".join(chain)]
        if self.window.count is not None and self._trimmed:
            args += ["-frames:v", str(max(1, self.window.count - self.skip))]
        args += ["-sws_dither", "none", "-fps_mode", "passthrough"]
        args += ["-f", "rawvideo", "-pix_fmt", pix_fmt, "pipe:1"]
        return [*args, *ffmpeg.keep_clock("0:a?", info.audio_streams and loose_format(info.format))]

    def _timeline(self) -> tuple[Fraction, list[str]]:
        """Where to seek, and the filters that leave exactly the wanted frames from there on."""
        info, part = self._media, self.window
        resample = info.variable_rate or part.rate != info.fps
        if not resample:
            # Half a frame early, so that rounding of timestamps cannot lose the frame.
            seek = part.begin - Fraction(1, 2) / info.fps if part.index else Fraction(0)
        elif info.variable_rate:
            after = bisect.bisect_right(info.stamps, part.begin) - 1
            seek = (info.stamps[after] + info.stamps[after - 1]) / 2 if part.index and after >= 1 else Fraction(0)
        else:
            shown = int((part.begin - info.first) * info.fps) - 1
            seek = info.first + (shown - Fraction(1, 2)) / info.fps if shown >= 1 else Fraction(0)
        seek = max(seek, Fraction(0))
        filters = []
        preroll = Fraction(0)
        if seek and loose_format(info.format):
            preroll = min(_PREROLL, seek)
            filters.append(f"trim=start={_seconds(preroll)}")
        origin = seek - preroll
        begin = part.begin - origin
        if _thinned(info, part.rate):
            # Of the frames of one slot the last one wins, so each slot must end, not begin, at its time.
            filters.append(f"fps=fps={part.rate}:round=up:start_time={_seconds(begin + _early(info))}")
        elif resample:
            filters.append(f"fps=fps={part.rate}:round=near:start_time={_seconds(begin)}")
        return origin, filters


def _corrected(frame: np.ndarray, correction: np.ndarray) -> np.ndarray:
    """Colours through the table; alpha is full range already."""
    out = np.take(correction, frame)
    if frame.shape[2] == 4:
        out[..., 3] = frame[..., 3]
    return out


def _fill(process: ffmpeg.Process, frame: np.ndarray) -> int:
    """Read one frame into ``frame``. Returns how many bytes are missing: 0 unless the stream ended."""
    view = frame.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        try:
            got = process.stdout.readinto(view[done:])  # type: ignore[attr-defined]
        except (OSError, ValueError) as error:
            raise VideoError(f"reading from FFmpeg failed ({error}): {process.why()}") from error
        if not got:
            break
        done += got
    return len(view) - done


def _seconds(value: Fraction) -> str:
    return f"{float(value):.9f}"


def open_source(
    path: Path, start: Fraction | None = None, end: Fraction | None = None, fps: Fraction | None = None
) -> Source:
    """A video, a picture, or a folder of pictures. InputError when it is none of them.

    ``start``, ``end``: seconds (ignored for a single picture). ``fps``: rate of a folder (default
    30), or a new constant rate for a video.
    """
    path = Path(path)
    if path.is_dir():
        return PictureFolder(path, start=start, end=end, fps=fps)
    if is_picture(path):
        return PictureReader(path)
    return VideoReader(probe(path), start, end, fps)
