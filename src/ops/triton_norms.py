"""Triton kernels around the DiT's matrix products: residual + gate + norm in one pass, RMS norms.

Twins: ``src.ops.norms``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _residual_norm(
    x_ptr, delta_ptr, gate_ptr, scale_ptr, shift_ptr, sum_ptr, out_ptr, width, eps,
    DELTA: tl.constexpr, GATE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One token. Grid (tokens)."""
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    at = tl.program_id(0).to(tl.int64) * width + columns
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if DELTA:
        delta = tl.load(delta_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if GATE:
            delta = delta * tl.load(gate_ptr + columns, mask=inside, other=0.0).to(tl.float32)
        # Rounded as it is stored, so that the norm sees what the next layer will see.
        x = (x + delta).to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + at, x, mask=inside)
        x = x.to(tl.float32)
    mean = tl.sum(x, 0) / width
    centred = tl.where(inside, x - mean, 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    scale = tl.load(scale_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, (centred * rstd * scale + shift).to(out_ptr.dtype.element_ty), mask=inside)


def residual_norm(
    x: Tensor, delta: Tensor | None, gate: Tensor | None, scale: Tensor, shift: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """As ``src.ops.norms.residual_norm``; ``x`` is overwritten by the sum."""
    tokens, width = x.shape
    out = torch.empty_like(x)
    _residual_norm[(tokens,)](
        x, x if delta is None else delta, x if gate is None else gate, scale, shift, x, out, width, eps,
        DELTA=delta is not None, GATE=gate is not None, BLOCK=triton.next_power_of_2(width),
        num_warps=4 if width <= 2048 else 8,
    )  # fmt: skip
    return x, out


@triton.jit
def _rms_norm(x_ptr, weight_ptr, out_ptr, width, stride, eps, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    row = tl.program_id(0).to(tl.int64)
    x = tl.load(x_ptr + row * stride + columns, mask=inside, other=0.0).to(tl.float32)
    rstd = tl.rsqrt(tl.sum(x * x, 0) / width + eps)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + columns, (x * rstd * weight).to(out_ptr.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ``src.ops.norms.rms_norm``: (L, D) -> (L, D)."""
    tokens, width = x.shape
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _rms_norm[(tokens,)](x, weight, out, width, x.stride(0), eps, BLOCK=triton.next_power_of_2(width), num_warps=4)
    return out


@triton.jit
def _rstd(x_ptr, out_ptr, width, stride, eps, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    row = tl.program_id(0).to(tl.int64)
    x = tl.load(x_ptr + row * stride + columns, mask=columns < width, other=0.0).to(tl.float32)
    tl.store(out_ptr + row, tl.rsqrt(tl.sum(x * x, 0) / width + eps))


def rstd(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) of every row of x (L, D): (L,) float32."""
    out = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
    _rstd[(x.shape[0],)](x, out, x.shape[1], x.stride(0), eps, BLOCK=triton.next_power_of_2(x.shape[1]), num_warps=4)
    return out


@triton.jit
def _quantise_rows(x_ptr, out_ptr, scale_ptr, width, GELU: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    row = tl.program_id(0).to(tl.int64)
    x = tl.load(x_ptr + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        x = x * tl.sigmoid(2 * inner)  # 0.5 * (1 + tanh(y)) = sigmoid(2y)
    scale = tl.maximum(tl.max(tl.abs(x), 0), 1e-12 * 448.0) / 448.0
    y = tl.minimum(tl.maximum(x / scale, -448.0), 448.0)
    tl.store(out_ptr + row * width + columns, y.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(scale_ptr + row, scale)


def quantise_rows(x: Tensor, gelu: bool = False) -> tuple[Tensor, Tensor]:
    """As ``src.ops.fp8.quantise_rows``."""
    tokens, width = x.shape
    out = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scale = torch.empty(tokens, 1, dtype=torch.float32, device=x.device)
    _quantise_rows[(tokens,)](
        x, out, scale, width, GELU=gelu, BLOCK=triton.next_power_of_2(width), num_warps=4 if width <= 2048 else 8
    )
    return out, scale
