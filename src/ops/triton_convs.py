"""Triton kernels that prepare the input of convolutions: norm, SiLU and history in one pass.

All pictures are channels-last, so a pixel is a row of channels. Twins: ``src.ops.convs``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_NUMBERS = 4096  # numbers of one program


@triton.jit
def _normed(x, gamma_ptr, columns, inside, root, SILU: tl.constexpr):
    """RMS norm of rows of channels, and SiLU; x (rows, channels) float32."""
    norm = tl.sqrt(tl.sum(x * x, 1))
    gamma = tl.load(gamma_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    y = x / tl.maximum(norm, 1e-12)[:, None] * (gamma * root)[None, :]
    if SILU:
        y = y * tl.sigmoid(y)
    return y


@triton.jit
def _norm_silu(
    x_ptr, bias_ptr, gamma_ptr, out_ptr, rows, channels, root,
    BIAS: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    inside = columns < channels
    mask = (row < rows)[:, None] & inside[None, :]
    at = row[:, None] * channels + columns[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if BIAS:
        x += tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    y = _normed(x, gamma_ptr, columns, inside, root, SILU)
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mask)


def norm_silu(x: Tensor, gamma: Tensor, bias: Tensor | None = None, silu: bool = True) -> Tensor:
    """As ``src.ops.convs.norm_silu``, on rows x (P, C)."""
    rows, channels = x.shape
    out = torch.empty_like(x)
    columns, height = _shape(channels)
    _norm_silu[(triton.cdiv(rows, height),)](
        x, x if bias is None else bias, gamma, out, rows, channels, channels**0.5,
        BIAS=bias is not None, SILU=silu, ROWS=height, COLUMNS=columns, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _advance(
    x_ptr, bias_ptr, gamma_ptr, tail_ptr, out_ptr, rows, channels, root,
    BIAS: tl.constexpr, NORM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    inside = columns < channels
    mask = (row < rows)[:, None] & inside[None, :]
    y = tl.load(x_ptr + row[:, None] * channels + columns[None, :], mask=mask, other=0.0)
    if NORM:
        x = y.to(tl.float32)
        if BIAS:
            x += tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
        y = _normed(x, gamma_ptr, columns, inside, root, True).to(out_ptr.dtype.element_ty)
    tail = tail_ptr + row[:, None] * (2 * channels) + columns[None, :]
    older = tl.load(tail, mask=mask, other=0.0)
    newer = tl.load(tail + channels, mask=mask, other=0.0)
    out = out_ptr + row[:, None] * (3 * channels) + columns[None, :]
    tl.store(out, older, mask=mask)
    tl.store(out + channels, newer, mask=mask)
    tl.store(out + 2 * channels, y, mask=mask)
    tl.store(tail, newer, mask=mask)
    tl.store(tail + channels, y, mask=mask)


def advance(x: Tensor, tail: Tensor, out: Tensor, gamma: Tensor | None, bias: Tensor | None) -> None:
    """As ``src.ops.convs.advance``, for one frame: rows x (P, C), tail (P, 2C), out (P, 3C)."""
    rows, channels = x.shape
    columns, height = _shape(channels)
    _advance[(triton.cdiv(rows, height),)](
        x, x if bias is None else bias, x if gamma is None else gamma, tail, out, rows, channels, channels**0.5,
        BIAS=bias is not None, NORM=gamma is not None, ROWS=height, COLUMNS=columns, num_warps=4,
    )  # fmt: skip


@triton.jit
def _shift_concat(
    x_ptr, past_ptr, out_ptr, pixels, rows, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Row r of x goes to the left half of row r and to the right half of row r + pixels; ``past`` has rows before 0."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64) - pixels
    columns = tl.arange(0, COLUMNS)
    inside = (columns < channels)[None, :]
    now = (row >= 0)[:, None] & (row < rows)[:, None] & inside
    before = (row < 0)[:, None] & inside
    x = tl.load(x_ptr + row[:, None] * channels + columns[None, :], mask=now, other=0.0)
    past = tl.load(past_ptr + (row[:, None] + pixels) * channels + columns[None, :], mask=before, other=0.0)
    y = tl.where(now, x, past)
    left = out_ptr + row[:, None] * (2 * channels) + columns[None, :]
    right = out_ptr + (row[:, None] + pixels) * (2 * channels) + channels + columns[None, :]
    tl.store(left, y, mask=now)
    tl.store(right, y, mask=(row + pixels < rows)[:, None] & inside)


def shift_concat(x: Tensor, past: Tensor, out: Tensor) -> None:
    """As ``src.ops.convs.shift_concat``: rows x (T * P, C), past (P, C), out (T * P, 2C)."""
    rows, channels = x.shape
    pixels = past.shape[0]
    columns, height = _shape(channels)
    _shift_concat[(triton.cdiv(rows + pixels, height),)](
        x, past, out, pixels, rows, channels, ROWS=height, COLUMNS=columns, num_warps=4
    )


@triton.jit
def _add_bias(x_ptr, y_ptr, bias_ptr, out_ptr, numbers, channels, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < numbers
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + at, mask=mask, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + at % channels, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, (x + y + bias).to(out_ptr.dtype.element_ty), mask=mask)


def add_bias(x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
    """x + y + bias of rows (P, C); ``y`` is overwritten."""
    _add_bias[(triton.cdiv(x.numel(), BLOCK_NUMBERS),)](
        x, y, bias, y, x.numel(), x.shape[1], BLOCK=BLOCK_NUMBERS, num_warps=8
    )
    return y


def _shape(channels: int) -> tuple[int, int]:
    """Columns and rows of one program's tile."""
    columns = triton.next_power_of_2(channels)
    return columns, max(1, BLOCK_NUMBERS // columns)
