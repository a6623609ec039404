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
from src.models.layers import ChannelNorm, fold_kernel, folded_kernel
from src.ops.convs import ConvOps
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
        self.folded, self.ops = False, ConvOps()

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
        state.tails["conv1"] = frames[:, :, -2:].clone()
        state.tails["conv2"] = self._stage1(frames)

    def _causal(self, x: Tensor, state: ConvState) -> Tensor:
        y = self._stage1(state.tails["conv1"], x)
        state.tails["conv1"] = x[:, :, -2:].clone()
        z = self._stage2(state.tails["conv2"], y)
        state.tails["conv2"] = y[:, :, -2:].clone()
        return z

    def _groups(self, x: Tensor) -> Tensor:
        x = rearrange(x, "b c (t f) h w -> (b t) c f h w", f=LATENT_FRAMES)
        y = self._stage1(x[:, :, -2:], x)
        return rearrange(self._stage2(y, y), "t c 1 h w -> 1 c t h w")

    def _stage1(self, *parts: Tensor) -> Tensor:
        return self._stage(_joined(parts), self.conv1, self.norm1)

    def _stage2(self, *parts: Tensor) -> Tensor:
        return self._stage(_joined(parts), self.conv2, self.norm2)

    def _stage(self, x: Tensor, conv: nn.Conv3d, norm: ChannelNorm) -> Tensor:
        if not self.folded:
            return F.silu(norm(conv(x)))
        y = convolve_folded(x, conv)
        y = self.ops.norm_silu(y, norm.gamma.flatten(), conv.bias)
        return rearrange(y, "(b t) c h w -> b c t h w", b=x.shape[0])

    def fold_time(self, ops: ConvOps) -> LQProjector:
        """Compute the convolutions in space over frames side by side in the channels; returns self.

        The same sums at twice the speed of cuDNN's 3-D kernels: 2.55 for 5.34 ms and 5.03 for 10.94 ms, the
        two convolutions on 10 frames of 768 x 1408 (bf16, H100). The weights are laid out anew, in place.
        """
        self.folded, self.ops = True, ops
        for conv in (self.conv1, self.conv2):
            fold_kernel(conv)
        return self


def convolve_folded(x: Tensor, conv: nn.Conv3d) -> Tensor:
    """The convolution of x (B, C, F, H, W), without its bias, as one in space alone: (B * T, C', H', W')."""
    taps, step = conv.kernel_size[0], conv.stride[0]
    stacked = rearrange(x.unfold(2, taps, step), "b c t h w k -> (b t) h w (k c)")
    return F.conv2d(rearrange(stacked, "n h w c -> n c h w"), folded_kernel(conv))


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    """Parts (B, C, f, h, w) joined in time, with one replicated pixel around: (B, C, F, h + 2, w + 2).

    Written once, in the order the convolution wants; joining, padding and reordering one after the
    other would take as long as the convolution itself on a CPU.
    """
    batch, channels, _, height, width = parts[0].shape
    size = (batch, channels, sum(part.shape[2] for part in parts), height + 2, width + 2)
    layout = torch.channels_last_3d
    out = torch.empty(size, dtype=parts[0].dtype, device=parts[0].device, memory_format=layout)
    begin = 0
    for part in parts:
        out[:, :, begin : begin + part.shape[2], 1:-1, 1:-1] = part
        begin += part.shape[2]
    out[..., 0, 1:-1], out[..., -1, 1:-1] = out[..., 1, 1:-1], out[..., -2, 1:-1]
    out[..., 0], out[..., -1] = out[..., 1], out[..., -2]
    return out
