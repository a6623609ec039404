"""How the DiT attends: the resolved backend, and its entry point in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from src.ops.block_mask import block_means, local_mask, pair_budget, select_blocks, visible_blocks
from src.ops.norms import rotate
from src.ops.plan import AttentionPlan, AttentionSettings, QKNorm
from src.ops.sparse_attention import sparse_attention
from src.state import WINDOW_LENGTH, KVCache, KVPool, KVPoolView

REFERENCE_AREA = 768 * 1280  # sparse_ratio is stated for this many pixels


@dataclass(frozen=True)
class Attention(AttentionSettings):
    """A resolved attention backend; a plain value handed down to the DiT."""

    def for_size(self, rows: int, columns: int, device: torch.device) -> AttentionPlan:
        """What is constant for a picture of rows x columns attention windows."""
        windows = rows * columns
        pairs = None
        if self.sparse_ratio is not None:
            ratio = self.sparse_ratio * REFERENCE_AREA / (windows * WINDOW_LENGTH**2)
            pairs = pair_budget(windows, ratio, self.block_k, self.reference_quirks)
        if self.kernels:
            from src.ops.pooled_attention import PooledPlan

            return PooledPlan(self, rows, columns, pairs)
        return TorchPlan(self, windows, local_mask(rows, columns, self.local_range, device), pairs)

    def new_caches(
        self, layers: int, first_window_frames: int, later_window_frames: int, together: bool = True
    ) -> Sequence[KVCache | KVPoolView]:
        """The memory of a stream, one per DiT block; chunks bring so many window-frames.

        ``together``: in one allocation where there are kernels for it; otherwise each can be moved by itself.
        """
        if self.kernels:
            pools, own = (1, layers) if together else (layers, 1)
            made = [KVPool(own, self.kv_len, first_window_frames, later_window_frames) for _ in range(pools)]
            return [view for pool in made for view in pool.views()]
        return [KVCache(self.kv_len, first_window_frames, later_window_frames) for _ in range(layers)]


@dataclass(frozen=True)
class TorchPlan(AttentionPlan):
    """Plain PyTorch, on any device. n ``windows``, ``local`` (n, n), ``pairs`` budget or None."""

    attention: Attention
    windows: int
    local: Tensor
    pairs: int | None

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, norm: QKNorm, rope: tuple[Tensor, Tensor], cache: object
    ) -> Tensor:
        if not isinstance(cache, KVCache):
            raise TypeError(f"this stream was begun with another attention: its cache is a {type(cache).__name__}")
        width = 2 * rope[0].shape[1]
        q, k, v = (
            rearrange(x, "l (n d) -> n l d", d=width)
            for x in (self._norm(q, norm.q, norm), self._norm(k, norm.k, norm), v)
        )
        q, k = rotate(q, rope), rotate(k, rope)
        cache.append(k, v, self.windows)
        if self.attention.kind == "dense":
            out = self._dense(q, cache)
        else:
            mask, columns = self._select(q, cache)
            if self.attention.observe is not None:
                self.attention.observe(mask)
            out = sparse_attention(q, *cache.tokens(), mask, self.attention.block_k, columns)
        cache.trim()
        return rearrange(out, "n l d -> l (n d)")

    def _norm(self, x: Tensor, weight: Tensor, norm: QKNorm) -> Tensor:
        return self.ops.rms_norm(x, weight, norm.eps)

    def _dense(self, q: Tensor, cache: KVCache) -> Tensor:
        keys, values = cache.tokens()
        if len(cache.order) < cache.slots:
            length = self.windows * WINDOW_LENGTH
            slots = [slice(slot * length, (slot + 1) * length) for slot in cache.order]
            keys, values = (torch.cat([x[:, where] for where in slots], dim=1) for x in (keys, values))
        return F.scaled_dot_product_attention(q[None], keys[None], values[None])[0]

    def _select(self, q: Tensor, cache: KVCache) -> tuple[Tensor, Tensor]:
        """The block mask with its columns in time order, and the key block each column stands for."""
        block_k, halves = self.attention.block_k, WINDOW_LENGTH // self.attention.block_k
        per_slot = self.windows * halves
        slots = torch.tensor(cache.order, device=q.device)
        columns = (slots[:, None] * per_slot + torch.arange(per_slot, device=q.device)).flatten()
        frames = q.shape[1] // (self.windows * WINDOW_LENGTH)
        visible = visible_blocks(self.local, frames, len(cache.order), halves)
        if self.pairs is None:
            return visible.expand(q.shape[0], -1, -1), columns
        q_means = block_means(q, WINDOW_LENGTH)
        k_means = block_means(cache.tokens()[0], block_k)[:, columns]
        quirks = self.attention.reference_quirks
        return select_blocks(q_means, k_means, visible, self.windows, self.pairs, quirks), columns


def with_observer(attention: Attention, observe: Callable[[Tensor], None]) -> Attention:
    """The same attention, reporting every block mask to ``observe``."""
    return replace(attention, observe=observe)
