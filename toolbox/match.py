"""Tools that set a second clip beside the first: its colours, or both in one picture."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from src.errors import InputError
from toolbox.clip import Clip, Job, open_clip, single_frame
from toolbox.edit import as_depth, fitted

LINE = 2  # pixels of the line between the two halves
SWEEP_SECONDS = 4  # the slider goes to the other side and back in this time


def color(job: Job, clip: Clip, reference: Path, method: str) -> Clip:
    """The colours of ``reference``: a clip of as many frames (of any size), or one picture for all frames."""
    import torch

    from toolbox.color import color_fix

    other = open_clip(reference)
    if other.count not in (1, clip.count):
        raise InputError(
            f"{reference} has {other.count} frames, but the clip has {clip.count} here; a reference has as many, or is"
            " one picture"
        )
    if (other.width, other.height) != (clip.width, clip.height):
        job.note(f"{reference}: {other.width}x{other.height} is made {clip.width}x{clip.height} for comparison")
        other = fitted(other, clip.width, clip.height, "stretch")

    def tensor(frame: np.ndarray) -> torch.Tensor:
        white = 65535 if frame.dtype == np.uint16 else 255
        samples = torch.from_numpy(frame.astype(np.float32)).permute(2, 0, 1)[None]
        return samples / white * 2 - 1

    def fixed(frame: np.ndarray, model: np.ndarray) -> np.ndarray:
        white = 65535 if frame.dtype == np.uint16 else 255
        with torch.inference_mode():
            result = color_fix(method, tensor(frame), tensor(model))[0].permute(1, 2, 0)
            return ((result + 1) * (white / 2)).round_().numpy().astype(frame.dtype)

    def frames(first: int, stop: int | None) -> Iterator[np.ndarray]:
        models = itertools.repeat(single_frame(other, 0)) if other.count == 1 else other.frames(first, stop)
        return (fixed(frame, model) for frame, model in zip(clip.frames(first, stop), models, strict=False))

    return replace(clip, frames=frames)


def side_by_side(job: Job, clip: Clip, other: Path, layout: str) -> Clip:
    """``other`` (made as large as the clip) left, the clip right: beside each other, split, or with a moving slider."""
    left = open_clip(other)
    if left.count != clip.count:
        raise InputError(f"{other} has {left.count} frames, but the clip has {clip.count} here; trim one of them")
    if (left.width, left.height) != (clip.width, clip.height):
        job.note(f"{other}: {left.width}x{left.height} is shown as {clip.width}x{clip.height}")
        left = fitted(left, clip.width, clip.height, "stretch")
    width = clip.width

    def both(index: int, one: np.ndarray, two: np.ndarray) -> np.ndarray:
        one = as_depth(one, clip.deep)
        if layout == "beside":
            return np.concatenate((one, two), 1)
        place = width // 2
        if layout == "slider":
            phase = float(index / clip.rate) / SWEEP_SECONDS % 1
            place = round(width * (2 * phase if phase < 0.5 else 2 - 2 * phase))
        frame = two.copy()
        frame[:, :place] = one[:, :place]
        frame[:, max(0, place - LINE // 2) : place + LINE // 2] = 65535 if clip.deep else 255
        return frame

    def frames(first: int, stop: int | None) -> Iterator[np.ndarray]:
        pairs = zip(left.frames(first, stop), clip.frames(first, stop), strict=False)
        return (both(first + index, one, two) for index, (one, two) in enumerate(pairs))

    return replace(clip, frames=frames, width=width * (2 if layout == "beside" else 1))
