"""Building blocks of the Wan VAE: causal convolutions whose history lives in the stream's state.

All tensors are (1, C, F, H, W), the next F frames of a stream. ``state.tails`` holds what each
temporal convolution has to remember, under the layer's own name; ``state.started`` is set once the first frame
has passed. The first frame is special: temporal resampling leaves it alone.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from src.models.layers import ChannelNorm, doubling_taps, folded_kernel
from src.ops.convs import ConvOps, empty_channels_last
from src.state import ConvState

HISTORY = 2  # frames that a kernel of 3 needs in front


class CausalConv3d(nn.Conv3d):
    """3x3x3 convolution over the two earlier frames and the present one; zeros before the first frame.

    Used in two steps, ``conv(conv.behind_history(x, state))``, so that x can be dropped in between: at
    full resolution every tensor that need not live is worth hundreds of MB.
    """

    def __init__(self, c_in: int, c_out: int, space: int = 3) -> None:
        super().__init__(c_in, c_out, (3, space, space), padding=(0, space // 2, space // 2))
        self.slot = ""  # name in the state; given by name_slots

    def folded(
        self, x: Tensor, state: ConvState, ops: ConvOps, norm: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """The convolution without its bias, its frames side by side in the channels: x (F, C, H, W), channels last.

        With ``norm``, gamma (C,), the input is SiLU(norm(x + bias)). For a module after ``fold_kernel``.
        """
        tail = state.tails.get(self.slot)
        if tail is None:
            tail = empty_channels_last((1, 2 * x.shape[1], *x.shape[2:]), x).zero_()
            state.tails[self.slot] = tail
        stacked = ops.advance(x, tail, norm, bias)
        return F.conv2d(stacked, folded_kernel(self), padding=self.padding[1:])

    def behind_history(self, x: Tensor, state: ConvState, norm: nn.Module | None = None) -> Tensor:
        """The stream's last two frames and x, (1, C, 2 + F, H, W); the state then holds the last two of these.

        ``norm`` is applied to x, then SiLU, frame by frame on the way, which saves a copy of x.
        """
        channels_last = x.is_contiguous(memory_format=torch.channels_last_3d)
        joined = torch.empty(
            (*x.shape[:2], HISTORY + x.shape[2], *x.shape[3:]),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last_3d if channels_last else torch.contiguous_format,
        )
        tail = state.tails.get(self.slot)
        joined[:, :, :HISTORY] = 0 if tail is None else tail
        for frame in range(x.shape[2]):
            one = x[:, :, frame : frame + 1]
            joined[:, :, HISTORY + frame : HISTORY + frame + 1] = one if norm is None else F.silu(norm(one))
        # A copy: a view would keep all of `joined` alive.
        state.tails[self.slot] = joined[:, :, -HISTORY:].clone()
        return joined


def norm_and_conv(layers: nn.ModuleDict, norm: str, conv: str) -> tuple[ChannelNorm, CausalConv3d]:
    """Two layers of a block by their keys, with the types that a ModuleDict forgets."""
    return cast(ChannelNorm, layers[norm]), cast(CausalConv3d, layers[conv])


class ResidualBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), a 1x1x1 convolution on x where the width changes."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        # Keys are the checkpoint's: there the activations and a dropout have numbers too.
        self.residual = nn.ModuleDict(
            {
                "0": ChannelNorm(c_in),
                "2": CausalConv3d(c_in, c_out),
                "3": ChannelNorm(c_out),
                "6": CausalConv3d(c_out, c_out),
            }
        )
        self.shortcut = nn.Conv3d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward_folded(self, x: Tensor, state: ConvState, ops: ConvOps) -> Tensor:
        """The same on frames (F, C, H, W), channels last, with the biases added in the passes that follow."""
        norm1, conv1 = norm_and_conv(self.residual, "0", "2")
        norm2, conv2 = norm_and_conv(self.residual, "3", "6")
        h = conv1.folded(x, state, ops, norm1.gamma.flatten())
        h = conv2.folded(h, state, ops, norm2.gamma.flatten(), conv1.bias)
        if isinstance(self.shortcut, nn.Conv3d):
            x = F.conv2d(x, self.shortcut.weight[:, :, 0], self.shortcut.bias)
        return ops.add_bias(x, h, cast(Tensor, conv2.bias))

    def forward(self, x: Tensor, state: ConvState) -> Tensor:
        norm1, conv1 = norm_and_conv(self.residual, "0", "2")
        norm2, conv2 = norm_and_conv(self.residual, "3", "6")
        h = conv1(conv1.behind_history(x, state, norm1))
        joined = conv2.behind_history(h, state, norm2)
        del h  # not needed while the second convolution runs
        return conv2(joined).add_(self.shortcut(x))


class AttentionBlock(nn.Module):
    """One-head attention over the pixels of each frame by itself; x + result."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, axes=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, state: ConvState) -> Tensor:
        frames = rearrange(x, "1 c f h w -> f c h w")
        qkv = rearrange(self.to_qkv(self.norm(frames)), "f (three c) h w -> three f 1 (h w) c", three=3)
        q, k, v = qkv.contiguous().unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v)
        attended = rearrange(attended, "f 1 (h w) c -> f c h w", h=x.shape[3])
        return x + rearrange(self.proj(attended), "f c h w -> 1 c f h w")


