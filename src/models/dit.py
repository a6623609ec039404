"""The DiT: Wan 2.1 made causal, one step, sparse attention over a KV cache.

Tokens are kept in window order from the patch embedding to the head: windows of (2, 8, 8) tokens, window
index (f/2, h/8, w/8), the 128 tokens of a window side by side in (f, h, w) order. Every layer but
attention is blind to the order, so nothing is re-partitioned in between.
MODEL: Wan 2.1 T2V 1.3B; FlashVSR (arXiv 2510.12747).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from src.chunks import WINDOW_FRAMES, WINDOW_TOKENS
from src.config import DiTConfig
from src.models.layers import RMSNorm
from src.ops.fp8 import FP8Linear, convert
from src.ops.fused import Ops
from src.ops.plan import AttentionPlan, QKNorm
from src.parking import Parking, at_hand
from src.state import KVCache, KVPoolView

FFN_HIDDEN_NUMBERS = 1 << 27  # numbers of the FFN's hidden layer held at once on a GPU: 256 MiB in bf16
WINDOW_AXES = {"a": WINDOW_FRAMES, "b": WINDOW_TOKENS, "c": WINDOW_TOKENS}


@dataclass(frozen=True)
class DiTConstants:
    """What depends on the checkpoint alone: computed once, shared by all streams.

    modulation: per block (6, D), rows shift, 1 + scale, gate of attention and of the FFN; head: (2, D), rows
    shift, 1 + scale; cross_keys, cross_values: per block (H, text, d).
    """

    modulation: list[Tensor]
    head: Tensor
    cross_keys: list[Tensor]
    cross_values: list[Tensor]
    t: Tensor
    t_mod: Tensor

    def entry(self, index: int) -> tuple[Tensor, Tensor]:
        """Shift and 1 + scale of the norm before block ``index``, or before the head after the last block."""
        shift, scale = (self.head if index == len(self.modulation) else self.modulation[index])[:2]
        return shift, scale


class FFN(nn.ModuleList):
    """Linear, GELU(tanh), Linear. Key 1, the activation, has no weights."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__([nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim)])

    def forward(self, x: Tensor, ops: Ops) -> Tensor:
        """(L, D) -> (L, D); on a GPU in portions of rows, since the hidden layer is six times as wide."""
        rows = max(1, FFN_HIDDEN_NUMBERS // cast(nn.Linear, self[0]).out_features)
        if x.device.type == "cpu" or x.shape[0] <= rows:
            return self._rows(x, ops)
        return torch.cat([self._rows(part, ops) for part in x.split(rows)])

    def _rows(self, x: Tensor, ops: Ops) -> Tensor:
        grow, shrink = self[0], self[2]
        if isinstance(grow, FP8Linear):
            return shrink(grow(x), gelu=True)
        return shrink(ops.linear_gelu(x, cast(nn.Linear, grow)))


Cache = KVCache | KVPoolView


class Projections(nn.Module):
    """What both kinds of attention have: four projections, and RMS norms of Q and K over the whole width."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, config.eps), RMSNorm(dim, config.eps)

    def split(self, x: Tensor) -> Tensor:
        """(L, D) -> (H, L, d)"""
        return rearrange(x, "l (n d) -> n l d", n=self.heads)


class SelfAttention(Projections):
    """Sparse attention of a chunk over itself and the cache; Q and K are normed and rotated on the way."""

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], plan: AttentionPlan, cache: Cache) -> Tensor:
        """x (L, D) in window order -> (L, D)."""
        norm = QKNorm(self.norm_q.weight, self.norm_k.weight, self.norm_q.eps)
        return self.o(plan.attend(self.q(x), self.k(x), self.v(x), norm, rope, cache))


class CrossAttention(Projections):
    """Attention to the fixed prompt, whose keys and values are constants of the checkpoint."""

    def constants(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (H, text, d) of the embedded text (text, D)."""
        return self.split(self.norm_k(self.k(text))).contiguous(), self.split(self.v(text)).contiguous()

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, ops: Ops) -> Tensor:
        """x (L, D) -> (L, D)."""
        q = self.split(ops.rms_norm(self.q(x), self.norm_q.weight, self.norm_q.eps))
        out = F.scaled_dot_product_attention(q[None], keys[None], values[None])[0]
        return self.o(rearrange(out, "n l d -> l (n d)"))


