"""Which key blocks a query window sees: locality, and a budget of the best-scoring pairs.

H heads, n windows per window-frame, r key blocks per window (1 of 128 tokens or 2 of 64).
Query blocks and key blocks are numbered (window-frame, row, column[, half]).
"""

from __future__ import annotations

import torch
from torch import Tensor


def local_mask(rows: int, columns: int, local_range: int, device: torch.device | None = None) -> Tensor:
    """(n, n) bool: which window sees which in a grid of rows x columns windows.

    A window sees ``local_range`` rows and columns from its own minus local_range // 2 on; at the
    borders the range is cut, not shifted; an even range is asymmetric, as the model was trained.
    """

    def near(count: int) -> Tensor:
        position = torch.arange(count, device=device)
        offset = position[None, :] - position[:, None] + local_range // 2
        return (offset >= 0) & (offset < local_range)

    seen = near(rows)[:, None, :, None] & near(columns)[None, :, None, :]
    return seen.reshape(rows * columns, rows * columns)


def pair_budget(windows: int, topk_ratio: float, block_k: int, reference_quirks: bool = False) -> int:
    """(query block, key block) pairs that a head may keep per query window-frame.

    ``topk_ratio`` counts pairs of 128 x 128 tokens relative to n^2. Key blocks of 64 tokens get twice
    as many, so that both variants attend to the same number of tokens. The original drops one
    pair and gives 64-token blocks no more than 128-token ones: ``reference_quirks``.
    """
    pairs = int(windows * windows * topk_ratio)
    return pairs - 1 if reference_quirks else pairs * (128 // block_k)


def block_means(tokens: Tensor, block: int) -> Tensor:
    """(H, L, d) -> (H, L / block, d): mean over each block of consecutive tokens, in float32."""
    return tokens.unflatten(1, (-1, block)).mean(2, dtype=torch.float32)


def select_blocks(
    q_means: Tensor, k_means: Tensor, visible: Tensor, windows: int, pairs: int, reference_quirks: bool = False
) -> Tensor:
    """(H, q blocks, k blocks) bool: the visible pairs of highest probability.

    q_means (H, g * n, d), k_means (H, s * n * r, d), visible (g * n, s * n * r), windows n. Per head
    and query window-frame the softmax probabilities of all its pairs compete for ``pairs`` places. A query
    block may end up with no key block: its attention is 0. With ``reference_quirks`` the comparison with
    the (pairs + 1)-th largest is strict, as in the original, which can drop one visible pair more.
    """
    heads, q_blocks, width = q_means.shape
    scores = q_means.float() @ k_means.float().transpose(1, 2) / width**0.5
    probability = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    pooled = probability.view(heads, q_blocks // windows, -1)  # (H, g, n * k blocks)
    count = pooled.shape[-1]
    if pairs <= 0:
        return torch.zeros_like(probability, dtype=torch.bool)
    if reference_quirks:
        threshold = pooled.topk(min(count - 1, pairs) + 1, dim=-1).values[..., -1:]
        return (pooled > threshold).view_as(probability)
    threshold = pooled.topk(min(count, pairs), dim=-1).values[..., -1:]
    return (pooled >= threshold).view_as(probability) & visible


def visible_blocks(local: Tensor, q_window_frames: int, k_window_frames: int, halves: int = 1) -> Tensor:
    """(g * n, s * n * halves) bool: the local mask for every pair of window-frames.

    ``halves``: key blocks per window (2 for 64-token blocks).
    """
    return local.repeat_interleave(halves, dim=1).repeat(q_window_frames, k_window_frames)
