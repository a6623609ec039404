"""Joining segments of a video into one file without encoding anything again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from src.errors import VideoError
from src.video import ffmpeg
from src.video.muxing import around_the_video, output_arguments
from src.video.paths import commit, temporary_path
from src.video.probe import MediaInfo

log = logging.getLogger(__name__)

_LEAST_TICKS = 10_000  # per second: what FFmpeg's own MP4 writer considers fine enough


def ticks_per_second(fps: Fraction) -> int:
    """A clock in which every frame lasts a whole number of ticks."""
    return fps.numerator * -(-_LEAST_TICKS // fps.numerator)


def join(
    segments: Sequence[tuple[Path, int]],
    path: Path,
    fps: Fraction,
    *,
    codec: str,
    source: MediaInfo | None = None,
    start: Fraction | None = None,
    end: Fraction | None = None,
    overwrite: bool = False,
) -> Path:
    """Put ``segments`` (file, frames) one after the other into ``path``, with the tracks of ``source``.

    Every frame is copied, and lands exactly on its number / fps. The segments were written with
    ``ticks_per_second(fps)``. Raises VideoError when FFmpeg fails (nothing is left then), OutputExistsError.
    """
    temporary = temporary_path(path)
    listing = temporary.with_suffix(".txt")
    process: ffmpeg.Process | None = None
    try:
        try:
            listing.write_text(_listing(segments, fps), encoding="utf-8")
        except OSError as error:
            raise VideoError(f"{path} cannot be written: {error.strerror or error}") from error
        process = ffmpeg.Process(_command(listing, temporary, path, fps, codec, source, start, end), feed=True)
        process.stdin.close()
        if process.wait():
            why = process.why()
            if "No space left" in why:
                why = f"no space left on the disk ({why})"
            raise VideoError(f"joining the segments of {path} failed: {why}")
        commit(temporary, path, overwrite)
    finally:
        if process is not None:
            process.stop()
        for left in (temporary, listing):
            left.unlink(missing_ok=True)
    return path


def _listing(segments: Sequence[tuple[Path, int]], fps: Fraction) -> str:
    """FFmpeg's own list format. Durations are stated, since those of the files may be rounded."""
    lines = ["ffconcat version 1.0"]
    for segment, frames in segments:
        quoted = str(segment.absolute()).replace("'", "'\\''")
        lines += [f"file 'file:{quoted}'", f"duration {float(frames / fps):.9f}"]
    return "\n".join(lines) + "\n"


def _command(
    listing: Path,
    temporary: Path,
    path: Path,
    fps: Fraction,
    codec: str,
    source: MediaInfo | None,
    start: Fraction | None,
    end: Fraction | None,
) -> list[str]:
    around = around_the_video(path, source, start, end, fps)
    ticks = ticks_per_second(fps)
    # The list's times are rounded to microseconds and those of WebM to milliseconds; a frame is longer, so snapping to
    # frames is exact. TB: seconds of one tick of the segments' own clock.
    rate, frame = f"TB*{fps.numerator}/{fps.denominator}", f"{fps.denominator}/({fps.numerator}*TB)"
    snap = f"setts=pts=round(round(PTS*{rate})*{frame}):dts=round(round(DTS*{rate})*{frame}):duration=round({frame})"
    args = ["-loglevel", "warning", "-y", *around.before]
    args += ["-f", "concat", "-safe", "0", "-protocol_whitelist", "file", "-i", ffmpeg.url(listing)]
    args += [*around.source, "-map", "0:v:0", "-c:v", "copy", "-bsf:v", snap]
    if path.suffix.lower() in (".mp4", ".mov"):
        args += ["-video_track_timescale", str(ticks)]
    args += [*around.tracks, *output_arguments(path, codec)]
    return [*args, *around.output, ffmpeg.url(temporary), *around.clock]
