"""The TCDecoder: a TAEHV decoder conditioned on the LQ frames.

Latents (16 channels) and pixel-unshuffled condition frames (768) -> RGB frames, 4 per latent.
All time steps of a call run at once; each memory block sees its own input one time step earlier,
the first one from the stream's state. MODEL: TAEHV (madebyollin) as extended by FlashVSR.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from src.chunks import LATENT_FRAMES, PIXELS_PER_LATENT
from src.config import TCDecoderConfig
from src.state import ConvState

STAGE_GROW = (9, 15, 21)  # the TGrow layer of each stage; its 3x3 convolution follows it
TRIM = 3  # frames that the first call of a stream loses: the first latent stands for one frame


@dataclass(frozen=True)
class TCDecoderConstants:
    """Kernels derived from the checkpoint, once: see ``upsampling_kernels``. One list per stage."""

    upsample: list[list[Tensor]]


class MemBlock(nn.Module):
    """ReLU(convs([x, past]) + x); ``past`` is x one time step earlier (zeros at the start)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * channels, channels, True),
            nn.ReLU(inplace=True),
            _conv(channels, channels, True),
            nn.ReLU(inplace=True),
            _conv(channels, channels, True),
        )

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        """x (T, C, h, w), past (1, C, h, w): x of the step before the first."""
        channels = x.shape[1]
        both = _empty((x.shape[0], 2 * channels, *x.shape[2:]), x)
        both[:, :channels] = x
        both[:1, channels:] = past
        both[1:, channels:] = x[:-1]
        return self.conv(both).add_(x).relu_()


class TGrow(nn.Module):
    """1x1 convolution that turns every time step into ``stride`` ones, the first C channels the earlier."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels * stride, 1, bias=False)


class Clamp(nn.Module):
    """Soft clamp to (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.div(3).tanh_().mul_(3)


def _conv(c_in: int, c_out: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1, bias=bias)


def upsampling_kernels(grow: TGrow, conv: nn.Conv2d) -> list[Tensor]:
    """Nearest x2 upsampling, TGrow and a 3x3 convolution as one transposed convolution per time step.

    All three are linear with nothing between them. A 3x3 convolution on a doubled picture only ever
    sees 2x2 different pixels: 4 taps instead of 9, and neither the doubled nor the grown picture is
    ever written. Returns ``stride`` kernels (C_in, C_out, 4, 4) for stride 2, padding 1.
    """
    per_step = rearrange(grow.conv.weight.float(), "(s c) i 1 1 -> s c i", s=grow.stride)
    merged = torch.einsum("o c y x, s c i -> s i o y x", conv.weight.float(), per_step)
    # Along each axis, output tap t collects the kernel's taps 2 - t and 3 - t.
    spread = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float32, device=merged.device)
    kernels = torch.einsum("s i o y x, p y, q x -> s i o p q", merged, spread, spread)
    return [kernel.to(conv.weight.dtype).contiguous(memory_format=torch.channels_last) for kernel in kernels]


