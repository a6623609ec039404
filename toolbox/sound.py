"""The sound of a clip as a list of segments, so that every edit of the picture is an exact edit of the sound.

Nothing is decoded until the end. Sound that was never edited (or only trimmed) is not listed here: it is copied.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from src.errors import VideoError
from src.video import MediaInfo, ffmpeg
from src.video.filters import run_job
from src.video.presets import SILENT, RawSound
from src.video.probe import loose_format

log = logging.getLogger(__name__)

RATE = 48_000
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
_BLOCK = 1 << 16  # sample frames copied at a time
# How early atempo plays a sound at this rate, measured for tempos 0.25..4: 12.7 ms of its input, give or take a few,
# for it moves short sounds within its window. The error does not grow with time.
_AHEAD_MS = 12.7


@dataclass(frozen=True)
class Segment:
    """A stretch of a file's first audio track. ``start``, ``length``: seconds on the clock of the file.

    ``media`` None: silence. ``speed`` 2: plays in half the time, at the same pitch.
    """

    media: MediaInfo | None
    start: Fraction
    length: Fraction
    speed: Fraction = Fraction(1)
    backwards: bool = False

    @property
    def seconds(self) -> Fraction:
        """How long it plays."""
        return self.length / self.speed


@dataclass(frozen=True)
class Sound:
    """Segments that play one after the other. ``edited`` False: one stretch of a file, which can be copied."""

    segments: tuple[Segment, ...]
    edited: bool = False

    @property
    def silent(self) -> bool:
        return all(segment.media is None or not segment.media.audio_streams for segment in self.segments)

    def cut(self, start: Fraction, end: Fraction) -> Sound:
        """What plays between two times."""
        kept, time = [], Fraction(0)
        for segment in self.segments:
            begin, stop = max(start - time, Fraction(0)), min(end - time, segment.seconds)
            time += segment.seconds
            if begin >= stop:
                continue
            length = (stop - begin) * segment.speed
            offset = begin if not segment.backwards else segment.seconds - stop
            kept.append(replace(segment, start=segment.start + offset * segment.speed, length=length))
        return replace(self, segments=tuple(kept))

    def faster(self, factor: Fraction) -> Sound:
        return Sound(tuple(replace(item, speed=item.speed * factor) for item in self.segments), edited=True)

    def reversed(self) -> Sound:
        backwards = (replace(item, backwards=not item.backwards) for item in reversed(self.segments))
        return Sound(tuple(backwards), edited=True)

    def then(self, other: Sound) -> Sound:
        return Sound(self.segments + other.segments, edited=True)


def silence(seconds: Fraction) -> Sound:
    return Sound((Segment(None, Fraction(0), seconds),), edited=True)


def render(
    sound: Sound,
    seconds: Fraction,
    folder: Path,
    codec: tuple[str, ...],
    advance: Callable[[], None] = lambda: None,
    cancel: threading.Event | None = None,
) -> RawSound:
    """Decode and join the segments into one file in ``folder`` that plays exactly ``seconds``.

    ``codec``: FFmpeg's options of the encoder that it goes into. ``advance`` is called now and then; what it
    raises ends the work, and so does ``cancel``. Disk: 4 bytes per sample and channel. Only first tracks are taken.
    """
    if sound.silent:
        return SILENT
    heard = [item.media for item in sound.segments if item.media is not None and item.media.audio_streams]
    wanted = max(media.audio_streams[0].channels for media in heard)
    channels = wanted if wanted in _LAYOUTS else 2
    for media in dict.fromkeys(heard):
        left = len(media.audio_streams) - 1 + len(media.subtitle_streams)
        if left:
            log.warning("%s: %d further tracks are left out, because the sound is edited", media.path, left)
    target = folder / "sound.f32"
    parts: dict[tuple[object, ...], Path] = {}
    time, done = Fraction(0), 0
    total = round(seconds * RATE)
    with target.open("wb") as out:
        for segment in sound.segments:
            advance()
            time += segment.seconds
            count = min(round(time * RATE), total) - done
            if count <= 0:
                continue
            done += count
            key = (segment.media and segment.media.path, segment.start, segment.length, segment.speed)
            if segment.media is None or not segment.media.audio_streams:
                data = None
            else:
                if key not in parts:
                    parts[key] = _decode(segment, folder / f"part{len(parts)}.f32", channels, cancel)
                data = np.memmap(parts[key], np.uint8, "r").reshape(-1, 4 * channels)
            _append(out, data, count, 4 * channels, segment.backwards, advance)
        _append(out, None, total - done, 4 * channels, False, advance)
    opening = ("-f", "f32le", "-ar", str(RATE), "-ac", str(channels), "-i", ffmpeg.url(target))
    return RawSound(opening, ("-map", "1:a", *codec))


def _append(
    out: object, data: np.ndarray | None, count: int, width: int, backwards: bool, advance: Callable[[], None]
) -> None:
    """``count`` sample frames of ``data`` (silence where there are none) to the file, block by block."""
    for begin in range(0, count, _BLOCK):
        advance()
        stop = min(begin + _BLOCK, count)
        if data is None:
            block = np.zeros((stop - begin, width), np.uint8)
        elif backwards:
            block = data[:count][::-1][begin:stop]
        else:
            block = data[begin:stop]
        out.write(np.ascontiguousarray(block).tobytes())  # type: ignore[attr-defined]
        missing = stop - begin - len(block)
        if missing:
            out.write(bytes(missing * width))  # type: ignore[attr-defined]


def _decode(segment: Segment, target: Path, channels: int, cancel: threading.Event | None) -> Path:
    """The segment forwards, at its speed, as raw samples; a moment longer than needed, so that rounding finds one."""
    media = segment.media
    if media is None:
        raise ValueError("silence needs no decoding")
    track = media.audio_streams[0]
    # async fills gaps with silence, so that the sound stays where the clock of the file has it.
    chain = ["aresample=async=1:first_pts=0", f"atrim=start={_text(segment.start)}"]
    chain += [f"atrim=end={_text(segment.start + segment.length)}", "asetpts=PTS-STARTPTS"]
    chain += [f"aresample={RATE}", f"aformat=sample_fmts=flt:channel_layouts={_LAYOUTS[channels]}"]
    chain += _tempo(segment.speed)
    chain += ["apad", f"atrim=end_sample={round(segment.seconds * RATE) + 2}"]
    args = ["-y", *ffmpeg.input_args(media.path), "-map", f"0:{track.index}", "-af", ",".join(chain)]
    args += ["-f", "f32le", ffmpeg.url(target)]
    args += ffmpeg.keep_clock(f"0:{media.video_index}", loose_format(media.format))
    run_job(args, f"the sound of {media.path} cannot be read", cancel=cancel)
    if target.stat().st_size == 0:
        raise VideoError(f"{media.path}: its sound gave no samples")
    return target


def _tempo(speed: Fraction) -> list[str]:
    """atempo keeps the pitch; one step of it must lie within 0.5..2 to sound well."""
    factors = []
    while speed > 2:
        factors.append(Fraction(2))
        speed /= 2
    while speed < Fraction(1, 2):
        factors.append(Fraction(1, 2))
        speed *= 2
    factors += [speed] if speed != 1 else []
    # What goes in comes out ahead of its time, and the end would be swallowed.
    edges = f"adelay={_AHEAD_MS}:all=1,apad=pad_dur=0.2"
    return [f"{edges},atempo={float(factor):.9f}" for factor in factors]


def _text(value: Fraction) -> str:
    return f"{float(value):.9f}"
