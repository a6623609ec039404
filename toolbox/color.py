"""Colour fix: give upscaled frames the colours of their reference, the plainly upscaled input.

``wavelet`` takes the low spatial frequencies from the reference, ``adain`` its mean and contrast.
Frames are (F, 3, H, W) in [-1, 1], of any float dtype; the arithmetic is float32. Each frame is treated by
itself, so results do not depend on how a clip is cut into portions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from src.errors import InputError

RADII = (1, 2, 4, 8, 16)  # dilation of the blur, level by level
MARGIN = RADII[-1]
GAIN = 16.0 ** len(RADII)  # [1 2 1] x [1 2 1] without its 1/16, once per level
EPS = 1e-5  # under the root of adain's standard deviations

# Rows and columns blurred together on a CPU, so that one piece stays in the cache (768x1280, 2 cores:
# 12 ms per frame, against 40 ms for whole frames). A GPU wants few, large operations instead.
CPU_STRIP = (128, 256)


def color_fix(method: str, frames: Tensor, reference: Tensor) -> Tensor:
    """Fix the colours of ``frames`` by "wavelet" or "adain"; "none" returns ``frames`` itself.

    frames, reference: (F, 3, H, W) in [-1, 1], equal shapes, fastest if both are channels-last or both
    are not. Returns float32 clamped to [-1, 1], in the memory layout of ``frames``.
    Raises InputError for another method or shape.
    """
    if method == "none":
        return frames
    if method not in _METHODS:
        raise InputError(f"colour fix {method!r} is not one of none, {', '.join(_METHODS)}")
    return _METHODS[method](frames, reference)


def wavelet(frames: Tensor, reference: Tensor) -> Tensor:
    """High frequencies of ``frames`` plus low frequencies of ``reference``; shapes as in ``color_fix``.

    Low frequencies: five 3x3 [1 2 1]^2/16 blurs, dilated by 1, 2, 4, 8, 16, with replicated edges.
    frames - low(frames) + low(reference) = frames + low(reference - frames): one blur, not two.
    """
    return _each_frame(_wavelet_frame, frames, reference)


def adain(frames: Tensor, reference: Tensor) -> Tensor:
    """``frames`` with mean and deviation of ``reference``, per frame and channel; shapes as in ``color_fix``."""
    return _each_frame(_adain_frame, frames, reference)


def _each_frame(fix: Callable[[Tensor, Tensor], Tensor], frames: Tensor, reference: Tensor) -> Tensor:
    if frames.ndim != 4 or frames.shape[1] != 3 or 0 in frames.shape or frames.shape != reference.shape:
        raise InputError(
            f"colour fix of frames {tuple(frames.shape)} by a reference {tuple(reference.shape)}: "
            "both must be (F, 3, H, W) of one size"
        )
    # One frame at a time: no temporary ever has the size of a clip, and no result depends on the others.
    out = torch.empty_like(frames, dtype=torch.float32)
    for target, frame, model in zip(out, frames, reference, strict=True):
        torch.clamp(fix(frame.float(), model.to(frame.device, torch.float32)), -1, 1, out=target)
    return out


def _wavelet_frame(frame: Tensor, reference: Tensor) -> Tensor:
    """(3, H, W) float32, not clamped. The blur is separable: all levels along rows, then along columns."""
    height, width = frame.shape[1:]
    rows, columns = CPU_STRIP if frame.device.type == "cpu" else (height, width)
    low = torch.empty_like(frame)
    work, spare = (_empty(frame, min(rows, height), width + 2 * MARGIN) for _ in range(2))
    for top in range(0, height, rows):
        strip = slice(top, min(top + rows, height))
        part = work[:, : strip.stop - strip.start]
        inner = part[..., MARGIN : MARGIN + width]
        torch.sub(reference[:, strip], frame[:, strip], out=inner)
        _blur(part, spare[:, : part.shape[1]], dim=2)
        low[:, strip] = inner
    work, spare = (_empty(frame, height + 2 * MARGIN, min(columns, width)) for _ in range(2))
    for left in range(0, width, columns):
        strip = slice(left, min(left + columns, width))
        part = work[..., : strip.stop - strip.start]
        inner = part[:, MARGIN : MARGIN + height]
        inner.copy_(low[..., strip])
        _blur(part, spare[..., : part.shape[2]], dim=1)
        low[..., strip] = inner
    return torch.add(frame, low, alpha=1 / GAIN, out=low)


def _empty(frame: Tensor, height: int, width: int) -> Tensor:
    """Uninitialised (3, height, width) in the memory layout of ``frame``: mixed layouts are slow."""
    if frame.stride(0) == 1:  # channels last
        return frame.new_empty(height, width, 3).permute(2, 0, 1)
    return frame.new_empty(3, height, width)


def _blur(work: Tensor, spare: Tensor, dim: int) -> None:
    """All levels of the blur along ``dim``, in place, times 4 per level (a power of two: no rounding).

    ``work``: the data with MARGIN unset elements on both ends of ``dim``; ``spare``: as large.
    """
    length = work.shape[dim] - 2 * MARGIN
    inner = work.narrow(dim, MARGIN, length)
    for radius in RADII:
        # Each level replicates the edge of its own input, so the margins are filled anew.
        before, after = work.narrow(dim, MARGIN - radius, radius), work.narrow(dim, MARGIN + length, radius)
        before.copy_(inner.narrow(dim, 0, 1).expand_as(before))
        after.copy_(inner.narrow(dim, length - 1, 1).expand_as(after))
        # [1 2 1] is [1 1] twice: two additions instead of two additions and a product.
        pairs = spare.narrow(dim, 0, length + radius)
        torch.add(
            work.narrow(dim, MARGIN - radius, length + radius), work.narrow(dim, MARGIN, length + radius), out=pairs
        )
        torch.add(pairs.narrow(dim, 0, length), pairs.narrow(dim, radius, length), out=inner)


def _adain_frame(frame: Tensor, reference: Tensor) -> Tensor:
    """(3, H, W) float32, not clamped."""
    centred, _, variance = _moments(frame)
    _, mean, wanted = _moments(reference)
    return centred.mul_(((wanted + EPS) / (variance + EPS)).sqrt_()).add_(mean)


def _moments(frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The frame minus its mean, its mean and its population variance, the latter two (3, 1, 1).

    Two passes; torch.var_mean does it in one and takes four times as long on a CPU.
    """
    mean = frame.mean(dim=(1, 2), keepdim=True)
    centred = frame - mean
    norm = torch.linalg.vector_norm(centred, dim=(1, 2), keepdim=True)
    return centred, mean, norm.square_() / frame[0].numel()


_METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"adain": adain, "wavelet": wavelet}
