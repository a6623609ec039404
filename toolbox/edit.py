"""Cutting, turning, joining and resizing: tools that keep or rearrange frames without making new ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from src.errors import InputError
from src.video.filters import filter_frames
from src.video.timing import round_half_up
from toolbox.clip import Clip, Job, open_clip, single_frame
from toolbox.sound import Sound, silence

# Two frames that differ less than this (mean of all samples, 0..1) are the same picture, coded twice.
SAME = 1.5 / 255
LEAST_SIDE = 2
_FLAGS = "lanczos+accurate_rnd+full_chroma_int"


def trim(job: Job, clip: Clip, start: Fraction | None, end: Fraction | None) -> Clip:
    """The frames whose time t has start <= t < end."""
    if start is not None and end is not None and end <= start:
        raise InputError(f"--end {float(end):g} is not after --start {float(start):g}")
    first = 0 if start is None else -int(-start * clip.rate // 1)
    stop = clip.count if end is None else min(clip.count, -int(-end * clip.rate // 1))
    if first >= stop:
        raise InputError(
            f"no frame lies between --start {float(start or 0):g} and --end {float(end or clip.duration):g};"
            f" the clip is {float(clip.duration):.3f} s long here"
        )
    return clip.part(first, stop)


def speed(job: Job, clip: Clip, factor: Fraction, frames: str) -> Clip:
    """``factor`` times as fast; the sound keeps its pitch. ``frames``: "keep-rate" or "keep-all"."""
    sound = clip.sound.faster(factor)
    if frames == "keep-all":
        return replace(clip, rate=clip.rate * factor, sound=sound)
    return replace(resampled(clip, clip.rate, factor), sound=sound)


def frame_rate(job: Job, clip: Clip, fps: Fraction) -> Clip:
    """Another constant rate at the same speed, by dropping or repeating frames; for pictures: the rate they play at."""
    if clip.pictures:
        return replace(clip, rate=fps, sound=silence(clip.count / fps))
    return resampled(clip, fps, Fraction(1))


def resampled(clip: Clip, rate: Fraction, factor: Fraction) -> Clip:
    """Frame i shows what ``clip`` shows at (i + 1/2) / rate * factor: the middle of the time it is seen."""
    step = clip.rate * factor / rate
    count = max(1, round_half_up(clip.count / step))
    if step == 1:
        return clip

    def make(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        made, read, frame = 0, 0, None
        for frame in frames:
            read += 1
            while (made + Fraction(1, 2)) * step < read:
                yield frame
                made += 1
        if frame is not None:
            for _ in range(made, max(1, round_half_up(read / step))):
                yield frame

    return clip.streamed(make, rate=rate, count=count)


def _repetitions(length: Fraction, times: int | None, duration: Fraction | None) -> int:
    if times is not None and duration is not None:
        raise InputError("--times and --duration contradict each other: give one of them")
    if duration is None:
        return times or 2
    return max(1, -int(-duration // length))


def loop(job: Job, clip: Clip, times: int | None, duration: Fraction | None) -> Clip:
    """The clip again and again. A last frame that equals the first is shown once at the seam, not twice."""
    clip = job.seekable(clip, "preparing the loop")
    count = clip.count
    if count > 2 and same_picture(single_frame(clip, 0), single_frame(clip, count - 1)):
        job.note("the last frame equals the first: it is shown once at the seam")
        count -= 1
    number = _repetitions(count / clip.rate, times, duration)
    wanted = clip.count + (number - 1) * count
    if duration is not None:
        wanted = max(1, round_half_up(duration * clip.rate))
    body = clip.part(0, count).sound.segments
    sound = Sound(body * (number - 1) + clip.sound.segments, edited=number > 1 or clip.sound.edited)

    def frames(first: int, stop: int | None) -> Iterator[np.ndarray]:
        position, end = first, wanted if stop is None else min(stop, wanted)
        while position < end:
            # The last repetition may go on to the very last frame.
            turn = min(position // count, number - 1)
            begin = position - turn * count
            upto = min(end - turn * count, clip.count if turn == number - 1 else count)
            yield from clip.frames(begin, upto)
            position = turn * count + upto

    sound = sound.cut(Fraction(0), wanted / clip.rate)
    return replace(clip, frames=frames, count=wanted, sound=sound, pictures=False)


def ping_pong(job: Job, clip: Clip, times: int | None, duration: Fraction | None) -> Clip:
    """Forwards and backwards; the frames at both turns are shown once. Ends where it began to repeat."""
    clip = job.seekable(clip, "preparing the way back")
    count = clip.count
    if count < 3:
        raise InputError(f"ping-pong needs at least 3 frames; the clip has {count} here")
    period = 2 * count - 2
    number = _repetitions(period / clip.rate, times or (None if duration else 1), duration)
    wanted = number * period if duration is None else max(1, round_half_up(duration * clip.rate))

    def frames(first: int, stop: int | None) -> Iterator[np.ndarray]:
        position, end = first, wanted if stop is None else min(stop, wanted)
        while position < end:
            turn, place = divmod(position, period)
            if place < count:
                upto = min(count, end - turn * period)
                yield from clip.frames(place, upto)
            else:
                upto = min(period, end - turn * period)
                yield from job.backwards(clip, period - upto + 1, period - place + 1)
            position = turn * period + upto

    back = clip.part(1, count - 1).sound.reversed()
    sound = Sound(clip.sound.then(back).segments * number, edited=True)
    sound = sound.cut(Fraction(0), wanted / clip.rate)
    return replace(clip, frames=frames, count=wanted, sound=sound, pictures=False)


def reverse(job: Job, clip: Clip) -> Clip:
    """The last frame first, the sound too."""
    clip = job.seekable(clip, "preparing to read backwards")

    def frames(first: int, stop: int | None) -> Iterator[np.ndarray]:
        end = clip.count if stop is None else min(stop, clip.count)
        return job.backwards(clip, clip.count - end, clip.count - first)

    return replace(clip, frames=frames, sound=clip.sound.reversed())


def same_picture(one: np.ndarray, other: np.ndarray) -> bool:
    """True for two frames without a visible difference."""
    # A sixteenth of the pixels tells most frames apart.
    return difference(one[::4, ::4], other[::4, ::4]) < SAME and difference(one, other) < SAME


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference of all samples, 0..1."""
    white = 65535 if one.dtype == np.uint16 else 255
    return float(np.abs(one.astype(np.int32) - other.astype(np.int32)).mean()) / white


