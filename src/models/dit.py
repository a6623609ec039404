"""The DiT: Wan 2.1 made causal, one step, sparse attention over a KV cache.

Tokens are kept in window order from the patch embedding to the head: windows of (2, 8, 8) tokens, window
index (f/2, h/8, w/8), the 128 tokens of a window side by side in (f, h, w) order. Every layer but
attention is blind to the order, so nothing is re-partitioned in between.
MODEL: Wan 2.1 T2V 1.3B; FlashVSR (arXiv 2510.12747).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from src.chunks import WINDOW_FRAMES, WINDOW_TOKENS
from src.config import DiTConfig
from src.models.layers import RMSNorm
from src.ops.attention import AttentionPlan
from src.state import KVCache

WINDOW_AXES = {"a": WINDOW_FRAMES, "b": WINDOW_TOKENS, "c": WINDOW_TOKENS}


@dataclass(frozen=True)
class DiTConstants:
    """What depends on the checkpoint alone: computed once, shared by all streams.

    modulation: per block (6, D); head: (2, D); cross_keys, cross_values: per block (H, text, d).
    """

    modulation: list[Tensor]
    head: Tensor
    cross_keys: list[Tensor]
    cross_values: list[Tensor]
    t: Tensor
    t_mod: Tensor


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

    def output(self, x: Tensor) -> Tensor:
        """(H, L, d) -> (L, D), projected."""
        return self.o(rearrange(x, "n l d -> l (n d)"))


class SelfAttention(Projections):
    """Sparse attention of a chunk over itself and the cache; Q and K are rotated after their norms."""

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], plan: AttentionPlan, cache: KVCache) -> Tensor:
        """x (L, D) in window order -> (L, D)."""
        q = rotate(self.split(self.norm_q(self.q(x))), rope)
        k = rotate(self.split(self.norm_k(self.k(x))), rope)
        return self.output(plan.attend(q, k, self.split(self.v(x)), cache))


class CrossAttention(Projections):
    """Attention to the fixed prompt, whose keys and values are constants of the checkpoint."""

    def constants(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (H, text, d) of the embedded text (text, D)."""
        return self.split(self.norm_k(self.k(text))).contiguous(), self.split(self.v(text)).contiguous()

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """x (L, D) -> (L, D)."""
        q = self.split(self.norm_q(self.q(x)))
        return self.output(F.scaled_dot_product_attention(q[None], keys[None], values[None])[0])


class Block(nn.Module):
    """One transformer block."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.self_attn, self.cross_attn = SelfAttention(config), CrossAttention(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, config.dim)
        )
        self.modulation = nn.Parameter(torch.zeros(1, 6, config.dim))

    def forward(
        self,
        x: Tensor,
        constants: DiTConstants,
        index: int,
        rope: tuple[Tensor, Tensor],
        plan: AttentionPlan,
        cache: KVCache,
    ) -> Tensor:
        """x (L, D) -> (L, D); ``index``: this block's place among the constants."""
        shift1, scale1, gate1, shift2, scale2, gate2 = constants.modulation[index]
        y = modulate(x, shift1, scale1, self.eps)
        x = x + gate1 * self.self_attn(y, rope, plan, cache)
        x = x + self.cross_attn(self.norm3(x), constants.cross_keys[index], constants.cross_values[index])
        return x + gate2 * self.ffn(modulate(x, shift2, scale2, self.eps))


class Head(nn.Module):
    """Modulated norm and the projection back to 2x2 latent pixels."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, config.out_dim * 4)
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))

    def forward(self, x: Tensor, constants: DiTConstants) -> Tensor:
        shift, scale = constants.head
        return self.head(modulate(x, shift, scale, self.eps))


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
        return DiTConstants(
            modulation=[(block.modulation + t_mod)[0] for block in self.blocks],
            head=(self.head.modulation + t[:, None])[0],
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
        caches: list[KVCache],
        first_latent: int,
    ) -> Tensor:
        """Velocity of one chunk.

        latents (1, 16, T, 2h, 2w), T even, h and w multiples of 8; lq_tokens (T * h * w, D) in
        f, h, w order; caches: one per block, advanced in place; first_latent: time position of the
        chunk's first latent frame in the stream. Returns the shape of latents.
        """
        x = self.patch_embedding(latents)
        _, _, frames, rows, columns = x.shape
        if frames % WINDOW_FRAMES or rows % WINDOW_TOKENS or columns % WINDOW_TOKENS:
            raise ValueError(f"{frames}x{rows}x{columns} tokens are no whole number of (2, 8, 8) windows")
        x = rearrange(x, "1 d (f a) (h b) (w c) -> (f h w a b c) d", **WINDOW_AXES)
        if lq_tokens is not None:
            grid = {"h": rows // WINDOW_TOKENS, "w": columns // WINDOW_TOKENS}
            x = x + rearrange(lq_tokens, "(f a h b w c) d -> (f h w a b c) d", **WINDOW_AXES, **grid)
        rope = rope_table(self.config.head_dim, first_latent, frames, rows, columns, x.device)
        for index, (block, cache) in enumerate(zip(self.blocks, caches, strict=True)):
            x = block(x, constants, index, rope, plan, cache)
        return self._unpatchify(self.head(x, constants), frames, rows, columns)

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


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm without affine parameters, then scaled and shifted: (L, D) -> (L, D)."""
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift


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
    for axis, (start, count, dims) in enumerate(axes):
        # On the CPU, where there always is a float64; a table of one axis is small.
        frequency = 10000.0 ** (-torch.arange(0, dims, 2, dtype=torch.float64) / dims)
        angles = torch.arange(start, start + count, dtype=torch.float64)[:, None] * frequency
        table = torch.stack([angles.cos(), angles.sin()]).float().to(device)  # (2, count, dims / 2)
        shape = [2, 1, 1, 1, dims // 2]
        shape[axis + 1] = count
        parts.append(table.view(shape).expand(2, frames, rows, columns, -1))
    cos, sin = rearrange(torch.cat(parts, dim=-1), "t (f a) (h b) (w c) d -> t (f h w a b c) d", **WINDOW_AXES)
    return cos, sin


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs (2i, 2i+1) of x (H, L, d) by the table's angles, in float32."""
    cos, sin = rope
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)