class Block(nn.Module):
    """One transformer block."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.self_attn, self.cross_attn = SelfAttention(config), CrossAttention(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.ffn = FFN(config.dim, config.ffn_dim)
        self.modulation = nn.Parameter(torch.zeros(1, 6, config.dim))

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        constants: DiTConstants,
        index: int,
        rope: tuple[Tensor, Tensor],
        plan: AttentionPlan,
        cache: Cache,
    ) -> tuple[Tensor, Tensor]:
        """One block; every norm is taken together with the sum before it, so the last one is the next block's.

        x (L, D) tokens, y (L, D) their modulated norm for this block's attention; ``index``: this block's place
        among the constants. Returns the tokens and their norm for what follows.
        """
        ops, eps = plan.ops, self.eps
        _, _, gate1, shift2, scale2, gate2 = constants.modulation[index]
        attended = self.self_attn(y, rope, plan, cache)
        x, y = ops.residual_norm(x, attended, gate1, self.norm3.weight, self.norm3.bias, eps)
        crossed = self.cross_attn(y, constants.cross_keys[index], constants.cross_values[index], ops)
        x, y = ops.residual_norm(x, crossed, None, scale2, shift2, eps)
        grown = self.ffn(y, ops)
        shift, scale = constants.entry(index + 1)
        return ops.residual_norm(x, grown, gate2, scale, shift, eps)


class Head(nn.Module):
    """The projection back to 2x2 latent pixels; the modulated norm before it belongs to the last block's sum."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.head = nn.Linear(config.dim, config.out_dim * 4)
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))

    def forward(self, y: Tensor) -> Tensor:
        return self.head(y)