def crop(job: Job, clip: Clip, width: int | None, height: int | None, x: int | None, y: int | None) -> Clip:
    """A rectangle of the frame; from the middle where ``x`` or ``y`` is not given."""
    wide, high = width or clip.width - (x or 0), height or clip.height - (y or 0)
    left = (clip.width - wide) // 2 if x is None else x
    top = (clip.height - high) // 2 if y is None else y
    inside = wide >= 1 and high >= 1 and left >= 0 and top >= 0
    if not inside or left + wide > clip.width or top + high > clip.height:
        raise InputError(
            f"crop {wide}x{high} at {left},{top} does not lie inside the frame of {clip.width}x{clip.height}"
        )
    return clip.mapped(lambda frame: frame[top : top + high, left : left + wide], wide, high)


def resize(job: Job, clip: Clip, width: int | None, height: int | None, fit: str) -> Clip:
    """Another size. With one side given the other follows; with both, ``fit`` says what happens to the aspect."""
    if width is None and height is None:
        raise InputError("resize needs --width, --height or both")
    wide = width or _even(height * clip.width / clip.height if height else 0)
    high = height or _even(width * clip.height / clip.width if width else 0)
    return fitted(clip, wide, high, fit if width and height else "stretch")


def _even(value: float) -> int:
    return max(LEAST_SIDE, round(value / 2) * 2)


def fitted(clip: Clip, width: int, height: int, fit: str) -> Clip:
    """``clip`` at ``width`` x ``height``. fit: "stretch", "pad" (black bars) or "crop" (fill and cut off)."""
    if (clip.width, clip.height) == (width, height):
        return clip
    graph = f"scale={width}:{height}:flags={_FLAGS}"
    if fit != "stretch":
        side = "decrease" if fit == "pad" else "increase"
        graph += f":force_original_aspect_ratio={side}"
        graph += f",pad={width}:{height}:-1:-1" if fit == "pad" else f",crop={width}:{height}"

    def frames(first: int, stop: int | None) -> Iterator[np.ndarray]:
        source = clip.frames(first, stop)
        size = clip.width, clip.height
        return filter_frames(source, *size, clip.rate, f"{graph},setsar=1", width, height, deep=clip.deep)

    return replace(clip, frames=frames, width=width, height=height)


def as_depth(frame: np.ndarray, deep: bool) -> np.ndarray:
    """The frame as uint16 where ``deep``, otherwise as uint8."""
    if deep == (frame.dtype == np.uint16):
        return frame
    return frame.astype(np.uint16) * 257 if deep else ((frame.astype(np.uint32) + 128) // 257).astype(np.uint8)


def join(job: Job, clip: Clip, clips: tuple[Path, ...], fit: str) -> Clip:
    """Other clips behind this one, brought to its size and rate."""
    parts = [clip]
    for path in clips:
        other = open_clip(path)
        if other.pictures:
            other = replace(other, rate=clip.rate, sound=silence(other.count / clip.rate))
        elif other.rate != clip.rate:
            job.note(f"{path}: {other.rate} frames per second are made {clip.rate}")
            other = open_clip(path, clip.rate)
        if (other.width, other.height) != (clip.width, clip.height):
            job.note(f"{path}: {other.width}x{other.height} is made {clip.width}x{clip.height} ({fit})")
            other = fitted(other, clip.width, clip.height, fit)
        parts.append(other)
    deep = any(part.deep for part in parts)

    def frames(first: int, stop: int | None) -> Iterator[np.ndarray]:
        before = 0
        for part in parts:
            begin, end = max(0, first - before), None if stop is None else stop - before
            if begin < part.count and (end is None or end > 0):
                upto = None if end is None or end >= part.count else end
                yield from (as_depth(frame, deep) for frame in part.frames(begin, upto))
            before += part.count

    sound = clip.sound
    for part in parts[1:]:
        sound = sound.then(part.sound)
    count = sum(part.count for part in parts)
    seekable = all(part.seekable for part in parts)
    return replace(clip, frames=frames, count=count, deep=deep, sound=sound, seekable=seekable, pictures=False)
