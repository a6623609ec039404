"""The LQ projector: low-quality frames -> one feature of width D per token.

4 frames x 16x16 pixels become one token. Two temporal convolutions (kernel 4, stride 2) turn 4
frames into 1; they look at two frames before their input. MODEL: FlashVSR, "LQ projection-in".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from src.chunks import LATENT_FRAMES, PIXELS_PER_TOKEN
from src.config import ProjectorConfig
from src.models.layers import ChannelNorm
from src.state import ConvState


class LQProjector(nn.Module):
    """LQ frames to tokens. Stateless: the two frames each convolution looks back at live in ``state``.

    ``config.kind`` "causal" (v1.1): they are the previous call's last two. "buffer" (v1.0): they are
    the group's own last two, so that each result depends on its own four frames only.
    """

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.in_dim * PIXELS_PER_TOKEN**2
        first, second = config.hidden_dims
        self.conv1 = nn.Conv3d(channels, first, (4, 3, 3), stride=(2, 1, 1))
        self.norm1 = ChannelNorm(first)
        self.conv2 = nn.Conv3d(first, second, (4, 3, 3), stride=(2, 1, 1))
        self.norm2 = ChannelNorm(second)
        self.linear_layers = nn.ModuleList([nn.Linear(second, config.out_dim)])

    def forward(self, frames: Tensor, state: ConvState) -> Tensor:
        """Tokens of the next latent frames.

        frames: (F, 3, H, W) in [-1, 1], H and W multiples of 16. The first call of a stream
        takes F = 1 + 4T frames, every later one F = 4T. Returns (T * h * w, D), tokens in f, h, w order.
        """
        side = {"y": PIXELS_PER_TOKEN, "x": PIXELS_PER_TOKEN}
        x = rearrange(frames, "f c (h y) (w x) -> 1 f h w (c y x)", **side)
        x = rearrange(x, "1 f h w c -> 1 c f h w")  # channels last in memory
        if not state.started:
            first, x = x[:, :, :1], x[:, :, 1:]
            if self.config.kind == "causal":
                # The stream's first frame, four times, with two more of it in front.
                self._history(first.expand(-1, -1, 6, -1, -1), state)
            state.started = True
        if x.shape[2] == 0:  # a first call with nothing but the first frame
            return frames.new_zeros(0, self.config.out_dim)
        x = self._groups(x) if self.config.kind == "buffer" else self._causal(x, state)
        x = rearrange(x, "b c t h w -> (b t h w) c")
        return self.linear_layers[0](x)

    def _history(self, frames: Tensor, state: ConvState) -> None:
        state.tails["conv1"] = frames[:, :, -2:].contiguous()
        state.tails["conv2"] = self._stage1(frames)

    def _causal(self, x: Tensor, state: ConvState) -> Tensor:
        x = torch.cat([state.tails["conv1"], x], dim=2)
        state.tails["conv1"] = x[:, :, -2:].contiguous()
        x = torch.cat([state.tails["conv2"], self._stage1(x)], dim=2)
        state.tails["conv2"] = x[:, :, -2:].contiguous()
        return self._stage2(x)

    def _groups(self, x: Tensor) -> Tensor:
        x = rearrange(x, "b c (t f) h w -> (b t) c f h w", f=LATENT_FRAMES)
        x = self._stage1(torch.cat([x[:, :, -2:], x], dim=2))
        x = self._stage2(torch.cat([x[:, :, -2:], x], dim=2))
        return rearrange(x, "t c 1 h w -> 1 c t h w")

    def _stage1(self, x: Tensor) -> Tensor:
        return F.silu(self.norm1(_conv(self.conv1, x)))

    def _stage2(self, x: Tensor) -> Tensor:
        return F.silu(self.norm2(_conv(self.conv2, x)))


def _conv(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """Replicate padding of one pixel around, then the convolution."""
    return conv(F.pad(x, (1, 1, 1, 1, 0, 0), mode="replicate"))