class Upsample(nn.Module):
    """Twice the height and width, half the channels; with ``temporal`` twice the frames as well."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        # Key 1 is the checkpoint's; 0 is the nearest-neighbour upsampling, which has no weights.
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels, channels // 2, 3, padding=1)})
        self.time_conv = CausalConv3d(channels, 2 * channels, space=1) if temporal else None

    def forward(self, x: Tensor, state: ConvState) -> Tensor:
        """The stream's first frame stays one frame, and the temporal convolution never sees it."""
        if self.time_conv is not None and state.started:
            doubled = self.time_conv(self.time_conv.behind_history(x, state))
            x = rearrange(doubled, "1 (two c) f h w -> 1 c (f two) h w", two=2)
        frames = F.interpolate(rearrange(x, "1 c f h w -> f c h w"), scale_factor=2.0, mode="nearest-exact")
        return rearrange(self.resample["1"](frames), "f c h w -> 1 c f h w")

    def merged(self) -> Tensor:
        """Doubling and convolution as one transposed convolution's kernel (C, C / 2, 4, 4): see ``doubling_taps``."""
        weight = cast(nn.Conv2d, self.resample["1"]).weight
        kernel = torch.einsum("o i y x, p y, q x -> i o p q", weight.float(), *2 * [doubling_taps(weight.device)])
        return kernel.to(weight.dtype).contiguous(memory_format=torch.channels_last)

    def forward_folded(self, x: Tensor, state: ConvState, ops: ConvOps, kernel: Tensor) -> Tensor:
        """The same on frames (F, C, H, W), channels last; ``kernel``: see ``merged``."""
        if self.time_conv is not None and state.started:
            doubled = self.time_conv.folded(x, state, ops) + cast(Tensor, self.time_conv.bias).view(-1, 1, 1)
            x = rearrange(doubled, "f (two c) h w -> (f two) h w c", two=2)
            x = rearrange(x, "f h w c -> f c h w")
        bias = cast(nn.Conv2d, self.resample["1"]).bias
        return F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)


class Downsample(nn.Module):
    """Half the height and width; with ``temporal`` half the frames as well."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels, channels, 3, stride=2)})
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if temporal else None
        self.slot = ""

    def forward(self, x: Tensor, state: ConvState) -> Tensor:
        """The stream's first frame stays as it is; later ones must come in even numbers."""
        frames = F.pad(rearrange(x, "1 c f h w -> f c h w"), (0, 1, 0, 1))  # right and bottom only
        x = rearrange(self.resample["1"](frames), "f c h w -> 1 c f h w")
        if self.time_conv is None:
            return x
        last = x[:, :, -1:].clone()
        if state.started:
            x = self.time_conv(torch.cat([state.tails[self.slot], x], dim=2))
        state.tails[self.slot] = last
        return x


def name_slots(module: nn.Module) -> None:
    """Give every layer that remembers something its place in the state: its own name."""
    for name, layer in module.named_modules():
        if isinstance(layer, (CausalConv3d, Downsample)):
            layer.slot = name
