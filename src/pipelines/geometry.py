"""Sizes of a job, and the way of a frame into and out of the model's range."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from src.chunks import WINDOW_PIXELS, pad_to_window
from src.errors import InputError


@dataclass(frozen=True)
class Geometry:
    """Input size, scaled size (scale * input, rounded half up), output size and the padded size the model sees."""

    height: int
    width: int
    scaled_height: int
    scaled_width: int
    out_height: int
    out_width: int
    padded_height: int
    padded_width: int

    @classmethod
    def of(cls, height: int, width: int, scale: Fraction, reference_quirks: bool = False) -> Geometry:
        """The sizes for an input picture. ``reference_quirks``: cut down to multiples of 128, as the original."""
        if height < 1 or width < 1:
            raise InputError(f"a picture of {width}x{height} pixels has nothing to upscale")
        out = [int(side * scale + Fraction(1, 2)) for side in (height, width)]
        if reference_quirks:
            cut = [max(side // WINDOW_PIXELS, 1) * WINDOW_PIXELS for side in out]
            return cls(height, width, *out, *cut, *cut)
        return cls(height, width, *out, *out, *(pad_to_window(side) for side in out))

    @classmethod
    def within(cls, height: int, width: int, box: tuple[int, int]) -> Geometry:
        """The largest even size of the input's aspect that fits into ``box`` (width, height).

        InputError if that is smaller than the input, or more than 16 times as large.
        """
        factor = min(Fraction(box[0], width), Fraction(box[1], height))
        # Upright clips are meant to be turned: 1080p of a phone's film is 1080 wide.
        if height > width and box[0] > box[1]:
            factor = min(Fraction(box[1], width), Fraction(box[0], height))
        name = f"--resolution {box[0]}x{box[1]}"
        if factor < 1:
            raise InputError(f"{name}: the input is larger already ({width}x{height}); this program does not shrink")
        if factor > 16:
            raise InputError(f"{name} is more than 16 times the input ({width}x{height}); use a smaller one")
        out = [max(2, round(side * factor / 2) * 2) for side in (height, width)]
        return cls(height, width, *out, *out, *(pad_to_window(side) for side in out))

    @property
    def windows(self) -> tuple[int, int]:
        """Rows and columns of attention windows."""
        return self.padded_height // WINDOW_PIXELS, self.padded_width // WINDOW_PIXELS


def to_float(frame: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """(H, W, 3) uint8 or uint16 -> (1, 3, H, W) float32 in [0, 1] on ``device``."""
    if isinstance(frame, np.ndarray):
        top = 255.0 if frame.dtype == np.uint8 else 65535.0
        # A copy, and wider where torch has no unsigned 16-bit arithmetic: a reader's buffer may be read-only.
        tensor = torch.from_numpy(frame.astype(np.uint8 if frame.dtype == np.uint8 else np.int32))
        if device.type == "cuda":
            tensor = tensor.pin_memory()  # so that the copy waits for nothing
        tensor = tensor.to(device, non_blocking=device.type == "cuda")
    else:
        top, tensor = 255.0, frame.to(device)
    return tensor.permute(2, 0, 1)[None].to(torch.float32).contiguous().div_(top)


def upscale_lq(frame: Tensor, geometry: Geometry, antialias: bool, reference_quirks: bool = False) -> Tensor:
    """One frame (1, 3, H, W) in [0, 1] -> bicubic, padded, in [-1, 1]: (1, 3, padded H, padded W),
    channels last.

    ``antialias``: the kernel with a = -0.5, clamped to 0..1 (nano); otherwise a = -0.75, overshoot
    kept (the releases). Padding replicates the right and the bottom edge. ``reference_quirks`` cuts
    the centre out instead.
    """
    size = [geometry.scaled_height, geometry.scaled_width]
    up = F.interpolate(frame, size=size, mode="bicubic", align_corners=False, antialias=antialias)
    if antialias:
        up = up.clamp_(0, 1)
    if reference_quirks:
        top, left = (size[0] - geometry.out_height) // 2, (size[1] - geometry.out_width) // 2
        up = up[..., top : top + geometry.out_height, left : left + geometry.out_width]
    else:
        right, bottom = geometry.padded_width - size[1], geometry.padded_height - size[0]
        up = F.pad(up, (0, right, 0, bottom), mode="replicate")
    return up.mul_(2).sub_(1).contiguous(memory_format=torch.channels_last)


def upscale_alpha(alpha: np.ndarray, geometry: Geometry, dtype: np.dtype) -> np.ndarray:
    """Transparency (h, w) uint8 or uint16 -> bicubic, at the output's size and in ``dtype``: no model has seen any."""
    top = 255.0 if alpha.dtype == np.uint8 else 65535.0
    pixels = torch.from_numpy(alpha.astype(np.float32) / top)[None, None]
    size = [geometry.out_height, geometry.out_width]
    up = F.interpolate(pixels, size=size, mode="bicubic", align_corners=False, antialias=True).clamp_(0, 1)[0, 0]
    return np.rint(up.numpy() * (255 if dtype == np.uint8 else 65535)).astype(dtype)


def to_uint16(frames: Tensor) -> Tensor:
    """(F, 3, H, W) in [0, 1] -> (F, H, W, 3) in 0..65535, rounded; int32, since PyTorch hardly knows uint16."""
    levels = frames.clamp(0, 1).mul_(65535).add_(0.5)
    return levels.to(torch.int32).permute(0, 2, 3, 1).contiguous()


def to_uint8(frames: Tensor, truncate: bool = False) -> Tensor:
    """(F, 3, H, W) in [0, 1] -> (F, H, W, 3) uint8, rounded (the original truncates)."""
    levels = frames.clamp(0, 1).mul_(255)
    if not truncate:
        levels.add_(0.5)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def to_host(parts: Iterable[Tensor]) -> Iterator[np.ndarray]:
    """Parts of frames as arrays in main memory, in order.

    From a GPU one part late: while a part is copied, and while whoever iterates is busy with it, the GPU
    already works on the next one.
    """
    waiting: tuple[Tensor, torch.cuda.Event] | None = None
    for part in parts:
        if part.device.type != "cuda":
            yield part.cpu().numpy()
            continue
        host = torch.empty(part.shape, dtype=part.dtype, pin_memory=True)
        host.copy_(part, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(part.device))
        if waiting is not None:
            waiting[1].synchronize()
            yield waiting[0].numpy()
        waiting = (host, copied)
    if waiting is not None:
        waiting[1].synchronize()
        yield waiting[0].numpy()