class TCDecoder(nn.Module):
    """Latents and condition frames to RGB frames; parameter names are the checkpoint's."""

    def __init__(self, config: TCDecoderConfig) -> None:
        super().__init__()
        self.config = config
        c = config.channels
        layers: list[nn.Module] = [Clamp(), _conv(config.latent_channels, c[0], True), nn.ReLU(inplace=True)]
        layers += [_conv(c[0], c[0], False), nn.ReLU(inplace=True)]
        for stage, time_stride in enumerate((1, 2, 2)):
            layers += [MemBlock(c[stage]) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), TGrow(c[stage], time_stride)]
            layers += [_conv(c[stage], c[stage + 1], False)]
        layers += [nn.ReLU(inplace=True), _conv(c[3], c[3], False), nn.ReLU(inplace=True), _conv(c[3], 3, True)]
        self.decoder = nn.ModuleList(layers)

    def constants(self) -> TCDecoderConstants:
        """The derived kernels; compute once per checkpoint and hand them to ``forward``."""
        stages = [(self.decoder[i], self.decoder[i + 1]) for i in STAGE_GROW]
        return TCDecoderConstants([upsampling_kernels(grow, conv) for grow, conv in stages])  # type: ignore[arg-type]

    def forward(self, latents: Tensor, condition: Tensor, state: ConvState, constants: TCDecoderConstants) -> Tensor:
        """Frames of the next latents.

        latents (1, 16, T, H/8, W/8); condition (F, 3, H, W) in [-1, 1], the LQ frames of the
        output's own times: F = 4T - 3 in the first call of a stream, 4T later.
        Returns (F, 3, H, W), about [-1, 1], not clamped. ``state`` is advanced by T steps.
        """
        first = not state.started
        state.started = True
        if first:
            condition = torch.cat([condition[:1].expand(TRIM, -1, -1, -1), condition])
        x = self._features(latents, condition)
        for layer in self.decoder[:5]:
            x = layer(x)
        for stage, grow in enumerate(STAGE_GROW):
            for index in range(grow - 4, grow - 1):
                x = self._remember(index, x, state)
            if stage < 2:
                x = _grow(x, constants.upsample[stage])
        # On a CPU one frame at a time stays in the cache: half the time of a batch, and a quarter of the memory.
        parts = x.split(1) if x.device.type == "cpu" else (x,)
        rgb = _empty((x.shape[0] * 2, 3, x.shape[2] * 2, x.shape[3] * 2), x)
        for part, frames in zip(parts, rgb.split(parts[0].shape[0] * 2), strict=True):
            self._to_rgb(part, constants.upsample[2], frames)
        # In the condition's own precision: with a residual it is the picture, the output only a correction.
        rgb = rgb.to(condition.dtype).mul_(2).add_(condition if self.config.residual else -1)
        return rgb[TRIM:] if first else rgb

    def _features(self, latents: Tensor, condition: Tensor) -> Tensor:
        """(T, 768 + 16, h, w), channels last: the unshuffled condition, then the latents."""
        side = {"f": LATENT_FRAMES, "y": PIXELS_PER_LATENT, "x": PIXELS_PER_LATENT}
        features = rearrange(condition.to(latents.dtype), "(t f) c (h y) (w x) -> t h w (c f y x)", **side)
        x = torch.cat([features, rearrange(latents, "1 c t h w -> t h w c")], dim=-1)
        return rearrange(x, "t h w c -> t c h w")

    def _remember(self, index: int, x: Tensor, state: ConvState) -> Tensor:
        """Memory block ``index`` on all time steps of x, its past taken from and left in ``state``."""
        past = state.tails.get(str(index))
        state.tails[str(index)] = x[-1:].clone()
        return self.decoder[index](x, torch.zeros_like(x[:1]) if past is None else past)

    def _to_rgb(self, x: Tensor, kernels: list[Tensor], frames: Tensor) -> None:
        """The last upsampling and what follows it: (T, C, H/2, W/2) into ``frames`` (2T, 3, H, W), about 0..1."""
        for step, kernel in enumerate(kernels):
            y = F.conv_transpose2d(x, kernel, stride=2, padding=1)
            for layer in self.decoder[STAGE_GROW[-1] + 2 :]:
                y = layer(y)
            frames[step :: len(kernels)] = y


def _grow(x: Tensor, kernels: list[Tensor]) -> Tensor:
    """(T, C, h, w) -> (T * s, C', 2h, 2w): one transposed convolution per time step, steps side by side."""
    if len(kernels) == 1:
        return F.conv_transpose2d(x, kernels[0], stride=2, padding=1)
    size = (x.shape[0] * len(kernels), kernels[0].shape[1], x.shape[2] * 2, x.shape[3] * 2)
    out = _empty(size, x)
    for step, kernel in enumerate(kernels):
        out[step :: len(kernels)] = F.conv_transpose2d(x, kernel, stride=2, padding=1)
    return out


def _empty(size: tuple[int, ...], like: Tensor) -> Tensor:
    """Memory in channels-last order: anything else makes every convolution that follows convert its input."""
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
