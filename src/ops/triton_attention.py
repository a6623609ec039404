"""Triton kernel: attention of query blocks over lists of selected key blocks.

The lists name blocks of a pool of keys and values (``src.state.KVPool``), so nothing is gathered, masked or
concatenated, and a key block that nobody selected costs nothing. Twin: ``src.ops.sparse_attention``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from src.ops.quantize import LOG2_E
from src.ops.sparse_attention import QUERY_BLOCK


def launch_config(capability: tuple[int, int], block_k: int) -> tuple[int, int]:
    """Warps and pipeline stages for a card of this compute capability.

    Measured on an H100 (bf16 values, 22.7 % of the blocks of 8448 x 33792 tokens, 12 heads of 128), ms:
    64-token int8 keys: 4 warps x 2, 3, 4 stages 0.622, 0.620, 0.623; 8 warps 0.912, 0.864, 0.864. 128-token bf16
    keys: 4 warps 1.203, 1.808, 1.784; 8 warps 0.863, 0.821, 0.822. Two 64-token blocks a step are slower
    (0.80 at best), and so are float8 values for their loss of accuracy (0.604).
    Three stages of 128 tokens take 160 KiB of shared memory; only Hopper and the large Blackwells have it.
    """
    return (4 if block_k == 64 else 8), (3 if capability[0] in (9, 10) else 2)


@triton.jit
def _attend(
    q_ptr,
    q_scale_ptr,
    k_ptr,
    k_scale_ptr,
    v_ptr,
    v_scale_ptr,
    list_ptr,
    count_ptr,
    order_ptr,
    out_ptr,
    q_blocks,
    length,
    list_stride,
    out_stride,
    scale,
    WIDTH: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    INT8: tl.constexpr,
    INT8_V: tl.constexpr,
):
    """One query block of one head. Grid (heads * q blocks)."""
    row = tl.load(order_ptr + tl.program_id(0))
    block, head = row % q_blocks, row // q_blocks
    rows = tl.arange(0, BLOCK_Q)
    dims = tl.arange(0, WIDTH)
    keys = tl.arange(0, BLOCK_K)
    q_base = (head.to(tl.int64) * length + block * BLOCK_Q) * WIDTH
    q = tl.load(q_ptr + q_base + rows[:, None] * WIDTH + dims[None, :])
    count = tl.load(count_ptr + row)
    if INT8:
        scale = tl.load(q_scale_ptr + row)  # holds 1 / sqrt(d) * log2(e)
    top = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, WIDTH], tl.float32)
    entries = list_ptr + row.to(tl.int64) * list_stride
    for index in range(0, count):
        chosen = tl.load(entries + index).to(tl.int64)
        base = chosen * (BLOCK_K * WIDTH)
        k = tl.load(k_ptr + base + dims[:, None] + keys[None, :] * WIDTH)
        if INT8:
            s = tl.dot(q, k, out_dtype=tl.int32).to(tl.float32)
            factor = scale * tl.load(k_scale_ptr + chosen)
        else:
            s = tl.dot(q, k)
            factor = scale
        higher = tl.maximum(top, tl.max(s, 1) * factor)
        p = tl.math.exp2(s * factor - higher[:, None])
        decay = tl.math.exp2(top - higher)
        total = total * decay + tl.sum(p, 1)
        v = tl.load(v_ptr + base + keys[:, None] * WIDTH + dims[None, :])
        if INT8_V:
            p = p * tl.load(v_scale_ptr + chosen * BLOCK_K + keys)[None, :]
            v = v.to(out_ptr.dtype.element_ty)
        acc = tl.dot(p.to(v.dtype), v, acc * decay[:, None])
        top = higher
    acc = acc / tl.where(total > 0, total, 1.0)[:, None]  # an empty list leaves zeros
    where = out_ptr + (block * BLOCK_Q + rows[:, None]).to(tl.int64) * out_stride + head * WIDTH + dims[None, :]
    tl.store(where, acc.to(out_ptr.dtype.element_ty))


def attend_lists(
    q: Tensor,
    q_scale: Tensor | None,
    keys: Tensor,
    k_scale: Tensor | None,
    values: Tensor,
    lists: Tensor,
    counts: Tensor,
    order: Tensor,
    block_k: int,
    config: tuple[int, int],
    v_scale: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Softmax attention of every query block over the key blocks of its list.

    q (H, Lq, d) int8 with ``q_scale`` (H, Lq / 128), which holds 1 / sqrt(d) * log2(e), or floating;
    keys, values: any number of blocks of (block_k, d), contiguous; ``k_scale`` one number per block.
    lists (H, Lq / 128, M) int32: block numbers; counts (H, Lq / 128) int32: how many of them.
    order (H * Lq / 128) int32: the rows of ``counts`` as they are to be computed (see ``longest_first``).
    ``config``: see ``launch_config``. ``v_scale``: one number per token of int8 values. Returns (Lq, H * d) in
    ``dtype``, by default that of the values; rows of a query block with
    an empty list are 0.
    """
    heads, length, width = q.shape
    q_blocks = length // QUERY_BLOCK
    warps, stages = config
    out = torch.empty(length, heads * width, dtype=dtype or values.dtype, device=values.device)
    int8 = q_scale is not None and k_scale is not None
    int8_values = v_scale is not None
    _attend[(q_blocks * heads,)](
        q, q_scale if int8 else q, keys, k_scale if int8 else q, values, v_scale if int8_values else q,
        lists, counts, order, out, q_blocks, length, lists.stride(1), out.stride(0), width**-0.5 * LOG2_E,
        WIDTH=width, BLOCK_Q=QUERY_BLOCK, BLOCK_K=block_k, INT8=int8, INT8_V=int8_values,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


def longest_first(counts: Tensor) -> Tensor:
    """Rows of counts (H, q blocks) in descending order: a long list that starts late keeps the whole card waiting."""
    return counts.flatten().argsort(descending=True).to(torch.int32)
