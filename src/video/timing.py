"""From packet timestamps to a constant frame rate, and from a trim to exact frame numbers.

Times are seconds as exact fractions, counted from the start of the file as players show it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from src.errors import InputError

FALLBACK_RATE = Fraction(25)
_MAX_VARIABLE_RATE = 120
_MAX_LONE_RATE = 240
_STANDARD = tuple(
    Fraction(rate)
    for rate in (
        *("8", "10", "12", "15", "20", "24000/1001", "24", "25", "30000/1001", "30", "48", "50"),
        *("60000/1001", "60", "72", "90", "100", "120000/1001", "120"),
    )
)


@dataclass(frozen=True)
class Timing:
    """``first``: time of the first frame; ``stamps``: time of every frame, for variable rates only."""

    fps: Fraction
    frames: int
    first: Fraction
    duration: Fraction
    variable: bool
    stamps: tuple[Fraction, ...] = ()


def analyse(
    ticks: Sequence[int],
    last_duration: int,
    time_base: Fraction,
    hints: Sequence[Fraction],
    frames: int,
    slack: float = 0.5,
) -> Timing:
    """Rate and length of a stream.

    ``ticks``: presentation times in units of ``time_base`` (empty: the file has none). ``hints``:
    rates the file claims, most trusted first. ``frames``: number of packets. ``slack``: how many
    frames the times of a constant rate may be off.
    """
    hints = [rate for rate in hints if 0 < rate <= 1000]
    if not ticks:
        rate = hints[0] if hints else FALLBACK_RATE
        return Timing(rate, frames, Fraction(0), frames / rate, False)
    ticks = sorted(ticks)
    first = ticks[0] * time_base
    if len(ticks) == 1:
        rate = _lone_rate(last_duration * time_base, hints)
        return Timing(rate, 1, first, 1 / rate, False)
    count, span = len(ticks), (ticks[-1] - ticks[0]) * time_base
    offsets = (np.asarray(ticks, np.int64) - ticks[0]).astype(np.float64) * float(time_base)
    if span > 0:
        average = (count - 1) / span
        near = sorted((r for r in _STANDARD if abs(r - average) <= average / 50), key=lambda r: (abs(r - average), r))
        for rate in (*hints, *near, average.limit_denominator(100_000)):
            if _is_constant(offsets, rate, time_base, slack):
                return Timing(rate, count, first, count / rate, False)
    rate = _variable_rate(offsets, hints)
    gaps = np.diff(np.asarray(ticks, np.int64))
    tail = last_duration if last_duration > 0 else int(np.median(gaps))
    duration = span + max(tail, 1) * time_base
    frames = max(1, round_half_up(duration * rate))
    return Timing(rate, frames, first, duration, True, tuple(tick * time_base for tick in ticks))


def _lone_rate(duration: Fraction, hints: Sequence[Fraction]) -> Fraction:
    # The rate of a single frame is a claim that nothing supports; containers write absurd ones.
    for rate in (*hints, 1 / duration if duration > 0 else Fraction(0)):
        if 1 <= rate <= _MAX_LONE_RATE:
            return rate
    return FALLBACK_RATE


def _is_constant(offsets: np.ndarray, rate: Fraction, time_base: Fraction, slack: float) -> bool:
    """True when frame number i at i/rate is never off by ``slack`` frames (or the clock's own rounding)."""
    deviation = offsets - np.arange(len(offsets)) / float(rate)
    spread = float(deviation.max() - deviation.min())
    return spread <= max(2 * float(time_base), slack / float(rate)) * (1 + 1e-9)


def _variable_rate(offsets: np.ndarray, hints: Sequence[Fraction]) -> Fraction:
    """The lowest standard rate (or claimed one, close to it) that keeps 99 % of the frames."""
    span = float(offsets[-1])
    average = (len(offsets) - 1) / span if span > 0 else float(FALLBACK_RATE)

    def kept(rate: Fraction) -> float:
        return float(len(np.unique(np.floor(offsets * float(rate) + 0.5))) / len(offsets))

    possible = [r for r in _STANDARD if float(r) >= 0.9 * average] or [Fraction(_MAX_VARIABLE_RATE)]
    lowest = next((r for r in possible if kept(r) >= 0.99), max(possible, key=kept))
    ceiling = min(lowest * 5 / 4, Fraction(_MAX_VARIABLE_RATE))
    for rate in hints:
        if lowest / 2 <= rate <= ceiling and kept(rate) >= 0.99:
            return rate
    return lowest


def round_half_up(value: Fraction) -> int:
    """The nearest integer, as FFmpeg rounds."""
    return math.floor(value + Fraction(1, 2))


@dataclass(frozen=True)
class Window:
    """The part of a clip that is delivered.

    ``index``: number of its first frame at the delivered rate. ``count``: frames in it, None if
    unknown. ``begin``: time of its first frame. ``audio_start``, ``audio_end``: what of the sound
    belongs to it, None for all up to that side.
    """

    rate: Fraction
    index: int
    count: int | None
    begin: Fraction
    audio_start: Fraction | None
    audio_end: Fraction | None


def window(
    first: Fraction,
    duration: Fraction,
    frames: int | None,
    rate: Fraction,
    start: Fraction | None,
    end: Fraction | None,
) -> Window:
    """Frames at ``rate`` whose time t has start <= t < end. InputError when there are none.

    ``first`` and ``duration`` of the video stream; ``frames``: how many it has at ``rate``, None if unknown.
    """
    length = float(first + duration)
    if start is not None and end is not None and end <= start:
        raise InputError(f"--end {float(end):g} is not after --start {float(start):g}")
    index = 0 if start is None else max(0, math.ceil((start - first) * rate))
    stop = frames if end is None else max(0, math.ceil((end - first) * rate))
    if stop is not None and frames is not None:
        stop = min(stop, frames)
    if start is not None and (start >= first + duration or (frames is not None and index >= frames)):
        raise InputError(f"--start {float(start):g} is not before the last frame; the video is {length:.3f} s long")
    if stop is not None and stop <= index:
        between = f"--start {float(start or 0):g} and --end {float(end or 0):g}"
        raise InputError(f"no frame lies between {between}; the video is {length:.3f} s long")
    begin = first + index / rate
    audio_start = start if not index else begin
    audio_end = None
    if end is not None and stop is not None:
        audio_end = end if frames is not None and stop == frames else first + stop / rate
    return Window(rate, index, None if stop is None else stop - index, begin, audio_start, audio_end)
