"""INT8 quantisation of queries and keys, in plain PyTorch: the twin of ``triton_qkv``.

One scale per block of tokens and head. Keys lose a constant vector first ("smoothing"): it shifts all scores of
a query by the same number, which softmax does not see, and takes away most of their range.
Source: SageAttention (arXiv 2410.02367).
"""

from __future__ import annotations

import torch
from torch import Tensor

LOG2_E = 1.4426950408889634


def quantise_blocks(x: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """(H, L, d) -> int8 of the same shape and scales (H, L / block) float32, x ~ int8 * scale.

    scale = max|x| / 127 of the block; rounds half away from zero; a block of zeros stays zero.
    """
    blocks = x.float().unflatten(1, (-1, block))
    scale = blocks.abs().amax(dim=(2, 3)) / 127
    y = blocks / scale.clamp_min(1e-30)[..., None, None]
    y = torch.where(y >= 0, y + 0.5, y - 0.5).to(torch.int8)
    return y.flatten(1, 2), scale


def dequantise_blocks(x: Tensor, scale: Tensor) -> Tensor:
    """The float32 numbers that ``quantise_blocks`` kept."""
    blocks = x.unflatten(1, (scale.shape[1], -1)).float()
    return (blocks * scale[..., None, None]).flatten(1, 2)
