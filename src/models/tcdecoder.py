"""The TCDecoder: a TAEHV decoder conditioned on the LQ frames.

Latents (16 channels) and pixel-unshuffled condition frames (768) -> RGB frames, 4 per latent.
All time steps of a call run at once; each memory block sees its own input one time step earlier,
the first one from the stream's state. MODEL: TAEHV (madebyollin) as extended by FlashVSR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from src.chunks import LATENT_FRAMES, PIXELS_PER_LATENT
from src.config import TCDecoderConfig
from src.models.layers import doubling_taps
from src.ops.convs import ConvOps, empty_channels_last
from src.ops.resolve import conv_ops
from src.state import ConvState

STAGE_GROW = (9, 15, 21)  # the TGrow layer of each stage; its 3x3 convolution follows it
WORK_BYTES = 320 << 20  # on a GPU: the largest tensor of the last and largest stages
TRIM = 3  # frames that the first call of a stream loses: the first latent stands for one frame


@dataclass(frozen=True)
class TCDecoderConstants:
    """What is derived from the checkpoint and its device, once.

    ``upsample``: see ``upsampling_kernels``, one list per stage. ``ops``: how convolutions are computed here.
    """

    upsample: list[list[Tensor]]
    ops: ConvOps


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

    def forward(self, x: Tensor, past: Tensor, ops: ConvOps) -> Tensor:
        """x (T, C, h, w), past (1, C, h, w): x of the step before the first."""
        first, second, third = (cast(nn.Conv2d, self.conv[i]) for i in (0, 2, 4))
        y = ops.conv_relu(ops.shift_concat(x, past), first)
        return ops.conv_relu(ops.conv_relu(y, second), third, x)


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

    All three are linear with nothing between them (see ``doubling_taps``). Returns ``stride`` kernels
    (C_in, C_out, 4, 4) for stride 2, padding 1.
    """
    per_step = rearrange(grow.conv.weight.float(), "(s c) i 1 1 -> s c i", s=grow.stride)
    merged = torch.einsum("o c y x, s c i -> s i o y x", conv.weight.float(), per_step)
    spread = doubling_taps(merged.device)
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
        kernels = [upsampling_kernels(grow, conv) for grow, conv in stages]  # type: ignore[arg-type]
        weight = kernels[0][0]
        return TCDecoderConstants(kernels, conv_ops(weight.device, weight.dtype))

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
        layers, ops = self.decoder, constants.ops
        x = layers[0](self._features(latents, condition))
        for index in (1, 3):
            x = ops.conv_relu(x, cast(nn.Conv2d, layers[index]))
        for stage, grow in enumerate(STAGE_GROW):
            for index in range(grow - 4, grow - 1):
                x = self._remember(index, x, state, ops)
            if stage < 2:
                x = _grow(x, constants.upsample[stage])
        # One time step at a time: on a CPU it stays in the cache (half the time of a batch), a GPU is filled by one.
        rgb = empty_channels_last((x.shape[0] * 2, 3, x.shape[2] * 2, x.shape[3] * 2), x)
        for part, frames in zip(x.split(1), rgb.split(2), strict=True):
            self._to_rgb(part, constants.upsample[2], frames, ops)
        # In the condition's own precision: with a residual it is the picture, the output only a correction.
        rgb = rgb.to(condition.dtype).mul_(2).add_(condition if self.config.residual else -1)
        return rgb[TRIM:] if first else rgb

    def _features(self, latents: Tensor, condition: Tensor) -> Tensor:
        """(T, 768 + 16, h, w), channels last: the unshuffled condition, then the latents."""
        side = {"f": LATENT_FRAMES, "y": PIXELS_PER_LATENT, "x": PIXELS_PER_LATENT}
        features = rearrange(condition.to(latents.dtype), "(t f) c (h y) (w x) -> t h w (c f y x)", **side)
        x = torch.cat([features, rearrange(latents, "1 c t h w -> t h w c")], dim=-1)
        return rearrange(x, "t h w c -> t c h w")

    def _remember(self, index: int, x: Tensor, state: ConvState, ops: ConvOps) -> Tensor:
        """Memory block ``index`` on all time steps of x, its past taken from and left in ``state``."""
        past = state.tails.get(str(index))
        if past is None:
            past = torch.zeros_like(x[:1])
        state.tails[str(index)] = x[-1:].clone()
        block = self.decoder[index]
        if x.device.type == "cpu" or x.nbytes <= WORK_BYTES:
            return block(x, past, ops)
        for now in x.split(1):  # in place: two of these and what is between them would be too much
            before, past = past, now.clone()
            now.copy_(block(now, before, ops))
        return x

    def _to_rgb(self, x: Tensor, kernels: list[Tensor], frames: Tensor, ops: ConvOps) -> None:
        """The last upsampling and what follows it: (1, C, H/2, W/2) into ``frames`` (2, 3, H, W), about 0..1.

        On a GPU in strips of rows, so that its largest tensors stay bounded whatever the size. A strip is computed with
        two rows more on either side, of which it then loses the pixels that saw the cut.
        """
        rows, height = x.shape[2], _strip_rows(x, kernels[0].shape[1])
        for top in range(0, rows, height):
            bottom = min(top + height, rows)
            low, high = max(top - 2, 0), min(bottom + 2, rows)
            for step, kernel in enumerate(kernels):
                y = F.conv_transpose2d(x[:, :, low:high], kernel, stride=2, padding=1).relu_()
                y = self.decoder[-1](ops.conv_relu(y, cast(nn.Conv2d, self.decoder[-3])))
                begin = 2 * (top - low)
                frames[step : step + 1, :, 2 * top : 2 * bottom] = y[:, :, begin : begin + 2 * (bottom - top)]


def _strip_rows(x: Tensor, channels: int) -> int:
    """Rows of x (1, C, h, w) that are upsampled to ``channels`` at once."""
    if x.device.type == "cpu":
        return x.shape[2]
    return max(8, WORK_BYTES // (channels * 4 * x.shape[3] * x.element_size()))


def _grow(x: Tensor, kernels: list[Tensor]) -> Tensor:
    """(T, C, h, w) -> (T * s, C', 2h, 2w): one transposed convolution per time step, steps side by side."""
    if len(kernels) == 1:
        return F.conv_transpose2d(x, kernels[0], stride=2, padding=1)
    size = (x.shape[0] * len(kernels), kernels[0].shape[1], x.shape[2] * 2, x.shape[3] * 2)
    out = empty_channels_last(size, x)
    for step, kernel in enumerate(kernels):
        out[step :: len(kernels)] = F.conv_transpose2d(x, kernel, stride=2, padding=1)
    return out
