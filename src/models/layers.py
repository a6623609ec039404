"""Small layers shared by the models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32.

    ``x * rsqrt(mean(x^2) + eps) * weight`` for x of shape (..., dim).
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), self.eps).to(x.dtype)


class ChannelNorm(nn.Module):
    """RMS norm over the channel axis (1) of (B, C, ...): x / max(||x||_2, 1e-12) * sqrt(C) * gamma.

    ``axes``: how many axes follow the channels (the checkpoint stores gamma as (C, 1, 1[, 1])).
    Computed in float32 whatever the dtype of x.
    """

    def __init__(self, channels: int, axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *([1] * axes)))

    def forward(self, x: Tensor) -> Tensor:
        y = F.normalize(x.float(), dim=1, eps=1e-12)
        return (y * (self.gamma.float() * x.shape[1] ** 0.5)).to(x.dtype)


def fold_kernel(conv: nn.Conv3d) -> None:
    """Lay a 3-D kernel out so that ``folded_kernel`` needs no copy; its shape stays."""
    folded = rearrange(conv.weight.data, "o c t y x -> o y x t c").contiguous()
    conv.weight.data = rearrange(folded, "o y x t c -> o c t y x")


def folded_kernel(conv: nn.Conv3d) -> Tensor:
    """The 3-D kernel as a 2-D one over frames side by side in the channels: (C', t * C, y, x)."""
    return rearrange(conv.weight, "o c t y x -> o (t c) y x")


def doubling_taps(device: torch.device) -> Tensor:
    """(4, 3): which taps of a 3-tap kernel on a doubled row each tap of the transposed convolution collects.

    A 3x3 convolution on a picture doubled by repetition only ever sees 2x2 different pixels, so the two are one
    transposed convolution of 4x4, stride 2, padding 1: 4 taps a pixel for 9, and the doubled picture is never written.
    Along each axis its tap t collects the kernel's taps 2 - t and 3 - t.
    """
    return torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], device=device)
