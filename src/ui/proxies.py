"""What a browser can play: the input cut to the job's frames, the result if its own format is not for browsers."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from src.config import Options
from src.errors import VideoError
from src.ui.context import Context
from src.video import MediaInfo, PictureReader, VideoWriter, is_picture, open_source, probe, write_picture
from src.video.pictures import to_8bit

MAX_SIDE = 1920  # of a proxy; the result itself is never touched
EXPORT_SIDE = 3840
_BROWSER_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_BROWSER_VIDEOS = {".mp4": ("h264", "av1"), ".mov": ("h264",), ".webm": ("av1", "vp9", "vp8")}


def make_proxies(options: Options, result: Path, context: Context) -> dict[str, Any]:
    """Files for the compare view: ``before`` and ``after`` (paths), ``rate`` (frames per second, "" for a picture)."""
    if is_picture(result):
        before = context.folder / "before.png"
        write_picture(before, _one(options.input), overwrite=True)
        after = result
        if result.suffix.lower() not in _BROWSER_PICTURES:
            after = context.folder / "after.png"
            write_picture(after, to_8bit(_one(result)), overwrite=True)
        return {"before": str(before), "after": str(after), "rate": 0.0}
    if result.is_dir():
        return {}
    before = context.folder / "before.mp4"
    with open_source(options.input, options.start, options.end, options.fps) as source:
        _write(before, iter(source), (source.height, source.width), source.fps, context)
    return {"before": str(before), "after": str(browser_copy(result, context)), "rate": float(probe(result).fps)}


def browser_copy(video: Path, context: Context) -> Path:
    """``video`` itself if browsers play it, otherwise a copy in the job's folder that they do."""
    info = probe(video)
    if info.codec in _BROWSER_VIDEOS.get(video.suffix.lower(), ()) and info.pix_fmt in ("yuv420p", "yuvj420p"):
        return video
    copy = context.folder / "after.mp4"
    with open_source(video) as source:
        _write(copy, iter(source), (source.height, source.width), source.fps, context, sound=info)
    return copy


def make_export(before: Path, after: Path, target: Path, context: Context) -> dict[str, Any]:
    """Input (enlarged by bicubic interpolation) and result beside each other, in one picture or video with sound."""
    if is_picture(after):
        joined = _beside(_one(before), _one(after))
        write_picture(target, joined, quality=9)
        return _facts(target, 1, joined.shape[1], joined.shape[0])
    info = probe(after)
    with open_source(before) as left, open_source(after) as right:
        height, width = _shrunk(right.height, 2 * right.width, EXPORT_SIDE)
        pairs = (_beside(one, two, (height, width)) for one, two in zip(left, right, strict=False))
        total = right.frames_expected
        count = _write(target, pairs, (height, width), right.fps, context, sound=info, expected=total)
    return _facts(target, count, width, height)


def _facts(target: Path, frames: int, width: int, height: int) -> dict[str, Any]:
    size = target.stat().st_size
    return {"path": str(target), "frames": frames, "width": width, "height": height, "bytes": size}


def _one(path: Path) -> np.ndarray:
    with PictureReader(path) as picture:
        return next(iter(picture))


def _write(
    path: Path,
    source: Iterator[np.ndarray],
    size: tuple[int, int],
    fps: Fraction,
    context: Context,
    *,
    sound: MediaInfo | None = None,
    expected: int | None = None,
) -> int:
    """An H.264 file of ``source``, no side longer than a browser likes. Returns the number of frames."""
    height, width = _shrunk(*size, EXPORT_SIDE if expected is not None else MAX_SIDE)
    count = 0
    with VideoWriter(path, width, height, fps, quality=8, source=sound, overwrite=True) as writer:
        for frame in source:
            context.check()
            writer.write(_resized(to_8bit(frame), height, width))
            count += 1
            if expected:
                context.report(frames=count, expected=expected, message="writing the comparison")
    if not count:
        raise VideoError(f"{path}: there were no frames to write")
    return count


def _shrunk(height: int, width: int, side: int) -> tuple[int, int]:
    """At most ``side`` pixels long, both even: players do not show odd sizes in 4:2:0."""
    factor = min(1.0, side / max(height, width))
    return max(2, round(height * factor / 2) * 2), max(2, round(width * factor / 2) * 2)


def _resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    if frame.shape[:2] == (height, width):
        return frame
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _beside(left: np.ndarray, right: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """Two frames in one of ``size`` (height, width); without it, each as large as ``right``."""
    height, width = size or (right.shape[0], 2 * right.shape[1])
    half = width // 2
    parts = (_resized(to_8bit(left[..., :3]), height, half), _resized(to_8bit(right[..., :3]), height, width - half))
    return np.concatenate(parts, axis=1)