class DiT(nn.Module):
    """Latent noise and LQ tokens to velocity. Parameter names are the checkpoint's."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.patch_embedding = nn.Conv3d(config.in_dim, dim, config.patch_size, stride=config.patch_size)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, dim * 6))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = Head(config)

    def to_fp8(self) -> DiT:
        """Take the blocks' matrix products in 8 bits, after ``constants``, which need the 16-bit weights."""
        convert(self.blocks)
        return self

    def constants(self, prompt: Tensor, timestep: float = 1000.0) -> DiTConstants:
        """prompt (1, text, text_dim) -> everything that never changes between chunks."""
        dtype = self.patch_embedding.weight.dtype
        half = self.config.freq_dim // 2
        angles = timestep * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        embedded = torch.cat([angles.cos(), angles.sin()])[None].to(prompt.device, dtype)
        t = self.time_embedding(embedded)  # (1, D)
        t_mod = self.time_projection(t).unflatten(1, (6, -1))  # (1, 6, D)
        text = self.text_embedding(prompt[0].to(dtype))
        attentions = [block.cross_attn for block in self.blocks]
        cross = [attention.constants(text) for attention in attentions if isinstance(attention, CrossAttention)]
        # Rows of scales get their 1 here.
        one = torch.tensor([0.0, 1, 0, 0, 1, 0], device=t.device, dtype=dtype)[:, None]
        return DiTConstants(
            modulation=[(block.modulation + t_mod)[0] + one for block in self.blocks],
            head=(self.head.modulation + t[:, None])[0] + one[:2],
            cross_keys=[keys for keys, _ in cross],
            cross_values=[values for _, values in cross],
            t=t,
            t_mod=t_mod,
        )

    def forward(
        self,
        latents: Tensor,
        lq_tokens: Tensor | None,
        constants: DiTConstants,
        plan: AttentionPlan,
        caches: Sequence[Cache] | Parking[Cache],
        first_latent: int,
    ) -> Tensor:
        """Velocity of one chunk.

        latents (1, 16, T, 2h, 2w), T even, h and w multiples of 8; lq_tokens (T * h * w, D) in
        f, h, w order; caches: one per block, advanced in place; first_latent: time position of the
        chunk's first latent frame in the stream. Returns the shape of latents.
        """
        rope = self.begin(latents, plan, caches, first_latent)
        return self.step(latents, lq_tokens, rope, constants, plan, caches)

    def begin(
        self, latents: Tensor, plan: AttentionPlan, caches: Sequence[Cache] | Parking[Cache], first_latent: int
    ) -> tuple[Tensor, Tensor]:
        """What a chunk needs of the host: room in the caches, and the rotations of its positions (cos, sin)."""
        frames, rows, columns = latents.shape[2], latents.shape[3] // 2, latents.shape[4] // 2
        if frames % WINDOW_FRAMES or rows % WINDOW_TOKENS or columns % WINDOW_TOKENS:
            raise ValueError(f"{frames}x{rows}x{columns} tokens are no whole number of (2, 8, 8) windows")
        like = latents.new_empty(0, self.config.dim)
        if len(caches) != len(self.blocks):
            raise ValueError(f"{len(caches)} caches for {len(self.blocks)} blocks")
        plan.begin(
            caches.states if isinstance(caches, Parking) else caches,
            frames * rows * columns,
            self.config.num_heads,
            like,
        )
        return rope_table(self.config.head_dim, first_latent, frames, rows, columns, latents.device)

    def step(
        self,
        latents: Tensor,
        lq_tokens: Tensor | None,
        rope: tuple[Tensor, Tensor],
        constants: DiTConstants,
        plan: AttentionPlan,
        caches: Sequence[Cache] | Parking[Cache],
    ) -> Tensor:
        """The chunk's computation after ``begin``; with the Triton kernels nothing in it touches the host."""
        x = self.patch_embedding(latents)
        _, _, frames, rows, columns = x.shape
        x = rearrange(x, "1 d (f a) (h b) (w c) -> (f h w a b c) d", **WINDOW_AXES)
        if lq_tokens is not None:
            grid = {"h": rows // WINDOW_TOKENS, "w": columns // WINDOW_TOKENS}
            x = x + rearrange(lq_tokens, "(f a h b w c) d -> (f h w a b c) d", **WINDOW_AXES, **grid)
        shift, scale = constants.entry(0)
        x = x.contiguous()  # a single window comes as a view of what the convolution left, in its order
        x, y = plan.ops.residual_norm(x, None, None, scale, shift, self.config.eps)
        for index, block in enumerate(self.blocks):
            with at_hand(caches, index) as cache:
                x, y = block(x, y, constants, index, rope, plan, cache)
        return self._unpatchify(self.head(y), frames, rows, columns)

    def _unpatchify(self, x: Tensor, frames: int, rows: int, columns: int) -> Tensor:
        return rearrange(
            x,
            "(f h w a b c) (y x z) -> 1 z (f a) (h b y) (w c x)",
            f=frames // WINDOW_FRAMES,
            h=rows // WINDOW_TOKENS,
            w=columns // WINDOW_TOKENS,
            y=2,
            x=2,
            **WINDOW_AXES,
        )


def rope_table(
    head_dim: int, first_frame: int, frames: int, rows: int, columns: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """cos and sin (frames * rows * columns, head_dim / 2), float32, tokens in window order.

    The pairs of a head are split between time, rows and columns (44 / 42 / 42 of 128 dims). Angles are
    computed for the position in float64, so a stream may be of any length.
    """
    spatial = head_dim // 3 // 2 * 2
    axes = ((first_frame, frames, head_dim - 2 * spatial), (0, rows, spatial), (0, columns, spatial))
    parts = []
    # On the device, so that nothing waits for a copy, unless it has no float64.
    where = torch.device("cpu") if device.type == "mps" else device
    for axis, (start, count, dims) in enumerate(axes):
        frequency = 10000.0 ** (-torch.arange(0, dims, 2, dtype=torch.float64, device=where) / dims)
        angles = torch.arange(start, start + count, dtype=torch.float64, device=where)[:, None] * frequency
        table = torch.stack([angles.cos(), angles.sin()]).float().to(device)  # (2, count, dims / 2)
        shape = [2, 1, 1, 1, dims // 2]
        shape[axis + 1] = count
        parts.append(table.view(shape).expand(2, frames, rows, columns, -1))
    cos, sin = rearrange(torch.cat(parts, dim=-1), "t (f a) (h b) (w c) d -> t (f h w a b c) d", **WINDOW_AXES)
    return cos, sin
