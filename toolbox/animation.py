"""Animated pictures: GIF with a palette of its own, WebP. Frames are stored first, so that memory stays flat."""

from __future__ import annotations

import logging
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from src.errors import VideoError
from src.video import ffmpeg
from src.video.filters import run_job
from src.video.paths import commit, temporary_path
from toolbox.clip import Clip, Job
from toolbox.edit import as_depth, resampled

log = logging.getLogger(__name__)

MANY_FRAMES = 600  # an animated picture of more is larger than any video of it
GIF_RATE = 50  # frames last whole hundredths of a second; viewers slow down what is faster than 50 a second
_DITHER = {True: "sierra2_4a", False: "bayer:bayer_scale=3"}


def animate(job: Job, clip: Clip, output: Path, quality: int) -> Clip:
    """Write ``clip`` as GIF or WebP, by the extension of ``output``; it repeats for ever and has no sound."""
    kind = output.suffix.lower()
    if kind == ".gif" and clip.rate > GIF_RATE:
        job.note(f"a GIF shows at most {GIF_RATE} frames per second: {clip.rate} are made {GIF_RATE}")
        clip = resampled(clip, Fraction(GIF_RATE), Fraction(1))
    if clip.count > MANY_FRAMES:
        message = (
            f"{output}: {clip.count} frames make a very large {kind[1:].upper()}; use --fps 10 and --width 480, trim,"
            " or a video preset (h264-small, webm)"
        )
        job.notes.append(message)
        log.warning("%s", message)
    if not clip.sound.silent:
        job.note(f"a {kind[1:].upper()} has no sound: it is left out")
    flat = replace(clip.mapped(lambda frame: as_depth(frame, False)), deep=False)
    source, count = job.store(flat, "computing the frames")
    temporary = temporary_path(output)
    try:
        if kind == ".gif":
            _gif(job, source, temporary, quality, count)
        else:
            level = ["-lossless", "1"] if quality == 10 else ["-lossless", "0", "-q:v", str(20 + 8 * quality)]
            args = ["-y", *ffmpeg.input_args(source), "-c:v", "libwebp_anim", *level, "-compression_level", "4"]
            args += ["-loop", "0", "-fps_mode", "passthrough", "-f", "webp", ffmpeg.url(temporary)]
            _run(job, args, f"{output} cannot be written", "writing", count)
        if temporary.stat().st_size == 0:
            raise VideoError(f"writing {output} failed: FFmpeg left an empty file")
        commit(temporary, output, job.overwrite)
    finally:
        temporary.unlink(missing_ok=True)
    return replace(clip, count=count)


def _gif(job: Job, source: Path, target: Path, quality: int, count: int) -> None:
    palette = job.workspace("palette.png")
    colours = {1: 16, 2: 32, 3: 64, 4: 96, 5: 128, 6: 192}.get(quality, 256)
    graph = f"palettegen=max_colors={colours}:stats_mode={'diff' if count > 1 else 'full'}"
    args = ["-y", *ffmpeg.input_args(source), "-vf", graph, "-frames:v", "1", "-update", "1", ffmpeg.url(palette)]
    _run(job, args, f"no palette can be made for {target}", "choosing colours", count)
    graph = f"[0:v][1:v]paletteuse=dither={_DITHER[quality >= 7]}:diff_mode=rectangle"
    args = ["-y", *ffmpeg.input_args(source), *ffmpeg.input_args(palette), "-lavfi", graph, "-loop", "0"]
    args += ["-fps_mode", "passthrough", "-f", "gif", ffmpeg.url(target)]
    _run(job, args, f"{target} cannot be written", "writing", count)


def _run(job: Job, args: list[str], what: str, stage: str, count: int) -> None:
    job.report(stage, 0, count)
    run_job(args, what, lambda done: job.report(stage, done, count), job.cancel)
