"""What stands beside the video in an output file: the source's other tracks, on one clock with the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from src.video import ffmpeg
from src.video.containers import FORMATS, track_arguments
from src.video.presets import RawSound
from src.video.probe import MediaInfo, loose_format
from src.video.reader import clip_window


@dataclass(frozen=True)
class Around:
    """FFmpeg arguments by place: before the video input, the source as second input, its tracks, the output's limit,
    and the empty output that keeps the source's clock."""

    before: list[str] = field(default_factory=list)
    source: list[str] = field(default_factory=list)
    tracks: list[str] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    clock: list[str] = field(default_factory=list)


def around_the_video(
    path: Path, source: MediaInfo | None, start: Fraction | None, end: Fraction | None, fps: Fraction
) -> Around:
    """What goes into ``path`` beside a video of ``fps`` that was made from ``source`` between ``start`` and ``end``.

    The two inputs share one clock that starts where the wanted part of the source starts. The
    video can only be moved by whole frames, so the source is moved by what remains.
    """
    form = ["-f", FORMATS[path.suffix.lower()]]
    if source is None:
        return Around(output=form)
    part = clip_window(source, start, end, fps)
    zero = part.audio_start or Fraction(0)
    late = part.begin - zero
    delay = max(0, math.ceil(late * fps))
    shift = delay / fps - late
    args: list[str] = []
    limit: list[str] = []
    if zero:
        limit += ["-copypriorss", "0"]  # packets before the cut are not wanted
    if zero and part.index:
        args += ["-ss", _seconds(zero)]
    elif zero:
        # Seeking goes to the first key frame of the video and would skip the sound before it.
        shift -= zero
    if part.audio_end is not None:
        length = part.audio_end - zero
        limit += ["-t", _seconds(length + delay / fps - late)]
    if shift:
        args += ["-itsoffset", _seconds(shift)]
    tracks = track_arguments(path, source, cut=bool(limit))
    if source.language:
        tracks += ["-metadata:s:v:0", f"language={source.language}"]
    return Around(
        before=["-itsoffset", _seconds(delay / fps)] if delay else [],
        source=[*args, *ffmpeg.input_args(source.path)],
        tracks=tracks,
        output=[*limit, *form],
        clock=ffmpeg.keep_clock(f"1:{source.video_index}", loose_format(source.format)),
    )


def with_sound(path: Path, sound: RawSound) -> Around:
    """What goes into ``path`` when the sound is given as arguments."""
    form = ["-f", FORMATS[path.suffix.lower()]]
    return Around(source=list(sound.input), tracks=list(sound.output), output=form)


def output_arguments(path: Path, codec: str) -> list[str]:
    """What a container wants to know about its video."""
    args = ["-disposition:v:0", "default"]
    if path.suffix.lower() in (".mp4", ".mov"):
        args += ["-movflags", "+faststart"]
        if codec == "hevc":
            args += ["-tag:v", "hvc1"]  # the name Apple's players look for
    return args


def _seconds(value: Fraction) -> str:
    return f"{float(value):.9f}"
