"""The TCDecoder: a TAEHV decoder conditioned on the LQ frames.

Latents (16 channels) and pixel-unshuffled condition frames (768) -> RGB frames, 4 per latent.
All time steps of a call run at once; each memory block sees its own input one time step earlier,
the first one from the stream's state. MODEL: TAEHV (madebyollin) as extended by FlashVSR.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from src.chunks import LATENT_FRAMES, PIXELS_PER_LATENT
from src.config import TCDecoderConfig
from src.state import ConvState

TRIM = 3  # frames that the first call of a stream loses: the first latent stands for one frame


class MemBlock(nn.Module):
    """ReLU(convs([x, past]) + x); ``past`` is x one time step earlier (zeros at the start)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        """x (T, C, h, w), past (1, C, h, w): x of the step before the first."""
        shifted = torch.cat([past, x[:-1]])
        return F.relu_(self.conv(torch.cat([x, shifted], dim=1)) + x)


class TGrow(nn.Module):
    """1x1 convolution that turns every time step into ``stride`` ones."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(T, C, h, w) -> (T * stride, C, h, w); the first C channels are the earlier frame."""
        return rearrange(self.conv(x), "t (s c) h w -> (t s) c h w", s=self.stride)


class Clamp(nn.Module):
    """Soft clamp to (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def _conv(c_in: int, c_out: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1, bias=bias)


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

    def forward(self, latents: Tensor, condition: Tensor, state: ConvState) -> Tensor:
        """Frames of the next latents.

        latents (1, 16, T, H/8, W/8); condition (1, 3, F, H, W) in [-1, 1], the LQ frames of the
        output's own times: F = 4T - 3 in the first call of a stream, 4T later.
        Returns (F, 3, H, W), about [-1, 1], not clamped. ``state`` is advanced by T steps.
        """
        first = not state.started
        state.started = True
        if first:
            condition = torch.cat([condition[:, :, :1].expand(-1, -1, TRIM, -1, -1), condition], dim=2)
        features = rearrange(
            condition,
            "1 c (t f) (h y) (w x) -> t (c f y x) h w",
            f=LATENT_FRAMES,
            y=PIXELS_PER_LATENT,
            x=PIXELS_PER_LATENT,
        )
        x = torch.cat([features, rearrange(latents, "1 c t h w -> t c h w")], dim=1)
        for index, layer in enumerate(self.decoder):
            if isinstance(layer, MemBlock):
                name = str(index)
                past = state.tails.get(name)
                state.tails[name] = x[-1:].clone()
                x = layer(x, torch.zeros_like(x[:1]) if past is None else past)
            else:
                x = layer(x)
        if self.config.residual:
            x = x + (rearrange(condition, "1 c f h w -> f c h w") + 1) / 2
        x = x * 2 - 1
        return x[TRIM:] if first else x
