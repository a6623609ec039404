"""Triton kernels that choose key blocks: scores of the visible pairs, the budget's threshold, lists.

Only pairs inside the local window exist here: row (head, query block) has one entry for every
(window-frame, local row, local column, half), computed from the numbers, never from a mask. Nothing
comes back to the host. Twin: ``src.ops.block_mask``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Locality:
    """The local windows of a grid of ``rows`` x ``columns`` attention windows.

    ``reach``: width of the local window; ``halves``: key blocks per attention window.
    """

    rows: int
    columns: int
    reach: int
    halves: int

    @property
    def local_rows(self) -> int:
        return min(self.reach, self.rows)

    @property
    def local_columns(self) -> int:
        return min(self.reach, self.columns)

    def entries(self, frames: int) -> int:
        """Entries of a row for keys of so many window-frames, those beyond the border included."""
        return frames * self.local_rows * self.local_columns * self.halves


@triton.jit
def _entry(e, window, rows, columns, reach, local_rows, local_columns, HALVES: tl.constexpr):
    """(window-frame, key block within it, whether it exists) of entry e of a query window."""
    half = e % HALVES
    cell = e // HALVES
    column = cell % local_columns
    row = (cell // local_columns) % local_rows
    frame = cell // (local_columns * local_rows)
    # The range is cut at the border, not shifted.
    low_row = tl.maximum(window // columns - reach // 2, 0)
    low_column = tl.maximum(window % columns - reach // 2, 0)
    high_row = tl.minimum(window // columns - reach // 2 + reach, rows)
    high_column = tl.minimum(window % columns - reach // 2 + reach, columns)
    exists = (low_row + row < high_row) & (low_column + column < high_column)
    return frame, ((low_row + row) * columns + low_column + column) * HALVES + half, exists


@triton.jit
def _score(
    q_ptr, k_ptr, slots_ptr, out_ptr, q_blocks, heads, windows, entries, scale,
    rows, columns, reach, local_rows, local_columns,
    WIDTH: tl.constexpr, HALVES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Softmax probabilities of one row; -1 where there is no pair. Grid (q blocks, heads)."""
    block, head = tl.program_id(0), tl.program_id(1)
    row = (head * q_blocks + block).to(tl.int64)
    dims = tl.arange(0, WIDTH)
    q = tl.load(q_ptr + row * WIDTH + dims) * scale
    window = block % windows
    top = tl.full([], float("-inf"), tl.float32)
    total = tl.zeros([], tl.float32)
    for first in range(0, entries, BLOCK):
        e = first + tl.arange(0, BLOCK)
        frame, key, exists = _entry(e, window, rows, columns, reach, local_rows, local_columns, HALVES)
        exists = exists & (e < entries)
        slot = tl.load(slots_ptr + frame, mask=exists, other=0)
        number = (slot * heads + head).to(tl.int64) * (windows * HALVES) + key
        k = tl.load(k_ptr + number[:, None] * WIDTH + dims[None, :], mask=exists[:, None], other=0.0)
        s = tl.where(exists, tl.sum(k * q[None, :], 1), float("-inf"))
        tl.store(out_ptr + row * entries + e, s, mask=e < entries)
        higher = tl.maximum(top, tl.max(s, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(s - higher), 0)
        top = higher
    tl.debug_barrier()  # the scores written above are read back by other threads of this program
    for first in range(0, entries, BLOCK):
        e = first + tl.arange(0, BLOCK)
        s = tl.load(out_ptr + row * entries + e, mask=e < entries, other=float("-inf"))
        p = tl.where(s > float("-inf"), tl.exp(s - top) / total, -1.0)
        tl.store(out_ptr + row * entries + e, p, mask=e < entries)


@triton.jit
def _rank(p_ptr, out_ptr, count, rank, BLOCK: tl.constexpr):
    """The rank-th largest of ``count`` numbers (ranks from 1); 0 if fewer are not negative. Grid (groups).

    Non-negative floats order like their bits: 15 rounds fix two bits each, from bit 29 on; bit 30 is
    that of 2.0, which no probability reaches.
    """
    base = tl.program_id(0).to(tl.int64) * count
    found = tl.zeros([], tl.int32)
    for round in range(15):
        shift = 28 - 2 * round
        one = found | (1 << shift)
        two = found | (2 << shift)
        three = found | (3 << shift)
        n1 = tl.zeros([BLOCK], tl.int32)
        n2 = tl.zeros([BLOCK], tl.int32)
        n3 = tl.zeros([BLOCK], tl.int32)
        for first in range(0, count, BLOCK):
            at = first + tl.arange(0, BLOCK)
            bits = tl.load(p_ptr + base + at, mask=at < count, other=-1.0).to(tl.int32, bitcast=True)
            n1 += (bits >= one).to(tl.int32)
            n2 += (bits >= two).to(tl.int32)
            n3 += (bits >= three).to(tl.int32)
        found = tl.where(tl.sum(n1, 0) >= rank, one, found)
        found = tl.where(tl.sum(n2, 0) >= rank, two, found)
        found = tl.where(tl.sum(n3, 0) >= rank, three, found)
    tl.store(out_ptr + tl.program_id(0), found.to(tl.float32, bitcast=True))


@triton.jit
def _collect(
    p_ptr, threshold_ptr, slots_ptr, list_ptr, count_ptr, q_blocks, heads, windows, entries,
    rows, columns, reach, local_rows, local_columns,
    HALVES: tl.constexpr, ALL: tl.constexpr, STRICT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The list of one row. Grid (q blocks, heads)."""
    block, head = tl.program_id(0), tl.program_id(1)
    row = (head * q_blocks + block).to(tl.int64)
    window = block % windows
    count = tl.zeros([], tl.int32)
    if not ALL:
        threshold = tl.load(threshold_ptr + head * (q_blocks // windows) + block // windows)
    for first in range(0, entries, BLOCK):
        e = first + tl.arange(0, BLOCK)
        frame, key, keep = _entry(e, window, rows, columns, reach, local_rows, local_columns, HALVES)
        keep = keep & (e < entries)
        if not ALL:
            p = tl.load(p_ptr + row * entries + e, mask=e < entries, other=-1.0)
            keep = keep & ((p > threshold) if STRICT else (p >= threshold))
        slot = tl.load(slots_ptr + frame, mask=keep, other=0)
        number = (slot * heads + head) * (windows * HALVES) + key
        place = count + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(list_ptr + row * entries + place, number, mask=keep)
        count += tl.sum(keep.to(tl.int32), 0)
    tl.store(count_ptr + row, count)


def select_lists(
    q_means: Tensor,
    k_means: Tensor,
    slots: Tensor,
    locality: Locality,
    pairs: int | None,
    reference_quirks: bool,
) -> tuple[Tensor, Tensor]:
    """The key blocks of every query block, as numbers into the pool.

    q_means (H, q blocks, d); k_means (slots, H, n * halves, d), both float32; slots: int32, the window-frames
    that are visible, in time order. ``pairs``: budget per head and query window-frame, None for every
    visible pair. Returns lists (H, q blocks, entries) int32 and counts (H, q blocks) int32.
    """
    heads, q_blocks, width = q_means.shape
    windows = locality.rows * locality.columns
    entries = locality.entries(len(slots))
    device = q_means.device
    lists = torch.empty(heads, q_blocks, entries, dtype=torch.int32, device=device)
    counts = torch.empty(heads, q_blocks, dtype=torch.int32, device=device)
    grid_numbers = (locality.rows, locality.columns, locality.reach, locality.local_rows, locality.local_columns)
    probability, threshold = q_means, q_means
    if pairs is not None:
        probability = torch.empty(heads, q_blocks, entries, dtype=torch.float32, device=device)
        _score[(q_blocks, heads)](
            q_means, k_means, slots, probability, q_blocks, heads, windows, entries, width**-0.5, *grid_numbers,
            WIDTH=width, HALVES=locality.halves, BLOCK=64, num_warps=4,
        )  # fmt: skip
        groups = heads * (q_blocks // windows)
        threshold = torch.empty(groups, dtype=torch.float32, device=device)
        everything = windows * windows * len(slots) * locality.halves
        rank = min(everything - 1, pairs) + 1 if reference_quirks else pairs
        block = 4096 if windows * entries > 4096 else 1024
        _rank[(groups,)](probability, threshold, windows * entries, rank, BLOCK=block, num_warps=block // 256)
    _collect[(q_blocks, heads)](
        probability, threshold, slots, lists, counts, q_blocks, heads, windows, entries,
        *grid_numbers, HALVES=locality.halves, ALL=pairs is None, STRICT=reference_quirks, BLOCK=256,
        num_warps=4,
    )  # fmt: skip
    return lists, counts
