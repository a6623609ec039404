"""The Wan 2.1 VAE: 16 latent channels at 1/8 size <-> RGB frames, 4 per latent frame after the first.

Frame-wise streaming with two remembered frames per convolution equals one causal convolution over
the whole clip, so a clip may be decoded in any portions with the same result, bit by bit: work
always proceeds one latent frame at a time. MODEL: Wan 2.1 (Alibaba), VAE as used by FlashVSR.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from src.config import VAEConfig
from src.errors import InputError
from src.models.layers import ChannelNorm, fold_kernel
from src.models.vae_blocks import (
    AttentionBlock,
    CausalConv3d,
    Downsample,
    ResidualBlock,
    Upsample,
    name_slots,
    norm_and_conv,
)
from src.ops.convs import ConvOps
from src.parking import Parking
from src.state import ConvState
from src.tiling import Tile, blend, plan_strided

PIXELS = 8  # pixels per latent, both ways
FRAMES = 4  # frames per latent frame, except the first, which is one frame

# Per channel, measured by the authors of the VAE: latents of the DiT are (z - mean) / std.
LATENT_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
LATENT_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)


@dataclass(frozen=True)
class VAETiling:
    """Tile size and stride in latents (rows, columns). Smaller tiles need less memory.

    Each tile is a clip of its own to the network, so the result differs a little from untiled,
    and each has a memory of its own: in all more than an untiled stream's. With ``park`` the
    memories wait in main memory and only the tile at work has its own on the device.
    """

    size: tuple[int, int] = (60, 104)
    stride: tuple[int, int] = (30, 52)
    park: bool = True

    def plan(self, height: int, width: int) -> list[Tile]:
        """Tiles of a picture of height x width latents."""
        return plan_strided(height, width, self.size, self.stride)


@dataclass
class VAEState:
    """What the decoder remembers of one stream: one ConvState per tile (one in all when untiled).

    ``tiles`` and ``streams`` are filled by the first ``decode``, which knows the size.
    """

    tiling: VAETiling | None = None
    tiles: list[Tile] = field(default_factory=list)
    streams: list[ConvState] = field(default_factory=list)
    parked: Parking[ConvState] | None = None  # of ``streams``, for tiles

    def begin(self, height: int, width: int) -> None:
        """Lay out the tiles for latents of height x width; later calls only check the size."""
        if not self.tiles:
            self.tiles = self.tiling.plan(height, width) if self.tiling else [Tile(0, height, 0, width)]
            self.streams = [ConvState() for _ in self.tiles]
        size = (self.tiles[-1].bottom, self.tiles[-1].right)
        if size != (height, width):
            raise InputError(f"latents of {height}x{width} in a stream that began with {size[0]}x{size[1]}")


class Decoder(nn.Module):
    """Latents to frames; widths 4, 4, 4, 2, 1 times ``dim``."""

    def __init__(self, dim: int, z_dim: int) -> None:
        super().__init__()
        top = 4 * dim
        self.conv1 = CausalConv3d(z_dim, top)
        self.middle = nn.ModuleList([ResidualBlock(top, top), AttentionBlock(top), ResidualBlock(top, top)])
        layers: list[nn.Module] = []
        c_in = top
        for c_out, temporal in ((top, True), (top, True), (2 * dim, False), (dim, None)):
            layers += [ResidualBlock(c_in, c_out), ResidualBlock(c_out, c_out), ResidualBlock(c_out, c_out)]
            if temporal is not None:
                layers.append(Upsample(c_out, temporal))
            c_in = c_out // 2  # the upsampling halves the channels
        self.upsamples = nn.ModuleList(layers)
        self.head = nn.ModuleDict({"0": ChannelNorm(dim), "2": CausalConv3d(dim, 3)})
        self.ops: ConvOps | None = None  # set by fold_time
        self.upsampling: dict[int, Tensor] = {}

    def fold_time(self, ops: ConvOps) -> None:
        """Compute every causal convolution over its three frames side by side in the channels: see ``CausalConv3d``."""
        for layer in self.modules():
            if isinstance(layer, CausalConv3d):
                fold_kernel(layer)
        self.ops = ops
        self.upsampling = {id(layer): layer.merged() for layer in self.upsamples if isinstance(layer, Upsample)}

    def _forward_folded(self, x: Tensor, state: ConvState, ops: ConvOps) -> Tensor:
        """``forward`` for a GPU; after the last change of frame rate frame by frame, since tensors get large there."""
        x = rearrange(x, "1 c f h w -> f c h w").contiguous(memory_format=torch.channels_last)
        x = self.conv1.folded(x, state, ops).add_(cast(Tensor, self.conv1.bias).view(-1, 1, 1))
        layers = [*self.middle, *self.upsamples]
        last = max(i for i, layer in enumerate(layers) if isinstance(layer, Upsample) and layer.time_conv is not None)
        x = self._run_folded(layers[: last + 1], x, state, ops)
        norm, conv = norm_and_conv(self.head, "0", "2")
        out = []
        for frame in x.split(1):
            y = self._run_folded(layers[last + 1 :], frame, state, ops)
            y = conv.folded(y, state, ops, norm.gamma.flatten()).add_(cast(Tensor, conv.bias).view(-1, 1, 1))
            out.append(y)
        state.started = True
        return rearrange(torch.cat(out), "f c h w -> 1 c f h w")

    def _run_folded(self, layers: list[nn.Module], x: Tensor, state: ConvState, ops: ConvOps) -> Tensor:
        for layer in layers:
            if isinstance(layer, Upsample):
                x = layer.forward_folded(x, state, ops, self.upsampling[id(layer)])
            elif isinstance(layer, ResidualBlock):
                x = layer.forward_folded(x, state, ops)
            else:
                x = rearrange(layer(rearrange(x, "f c h w -> 1 c f h w"), state), "1 c f h w -> f c h w")
                x = x.contiguous(memory_format=torch.channels_last)
        return x

    def forward(self, x: Tensor, state: ConvState) -> Tensor:
        """One latent frame (1, z, 1, h, w) -> (1, 3, 1 or 4, 8h, 8w)."""
        if self.ops is not None:
            return self._forward_folded(x, state, self.ops)
        x = self.conv1(self.conv1.behind_history(x, state))
        for layer in (*self.middle, *self.upsamples):
            x = layer(x, state)
        norm, conv = norm_and_conv(self.head, "0", "2")
        x = conv(conv.behind_history(x, state, norm))
        state.started = True
        return x


class Encoder(nn.Module):
    """Frames to latents; widths 1, 1, 2, 4, 4 times ``dim``."""

    def __init__(self, dim: int, c_out: int) -> None:
        super().__init__()
        top = 4 * dim
        self.conv1 = CausalConv3d(3, dim)
        layers: list[nn.Module] = []
        c_in = dim
        for width, temporal in ((dim, False), (2 * dim, True), (top, True), (top, None)):
            layers += [ResidualBlock(c_in, width), ResidualBlock(width, width)]
            if temporal is not None:
                layers.append(Downsample(width, temporal))
            c_in = width
        self.downsamples = nn.ModuleList(layers)
        self.middle = nn.ModuleList([ResidualBlock(top, top), AttentionBlock(top), ResidualBlock(top, top)])
        self.head = nn.ModuleDict({"0": ChannelNorm(top), "2": CausalConv3d(top, c_out)})

    def forward(self, x: Tensor, state: ConvState) -> Tensor:
        """The first frame, or four later ones (1, 3, F, H, W) -> (1, 2z, 1, H/8, W/8)."""
        x = self.conv1(self.conv1.behind_history(x, state))
        for layer in (*self.downsamples, *self.middle):
            x = layer(x, state)
        norm, conv = norm_and_conv(self.head, "0", "2")
        x = conv(conv.behind_history(x, state, norm))
        state.started = True
        return x


class WanVAE(nn.Module):
    """The VAE; parameter names are the checkpoint's. ``encoder`` False: without encoder.* and conv1.*."""

    def __init__(self, config: VAEConfig, encoder: bool = True) -> None:
        super().__init__()
        self.config = config
        self.encoder: Encoder | None = None
        self.conv1: nn.Conv3d | None = None
        if encoder:
            self.encoder = Encoder(config.dim, 2 * config.z_dim)
            self.conv1 = nn.Conv3d(2 * config.z_dim, 2 * config.z_dim, 1)
        self.conv2 = nn.Conv3d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config.dim, config.z_dim)
        name_slots(self)

    def channels_last(self) -> WanVAE:
        """Lay the weights out channels-last, and with them everything in between; returns self.

        On two CPU cores decoding gets about 10 % faster so. ``to(memory_format=...)`` cannot do it: it
        wants all weights to have the same number of axes.
        """
        formats = {nn.Conv2d: torch.channels_last, nn.Conv3d: torch.channels_last_3d}
        for layer in self.modules():
            for kind, layout in formats.items():
                if isinstance(layer, kind):
                    layer.weight.data = layer.weight.data.contiguous(memory_format=layout)
        return self

    def fold_time(self, ops: ConvOps) -> WanVAE:
        """Decode as a GPU likes it; the weights are laid out anew, in place. Returns self.

        3-D convolutions as 2-D ones over three frames, norms, SiLU, biases and histories in one pass each, doubling and
        convolution in one.
        """
        self.decoder.fold_time(ops)
        return self

    def new_state(self, tiling: VAETiling | None = None) -> VAEState:
        """The memory of a stream of latents that has not begun; ``tiling`` to decode it in tiles."""
        return VAEState(tiling)

    def decode(self, z: Tensor, state: VAEState) -> Tensor:
        """Frames of the next latent frames of a stream.

        z (1, 16, T, h, w), normalised, T >= 1, any T per call: the first latent frame of a stream
        gives 1 frame, each further one 4. Returns (1, 3, F, 8h, 8w), about [-1, 1], not clamped, in
        the weights' dtype (float32 when tiled). ``state`` is advanced by T.
        Raises InputError for another shape, or a size that changes within the stream.
        """
        if z.ndim != 5 or z.shape[:2] != (1, self.config.z_dim) or 0 in z.shape:
            raise InputError(f"latents of shape {tuple(z.shape)} are not (1, {self.config.z_dim}, T, h, w)")
        state.begin(z.shape[3], z.shape[4])
        mean, std = statistics(self.config.z_dim, z.device)
        x = (z.float() * std + mean).to(self.conv2.weight.dtype)
        if state.tiling is None:
            return self._decode_part(x, state.streams[0])
        # One state at a time, none ahead of its turn: they are large, and small tiles are chosen where memory is short.
        if state.parked is None:
            state.parked = Parking(state.streams, x.device, state.tiling.park, ahead=False)
        states = state.parked

        def pieces() -> Iterator[Tensor]:
            # Tiles outside, time inside: a parked memory travels once per call.
            for index, tile in enumerate(state.tiles):
                with states.visit(index) as stream:
                    part = self._decode_part(tile.crop(x), stream)
                yield part

        return blend([tile.scaled(PIXELS) for tile in state.tiles], pieces())

    def decode_clip(self, z: Tensor, tiling: VAETiling | None = None) -> Tensor:
        """A whole clip: (1, 16, T, h, w) -> (1, 3, 4T - 3, 8h, 8w), clamped to [-1, 1]."""
        return self.decode(z, self.new_state(tiling)).clamp_(-1, 1)

    def encode(self, video: Tensor, tiling: VAETiling | None = None) -> Tensor:
        """The mean latents of a whole clip, normalised.

        video (1, 3, F, H, W) in [-1, 1], H and W multiples of 8, F >= 1; frames beyond the last
        4k + 1 are dropped. Returns (1, 16, 1 + (F - 1) // 4, H/8, W/8) float32. Raises InputError
        for another shape, or if the VAE was built without its encoder.
        """
        if video.ndim != 5 or video.shape[:2] != (1, 3) or 0 in video.shape:
            raise InputError(f"a video of shape {tuple(video.shape)} is not (1, 3, F, H, W)")
        height, width = video.shape[3], video.shape[4]
        if height % PIXELS or width % PIXELS:
            raise InputError(f"a video of {height}x{width} pixels: both must be multiples of {PIXELS}")
        tiles = VAEState(tiling)
        tiles.begin(height // PIXELS, width // PIXELS)
        x = video.to(self.conv2.weight.dtype)
        pieces = (self._encode_clip(tile.scaled(PIXELS).crop(x)) for tile in tiles.tiles)
        mean, std = statistics(self.config.z_dim, video.device)
        return (blend(tiles.tiles, pieces) - mean) / std

    def _decode_part(self, x: Tensor, stream: ConvState) -> Tensor:
        """Latents (1, 16, T, h, w), not normalised -> (1, 3, F, 8h, 8w), one latent frame at a time."""
        frames = [self.decoder(self.conv2(x[:, :, t : t + 1]), stream) for t in range(x.shape[2])]
        return torch.cat(frames, dim=2) if len(frames) > 1 else frames[0]

    def _encode_clip(self, video: Tensor) -> Tensor:
        """(1, 3, F, H, W) -> mean latents (1, 16, T, H/8, W/8), not normalised."""
        if self.encoder is None or self.conv1 is None:
            raise InputError("this VAE was built without its encoder")
        state = ConvState()
        starts = [0, *range(1, video.shape[2] - FRAMES + 1, FRAMES)]
        ends = [1, *(start + FRAMES for start in starts[1:])]
        latents = [self.encoder(video[:, :, a:b], state) for a, b in zip(starts, ends, strict=True)]
        return self.conv1(torch.cat(latents, dim=2))[:, : self.config.z_dim]


@cache
def statistics(z_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and std of the latents, each (1, 16, 1, 1, 1) float32; made once, since a copy to a card waits for it."""
    shape = (1, z_dim, 1, 1, 1)
    mean, std = (torch.tensor(values[:z_dim], device=device).view(shape) for values in (LATENT_MEAN, LATENT_STD))
    return mean, std
