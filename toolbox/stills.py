"""A clip as a folder of pictures."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np

from src.errors import InputError, OutputExistsError, VideoError
from src.video import write_picture
from src.video.paths import temporary_path
from toolbox.clip import Clip, Job

_OURS = re.compile(r"frame_\d{6,}\.(png|jpg|webp|tiff)")


def frames(job: Job, clip: Clip, format: str, every: int, limit: int | None, quality: int) -> Clip:
    """Every ``every``-th frame as frame_000001.png and so on, in a folder that appears complete or not at all."""
    folder = job.output
    if folder is None:
        raise InputError("there is no output; use -o")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not job.overwrite)):
        raise OutputExistsError(f"{folder} exists already; choose another name or use --overwrite")
    if folder.is_dir() and (strangers := [item.name for item in folder.iterdir() if not _OURS.fullmatch(item.name)]):
        # To overwrite is to replace an earlier result, never to empty somebody's folder.
        raise InputError(f"{folder} holds other files ({strangers[0]}); choose another name")
    marker = temporary_path(folder.with_name(folder.name + ".d"))
    work = marker.with_suffix("")
    count = min(-(-clip.count // every), limit or clip.count)
    written = 0
    try:
        work.mkdir()
        chosen: Iterator[np.ndarray] = itertools.islice(iter(clip), 0, None if limit is None else limit * every, every)
        for frame in job.follow(chosen, "writing pictures", count):
            written += 1
            write_picture(work / f"frame_{written:06d}.{format}", frame, quality)
        if folder.is_dir():
            shutil.rmtree(folder)
        work.replace(folder)
    except OSError as error:
        raise VideoError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        marker.unlink(missing_ok=True)
        shutil.rmtree(work, ignore_errors=True)
    return replace(clip, count=written, rate=clip.rate / Fraction(every))
