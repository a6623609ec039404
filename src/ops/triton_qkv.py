"""Triton kernels from the Q, K and V projections into the KV pool: norm, RoPE, smoothing, quantisation.

One pass over a projection: RMS norm over the whole width, rotation, block means for the selection, INT8 with one
scale per block and head, written where attention reads it. Twins: ``src.ops.norms``, ``src.ops.quantize``.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rotate_quantise(
    x_ptr,
    rstd_ptr,
    weight_ptr,
    cos_ptr,
    sin_ptr,
    smooth_ptr,
    slots_ptr,
    out_ptr,
    scale_ptr,
    mean_ptr,
    x_stride,
    frame_blocks,
    heads,
    factor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    INT8: tl.constexpr,
    SMOOTH: tl.constexpr,
    SLOTS: tl.constexpr,
    STORE: tl.constexpr,
):
    """One block of tokens of one head. Grid (blocks, heads).

    The block's number in the output is (slot, head, block of the window-frame) with SLOTS, else (head, block).
    """
    block, head = tl.program_id(0), tl.program_id(1)
    HALF: tl.constexpr = WIDTH // 2
    tokens = block * BLOCK + tl.arange(0, BLOCK)
    dims = tl.arange(0, WIDTH)
    half = tl.arange(0, HALF)
    x = tl.load(x_ptr + tokens[:, None].to(tl.int64) * x_stride + head * WIDTH + dims[None, :]).to(tl.float32)
    weight = tl.load(weight_ptr + head * WIDTH + dims).to(tl.float32)
    x = x * tl.load(rstd_ptr + tokens)[:, None] * weight[None, :]
    # The norm's result is rounded to the model's format, as its twin's is.
    x = x.to(x_ptr.dtype.element_ty).to(tl.float32)
    even, odd = tl.split(tl.reshape(x, [BLOCK, HALF, 2]))
    cos = tl.load(cos_ptr + tokens[:, None] * HALF + half[None, :])
    sin = tl.load(sin_ptr + tokens[:, None] * HALF + half[None, :])
    x = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), [BLOCK, WIDTH])
    if SLOTS:
        slot = tl.load(slots_ptr + block // frame_blocks)
        number = (slot * heads + head).to(tl.int64) * frame_blocks + block % frame_blocks
    else:
        number = head.to(tl.int64) * tl.num_programs(0) + block
    tl.store(mean_ptr + number * WIDTH + dims, tl.sum(x, 0) / BLOCK)
    if STORE:
        if SMOOTH:
            x = x - tl.load(smooth_ptr + head * WIDTH + dims)[None, :]
        at = out_ptr + number * (BLOCK * WIDTH) + tl.arange(0, BLOCK)[:, None] * WIDTH + dims[None, :]
        if INT8:
            scale = tl.max(tl.max(tl.abs(x), 1), 0) / 127.0
            # Half away from zero; a block of zeros stays zero instead of dividing by it.
            y = x / tl.maximum(scale, 1e-30)
            y = tl.where(y >= 0, y + 0.5, y - 0.5)
            tl.store(at, y.to(tl.int8))
            tl.store(scale_ptr + number, scale * factor)
        else:
            tl.store(at, x.to(out_ptr.dtype.element_ty))


def rotate_quantise(
    x: Tensor,
    rstd: Tensor,
    weight: Tensor,
    rope: tuple[Tensor, Tensor],
    block: int,
    out: Tensor | None,
    scales: Tensor | None,
    means: Tensor,
    *,
    factor: float = 1.0,
    smooth: Tensor | None = None,
    slots: Tensor | None = None,
    frame_blocks: int = 1,
) -> None:
    """Norm, rotate and store the rows of a projection x (L, D), block by block.

    rstd (L,), weight (D,), rope cos and sin (L, d / 2); ``out`` int8 (with ``scales``, multiplied by
    ``factor``) or floating, or None for the block means only; ``means`` float32, one (d,) per block, of the
    rotated rows before ``smooth`` (H, d) is taken off. With ``slots`` (int32, one per window-frame of ``frame_blocks``
    blocks) the outputs are pools (slots, H, ...), else (H, ...).
    """
    cos, sin = rope
    width = cos.shape[1] * 2
    heads, blocks = x.shape[1] // width, x.shape[0] // block
    _rotate_quantise[(blocks, heads)](
        x, rstd, weight, cos, sin, x if smooth is None else smooth, x if slots is None else slots,
        means if out is None else out, means if scales is None else scales, means,
        x.stride(0), frame_blocks, heads, factor,
        WIDTH=width, BLOCK=block, INT8=scales is not None, SMOOTH=smooth is not None,
        SLOTS=slots is not None, STORE=out is not None, num_warps=4 if block == 64 else 8,
    )  # fmt: skip


@triton.jit
def _store_values(
    x_ptr, slots_ptr, out_ptr, scale_ptr, x_stride, frame_blocks, heads,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, INT8: tl.constexpr,
):  # fmt: skip
    block, head = tl.program_id(0), tl.program_id(1)
    rows, dims = tl.arange(0, BLOCK), tl.arange(0, WIDTH)
    x = tl.load(x_ptr + (block * BLOCK + rows[:, None]).to(tl.int64) * x_stride + head * WIDTH + dims[None, :])
    slot = tl.load(slots_ptr + block // frame_blocks)
    number = (slot * heads + head).to(tl.int64) * frame_blocks + block % frame_blocks
    at = out_ptr + number * (BLOCK * WIDTH) + rows[:, None] * WIDTH + dims[None, :]
    if INT8:
        x = x.to(tl.float32)
        scale = tl.max(tl.abs(x), 1) / 127.0
        y = x / tl.maximum(scale, 1e-30)[:, None]
        x = tl.where(y >= 0, y + 0.5, y - 0.5)
        tl.store(scale_ptr + number * BLOCK + rows, scale)
    tl.store(at, x.to(out_ptr.dtype.element_ty))


def store_values(x: Tensor, pool: Tensor, scales: Tensor | None, slots: Tensor, block: int) -> None:
    """Copy the rows of a projection x (L, D) into a pool (slots, H, tokens, d) of values.

    With ``scales`` (slots, H, tokens) float32 the pool is int8, every token with a scale of its own: a common one for a
    block would lose what a token of large values hides.
    """
    _, heads, tokens, width = pool.shape
    _store_values[(x.shape[0] // block, heads)](
        x, slots, pool, pool if scales is None else scales, x.stride(0), tokens // block, heads,
        WIDTH=width, BLOCK=block, INT8=scales is not None, num_warps=4,
    )  # fmt: skip
