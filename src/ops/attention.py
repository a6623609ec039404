"""How the DiT attends: the resolved backend, and its one entry point for a block's self-attention."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from src.config import Options, SamplingConfig
from src.ops.block_mask import block_means, local_mask, pair_budget, select_blocks, visible_blocks
from src.ops.sparse_attention import sparse_attention
from src.state import WINDOW_LENGTH, KVCache

log = logging.getLogger(__name__)

BLOCK_K = {"sage": 64, "block": 128, "dense": 128}
REFERENCE_AREA = 768 * 1280  # sparse_ratio is stated for this many pixels


@dataclass(frozen=True)
class Attention:
    """A resolved attention backend; a plain value handed down to the DiT.

    ``kind``: "sage" (64-token key blocks), "block" (128-token ones) or "dense" (every cached token).
    ``sparse_ratio`` None: no budget, every block inside the local window is kept.
    ``observe``: called with the block mask of every layer (tests and benchmarks look at it).
    """

    kind: str
    sparse_ratio: float | None
    local_range: int
    kv_len: int
    reference_quirks: bool = False
    observe: Callable[[Tensor], None] | None = None

    @property
    def block_k(self) -> int:
        return BLOCK_K[self.kind]

    def for_size(self, rows: int, columns: int, device: torch.device) -> AttentionPlan:
        """What is constant for a picture of rows x columns attention windows."""
        windows = rows * columns
        pairs = None
        if self.sparse_ratio is not None:
            ratio = self.sparse_ratio * REFERENCE_AREA / (windows * WINDOW_LENGTH**2)
            pairs = pair_budget(windows, ratio, self.block_k, self.reference_quirks)
        local = local_mask(rows, columns, self.local_range, device)
        return AttentionPlan(self, windows, local, pairs)


@dataclass(frozen=True)
class AttentionPlan:
    """Attention for one picture size: n ``windows``, ``local`` (n, n), ``pairs`` budget or None."""

    attention: Attention
    windows: int
    local: Tensor
    pairs: int | None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, cache: KVCache) -> Tensor:
        """Attention of a chunk over itself and the cache, which takes the chunk's keys and values.

        q, k, v (H, g * n * 128, d) in window order, rotated. Returns (H, g * n * 128, d).
        """
        cache.append(k, v, self.windows)
        if self.attention.kind == "dense":
            out = self._dense(q, cache)
        else:
            mask, columns = self._select(q, cache)
            if self.attention.observe is not None:
                self.attention.observe(mask)
            out = sparse_attention(q, *cache.tokens(), mask, self.attention.block_k, columns)
        cache.trim()
        return out

    def _dense(self, q: Tensor, cache: KVCache) -> Tensor:
        length = self.windows * WINDOW_LENGTH
        slots = [slice(slot * length, (slot + 1) * length) for slot in cache.order]
        keys, values = (torch.cat([x[:, where] for where in slots], dim=1) for x in cache.tokens())
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


def resolve_attention(options: Options, sampling: SamplingConfig, device: torch.device) -> Attention:
    """The backend for this job, decided once and logged.

    "auto" is "block" wherever there is no INT8 kernel, since 128-token blocks are what the model was
    trained with.
    """
    kind = "block" if options.attention == "auto" else options.attention
    attention = Attention(
        kind=kind,
        sparse_ratio=options.sparse_ratio or sampling.sparse_ratio,
        local_range=options.local_range or sampling.local_range,
        kv_len=options.kv_ratio or sampling.kv_ratio,
    )
    if kind == "dense":
        log.info("attention: dense (every cached token, PyTorch)")
    else:
        log.info(
            "attention: %s (%d-token key blocks) in plain PyTorch on %s: there is no kernel for it yet",
            kind,
            attention.block_k,
            device.type,
        )
    return attention


def with_observer(attention: Attention, observe: Callable[[Tensor], None]) -> Attention:
    """The same attention, reporting every block mask to ``observe``."""
    return replace(attention, observe=observe)
