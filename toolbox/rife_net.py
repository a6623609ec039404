"""RIFE v3: the frame in the middle of two, by intermediate flow (Huang et al., "Real-Time Intermediate Flow
Estimation for Video Frame Interpolation", ECCV 2022). Inference only; the teacher of the training is left out.

Frames are (B, 3, H, W) RGB in [0, 1]; a flow is (B, 4, H, W) in pixels, x before y, first towards frame 0, then
towards frame 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = 90
LEVELS = (4.0, 2.0, 1.0)  # how much smaller the pictures are on each level
MULTIPLE = 32  # sides must be multiples of this at scale 1


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.PReLU(outputs))


def _head(inputs: int, outputs: int) -> nn.Sequential:
    """Four times as large: two transposed convolutions."""
    middle = inputs // 2
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, middle, 4, 2, 1), nn.PReLU(middle), nn.ConvTranspose2d(middle, outputs, 4, 2, 1)
    )


class FlowBlock(nn.Module):
    """One level: from two warped frames, the mask and the flow so far to their improvement."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(_conv(inputs, channels // 2, 2), _conv(channels // 2, channels, 2))
        for number in range(4):
            self.add_module(f"convblock{number}", nn.Sequential(_conv(channels, channels), _conv(channels, channels)))
        self.conv1 = _head(channels, 4)
        self.conv2 = _head(channels, 1)

    def forward(self, pictures: Tensor, flow: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """pictures (B, 7, H, W), flow (B, 4, H, W) -> changes of flow and mask, float32.

        The convolutions run in the dtype of the weights; flows stay float32, for half precision cannot hold pixels.
        """
        dtype = next(self.parameters()).dtype
        x = torch.cat((_resize(pictures, 1 / scale), _resize(flow, 1 / scale) / scale), 1).to(dtype)
        if x.is_cuda:
            x = x.contiguous(memory_format=torch.channels_last)
        features = self.conv0(x)
        for number in range(4):
            features = self.get_submodule(f"convblock{number}")(features) + features
        change, mask = self.conv1(features).float(), self.conv2(features).float()
        return _resize(change, scale) * scale, _resize(mask, scale)


class IFNet(nn.Module):
    """RIFE v3. Parameter names are those of the published checkpoint, without its teacher ``block_tea``."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        # Two frames, the mask and the flow.
        self.block0 = FlowBlock(3 + 3 + 1 + 4, channels)
        self.block1 = FlowBlock(3 + 3 + 1 + 4, channels)
        self.block2 = FlowBlock(3 + 3 + 1 + 4, channels)

    def forward(self, first: Tensor, second: Tensor, scale: float = 1.0) -> Tensor:
        """The frame half-way, (B, 3, H, W) float32, not clamped. H and W: multiples of 32 / scale.

        ``scale`` below 1 estimates the flow on smaller pictures: for 4K, and for large motion.
        """
        return self.levels(first, second, scale)[0]

    def levels(self, first: Tensor, second: Tensor, scale: float = 1.0) -> tuple[Tensor, list[Tensor], Tensor]:
        """The frame, the flow after every level, and the share (B, 1, H, W) of the first frame."""
        first, second = first.float(), second.float()
        batch, _, height, width = first.shape
        flow = first.new_zeros(batch, 4, height, width)
        mask = first.new_zeros(batch, 1, height, width)
        one, two = first, second
        grid = _grid(height, width, first.device)
        flows = []
        for block, level in zip((self.block0, self.block1, self.block2), LEVELS, strict=True):
            # Both directions of time in one batch; their mean treats both frames alike.
            pictures = torch.cat((torch.cat((one, two, mask), 1), torch.cat((two, one, -mask), 1)))
            changes, logits = block(pictures, torch.cat((flow, _swap(flow))), level / scale)
            flow = flow + (changes[:batch] + _swap(changes[batch:])) / 2
            mask = mask + (logits[:batch] - logits[batch:]) / 2
            one, two = _warp(first, flow[:, :2], grid), _warp(second, flow[:, 2:], grid)
            flows.append(flow)
        share = torch.sigmoid(mask)
        return one * share + two * (1 - share), flows, share


def _swap(flow: Tensor) -> Tensor:
    return torch.cat((flow[:, 2:], flow[:, :2]), 1)


def _resize(x: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return x
    # The factor itself, not the ratio of the rounded sizes, places the samples.
    return functional.interpolate(
        x, scale_factor=factor, mode="bilinear", align_corners=False, recompute_scale_factor=False
    )


def _grid(height: int, width: int, device: torch.device) -> Tensor:
    """(1, H, W, 2): where every pixel lies in -1..1, x before y."""
    x = torch.linspace(-1, 1, width, device=device).expand(height, width)
    y = torch.linspace(-1, 1, height, device=device)[:, None].expand(height, width)
    return torch.stack((x, y), -1)[None]


def _warp(picture: Tensor, flow: Tensor, grid: Tensor) -> Tensor:
    """What ``picture`` has where ``flow`` points to; beyond its border the border goes on."""
    height, width = picture.shape[2:]
    # Divided by numbers, not by a tensor made of them: that would wait for the device six times a frame.
    places = grid + torch.stack((flow[:, 0] / ((width - 1) / 2), flow[:, 1] / ((height - 1) / 2)), -1)
    return functional.grid_sample(picture, places, mode="bilinear", padding_mode="border", align_corners=True)


def pad_to_multiple(pictures: Sequence[Tensor], multiple: int) -> list[Tensor]:
    """(B, 3, H, W) grown right and down to multiples, by repeating the border."""
    height, width = pictures[0].shape[2:]
    right, down = -width % multiple, -height % multiple
    return [functional.pad(picture, (0, right, 0, down), mode="replicate") for picture in pictures]
