"""What stands between the DiT's matrix products, in plain PyTorch: residual, gate, norms, rotation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def residual_norm(
    x: Tensor, delta: Tensor | None, gate: Tensor | None, scale: Tensor, shift: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The sum x + gate * delta, and its LayerNorm times ``scale`` plus ``shift``.

    x, delta (L, D); gate, scale, shift (D,). Without ``delta`` the sum is x itself, without ``gate`` the gate is 1.
    Returns (sum, norm), both (L, D).
    """
    if delta is not None:
        x = x + (delta if gate is None else gate * delta)
    return x, F.layer_norm(x, x.shape[-1:], eps=eps) * scale + shift


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x * rsqrt(mean(x^2) + eps) * weight`` over the last axis, computed in float32."""
    return F.rms_norm(x.float(), x.shape[-1:], weight.float(), eps).to(x.dtype)


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs (2i, 2i+1) of x (H, L, d) by the angles of cos and sin (L, d / 2), in float32."""
    cos, sin = rope
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)
