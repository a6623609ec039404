"""Sparse attention with the Triton kernels over a ``KVPool``.

Keys and values are quantised, pooled and stored once, when they are made; what a layer reads later is the
lists, the pool and nothing else. No host work depends on a number of the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from src.ops.plan import AttentionPlan, AttentionSettings, QKNorm
from src.ops.quantize import LOG2_E
from src.ops.triton_attention import attend_lists, launch_config, longest_first
from src.ops.triton_norms import rstd
from src.ops.triton_qkv import rotate_quantise, store_values
from src.ops.triton_select import Locality, select_lists
from src.state import WINDOW_LENGTH, KVPool, KVPoolView, PoolTensors


@dataclass(frozen=True)
class PooledPlan(AttentionPlan):
    """The kernels for a picture of ``rows`` x ``columns`` windows; ``pairs``: budget or None."""

    attention: AttentionSettings
    rows: int
    columns: int
    pairs: int | None

    def begin(self, caches: Sequence[object], tokens: int, heads: int, like: Tensor) -> None:
        if len(caches) == len(_view(caches[0]).pool.orders):
            self._begin(_view(caches[0]).pool, tokens, heads, like)
        # Else pools of one layer each, whose memory may be anywhere now: each begins when its layer comes.

    def _begin(self, pool: KVPool, tokens: int, heads: int, like: Tensor) -> None:
        per_frame = self.rows * self.columns * WINDOW_LENGTH
        int8, block, width = self.attention.kind == "sage", self.attention.block_k, like.shape[1] // heads
        int8_values = int8 and self.attention.int8_values
        pool.begin(tokens // per_frame, heads, per_frame, width, block, int8, like, int8_values)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, norm: QKNorm, rope: tuple[Tensor, Tensor], cache: object
    ) -> Tensor:
        pool, layer = _view(cache).pool, _view(cache).layer
        width, tokens = 2 * rope[0].shape[1], self.rows * self.columns * WINDOW_LENGTH
        heads, window_frames = q.shape[1] // width, q.shape[0] // tokens
        block, int8 = self.attention.block_k, self.attention.kind == "sage"
        if pool.layers_done == len(pool.orders):
            self._begin(pool, q.shape[0], heads, q)
        tensors = pool.tensors()
        slots = tensors.table[layer]
        new = slots[-window_frames:]
        self._store_keys(k, norm, rope, tensors, layer, new, first=pool.first)
        store_values(v, tensors.values, tensors.value_scales, new, block)
        queries, scales, means = self._queries(q, norm, rope, heads, int8)
        locality = Locality(self.rows, self.columns, self.attention.local_range, WINDOW_LENGTH // block)
        quirks = self.attention.reference_quirks
        lists, counts = select_lists(means, tensors.means, slots, locality, self.pairs, quirks)
        if self.attention.observe is not None:
            self.attention.observe(lists_to_mask(lists, counts, slots, tensors.means.shape[2]))
        config = launch_config(_capability(q.device), block)
        pool.layers_done += 1
        return attend_lists(
            *(queries, scales, tensors.keys, tensors.scales, tensors.values),
            *(lists, counts, longest_first(counts), block, config),
            v_scale=tensors.value_scales,
            dtype=v.dtype,
        )

    def _store_keys(
        self,
        k: Tensor,
        norm: QKNorm,
        rope: tuple[Tensor, Tensor],
        pool: PoolTensors,
        layer: int,
        slots: Tensor,
        first: bool,
    ) -> None:
        """Norm, rotate and store the keys of a chunk; the first chunk of a stream also fixes the smoothing vector."""
        block = self.attention.block_k
        blocks, factors, means = pool.means.shape[2], rstd(k, norm.eps), pool.means
        smooth = None
        if pool.smooth is not None:
            smooth = pool.smooth[layer]
            if first:
                rotate_quantise(k, factors, norm.k, rope, block, None, None, means, slots=slots, frame_blocks=blocks)
                smooth.copy_(means.index_select(0, slots).mean(dim=(0, 2)))
        out, scales = pool.keys, pool.scales
        rotate_quantise(
            k, factors, norm.k, rope, block, out, scales, means, smooth=smooth, slots=slots, frame_blocks=blocks
        )

    def _queries(
        self, q: Tensor, norm: QKNorm, rope: tuple[Tensor, Tensor], heads: int, int8: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Queries (H, L, d) as attention reads them, their scales (H, L / 128) if int8, and their block means."""
        length, width = q.shape[0], q.shape[1] // heads
        means = q.new_empty((heads, length // WINDOW_LENGTH, width), dtype=torch.float32)
        out = q.new_empty((heads, length, width), dtype=torch.int8 if int8 else q.dtype)
        scales = q.new_empty(means.shape[:2], dtype=torch.float32) if int8 else None
        factor = width**-0.5 * LOG2_E
        rotate_quantise(q, rstd(q, norm.eps), norm.q, rope, WINDOW_LENGTH, out, scales, means, factor=factor)
        return out, scales, means


def _view(cache: object) -> KVPoolView:
    if not isinstance(cache, KVPoolView):
        raise TypeError(f"this stream was begun with another attention: its cache is a {type(cache).__name__}")
    return cache


def lists_to_mask(lists: Tensor, counts: Tensor, slots: Tensor, frame_blocks: int) -> Tensor:
    """The block mask (H, q blocks, visible key blocks in time order) that the lists stand for."""
    heads, q_blocks, entries = lists.shape
    valid = torch.arange(entries, device=lists.device) < counts[..., None]
    order = torch.full((int(slots.max()) + 1,), -1, dtype=torch.long, device=lists.device)
    order[slots.long()] = torch.arange(len(slots), device=lists.device)
    number = lists.long()
    column = (
        order[(number // (heads * frame_blocks)).where(valid, slots[0].long())] * frame_blocks + number % frame_blocks
    )
    # One column more takes what stands behind a list's end.
    mask = torch.zeros(heads, q_blocks, len(slots) * frame_blocks + 1, dtype=torch.bool, device=lists.device)
    mask.scatter_(2, column.where(valid, mask.shape[2] - 1), True)
    return mask[..., :-1]


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
