"""Small layers shared by the models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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
