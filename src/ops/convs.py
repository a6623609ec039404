"""What stands between the convolutions of projector and decoders: fused on a GPU, plain PyTorch elsewhere.

Pictures are channels-last. ``folded`` convolutions see three or four frames side by side in the channels, which 2-D
kernels compute at up to twice the speed of 3-D ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ConvOps:
    """``cudnn``: convolution, sum and ReLU in one cuDNN kernel. ``triton``: the kernels of ``triton_convs``."""

    cudnn: bool = False
    triton: bool = False

    def conv_relu(self, x: Tensor, conv: nn.Conv2d, add: Tensor | None = None) -> Tensor:
        """ReLU(conv(x) [+ add]), (N, C, H, W).

        In one cuDNN kernel the sum and the ReLU cost nothing: 0.44 ms for 0.84 + 0.19 (4 x 128 x 384 x 704,
        bf16, H100).
        """
        if not self.cudnn:
            y = conv(x)
            return (y if add is None else y.add_(add)).relu_()
        weight, bias, stride, padding = conv.weight, conv.bias, conv.stride, _numbers(conv.padding)
        if add is None:
            return torch.cudnn_convolution_relu(x, weight, bias, stride, padding, conv.dilation, conv.groups)
        return torch.cudnn_convolution_add_relu(x, weight, add, 1.0, bias, stride, padding, conv.dilation, conv.groups)

    def shift_concat(self, x: Tensor, past: Tensor) -> Tensor:
        """[x, x one step earlier] along the channels: x (T, C, h, w), past (1, C, h, w) -> (T, 2C, h, w)."""
        steps, channels, height, width = x.shape
        out = empty_channels_last((steps, 2 * channels, height, width), x)
        if self.triton:
            from src.ops import triton_convs

            triton_convs.shift_concat(rows(channels_last(x)), rows(channels_last(past)), rows(out))
            return out
        out[:, :channels] = x
        out[:1, channels:] = past
        out[1:, channels:] = x[:-1]
        return out

    def norm_silu(self, x: Tensor, gamma: Tensor, bias: Tensor | None = None) -> Tensor:
        """RMS norm of (x + bias) over the channels, times gamma, then SiLU: (N, C, H, W), gamma and bias (C,)."""
        if self.triton:
            from src.ops import triton_convs

            y = triton_convs.norm_silu(rows(channels_last(x)), gamma, bias)
        else:
            y = norm_silu(rows(channels_last(x)), gamma, bias)
        return from_rows(y, x.shape)

    def advance(self, x: Tensor, tail: Tensor, gamma: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Frames (F, C, H, W) behind the two before them: (F, 3C, H, W); see ``advance`` for the rest.

        ``tail`` (1, 2C, H, W) moves on by F frames.
        """
        frames, channels, height, width = x.shape
        out = empty_channels_last((frames, 3 * channels, height, width), x)
        step = advance
        if self.triton:
            from src.ops import triton_convs

            step = triton_convs.advance
        for frame, into in zip(channels_last(x).split(1), out.split(1), strict=True):
            step(rows(frame), rows(tail), rows(into), gamma, bias)
        return out

    def add_bias(self, x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
        """x + y + bias, (N, C, H, W) and (C,); y is overwritten."""
        if self.triton:
            from src.ops import triton_convs

            y = channels_last(y)
            return from_rows(triton_convs.add_bias(rows(channels_last(x)), rows(y), bias), y.shape)
        return y.add_(x).add_(bias.view(-1, 1, 1))


def norm_silu(x: Tensor, gamma: Tensor, bias: Tensor | None = None, silu: bool = True) -> Tensor:
    """RMS norm of (x + bias) over the channels, times gamma, then SiLU: rows x (P, C), gamma and bias (C,).

    ``x / max(||x||_2, 1e-12) * sqrt(C) * gamma``, computed in float32.
    """
    y = x.float() if bias is None else x.float() + bias.float()
    y = F.normalize(y, dim=1, eps=1e-12) * (gamma.float() * x.shape[1] ** 0.5)
    return (F.silu(y) if silu else y).to(x.dtype)


def advance(x: Tensor, tail: Tensor, out: Tensor, gamma: Tensor | None, bias: Tensor | None) -> None:
    """One frame joins the history of a causal convolution.

    Rows x (P, C) of the frame; with ``gamma`` they become norm_silu(x + bias). ``out`` (P, 3C) gets the two frames
    before and this one side by side; ``tail`` (P, 2C), the two frames before, moves on by one.
    """
    channels = x.shape[1]
    y = x if gamma is None else norm_silu(x, gamma, bias)
    out[:, : 2 * channels] = tail
    out[:, 2 * channels :] = y
    tail.copy_(out[:, channels:])


def channels_last(x: Tensor) -> Tensor:
    """x itself where it is channels-last already; the largest convolutions sometimes leave another order."""
    return x.contiguous(memory_format=torch.channels_last)


def rows(x: Tensor) -> Tensor:
    """The pixels of a channels-last picture (N, C, H, W) as rows (N * H * W, C), without a copy."""
    flat = x.permute(0, 2, 3, 1)
    if not flat.is_contiguous():
        raise ValueError(f"a picture of strides {x.stride()} is not channels-last")
    return flat.view(-1, x.shape[1])


def from_rows(x: Tensor, shape: torch.Size) -> Tensor:
    """Rows (N * H * W, C) as a channels-last picture of shape (N, C, H, W), without a copy."""
    steps, channels, height, width = shape
    return x.view(steps, height, width, channels).permute(0, 3, 1, 2)


def empty_channels_last(size: tuple[int, ...], like: Tensor) -> Tensor:
    """Memory in channels-last order: anything else makes every convolution that follows convert its input."""
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _numbers(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(padding, str):
        raise TypeError(f"padding {padding!r} by name: the models give it in numbers")
    return padding
