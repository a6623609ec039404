"""Every kernel against its plain PyTorch twin, and attention against FlexAttention and dense attention.

    python -m benchmarks.ops [--size 768x1408]

A later chunk of a stream at that output size, 12 heads of 128, bf16. Medians in milliseconds; prints a table and one
JSON line. The twins are what runs where there is no kernel, not what the kernels were tuned against.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from src.ops import norms, triton_norms
from src.ops.block_mask import block_means, local_mask, pair_budget, select_blocks, visible_blocks
from src.ops.convs import ConvOps
from src.ops.pooled_attention import lists_to_mask
from src.ops.quantize import LOG2_E, quantise_blocks
from src.ops.sparse_attention import sparse_attention
from src.ops.triton_attention import attend_lists, launch_config, longest_first
from src.ops.triton_qkv import rotate_quantise
from src.ops.triton_select import Locality, select_lists

HEADS, WIDTH, FRAMES = 12, 128, 4
DEVICE = torch.device("cuda")


def bench(call: Callable[..., object], *arguments: Any, repeats: int = 20, **settings: Any) -> float:
    """Median device time of ``call(*arguments, **settings)`` in milliseconds."""
    for _ in range(3):
        call(*arguments, **settings)
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for begin, end in marks:
        begin.record()
        call(*arguments, **settings)
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in marks)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE, dtype=torch.bfloat16)


def attention(rows: int, columns: int, ratio: float) -> dict[str, float]:
    """One layer's attention over the same selection in every way there is."""
    windows, tokens = rows * columns, rows * columns * 128
    q, k, v = random(HEADS, tokens, WIDTH), random(HEADS, FRAMES * tokens, WIDTH), random(HEADS, FRAMES * tokens, WIDTH)
    k += 0.3 * random(HEADS, FRAMES * windows, 1, WIDTH).expand(-1, -1, 128, -1).flatten(1, 2)  # windows that differ
    result: dict[str, float] = {}
    slots = torch.arange(FRAMES, dtype=torch.int32, device=DEVICE)

    def pool(x: Tensor) -> Tensor:
        """(H, frames * tokens, ...) -> (frames, H, tokens, ...)"""
        return x.unflatten(1, (FRAMES, -1)).transpose(0, 1).contiguous()

    q8, q_scale = quantise_blocks(q, 128)
    for block in (64, 128):
        pairs = pair_budget(windows, ratio * 768 * 1280 / (tokens * 128), block)
        means = pool(block_means(k, block))
        q_means = block_means(q, 128)
        locality = Locality(rows, columns, 11, 128 // block)
        lists, counts = select_lists(q_means, means, slots, locality, pairs, False)
        order, config = longest_first(counts), launch_config(torch.cuda.get_device_capability(), block)
        mask = lists_to_mask(lists, counts, slots, windows * 128 // block)
        share = float(mask.float().mean())
        flops = 4 * WIDTH * 128 * block * float(counts.sum())
        if block == 64:
            k8, k_scale = quantise_blocks(k, block)
            arguments: tuple[Any, ...] = (q8, q_scale * WIDTH**-0.5 * LOG2_E, pool(k8), pool(k_scale), pool(v))
        else:
            arguments = (q, None, pool(k), None, pool(v))
        name = f"{'sage int8' if block == 64 else 'block bf16'}, {share:.1%} selected"

        result[name] = bench(attend_lists, *arguments, lists, counts, order, block, config)
        if block == 64:
            v8, v_scale = quantise_blocks(v, 1)
            settings = (lists, counts, order, block, config, pool(v_scale), v.dtype)
            result[f"{name}, int8 values"] = bench(attend_lists, *arguments[:4], pool(v8), *settings)
        result[f"{name}: TFLOP/s"] = flops / result[name] / 1e9
        result[f"{name}: twin"] = bench(sparse_attention, q, k, v, mask, block, repeats=3)
        result[f"selection, {block} tokens"] = bench(select_lists, q_means, means, slots, locality, pairs, False)
        visible = visible_blocks(local_mask(rows, columns, 11, DEVICE), 1, FRAMES, 128 // block)
        k_means = block_means(k, block)
        result[f"selection, {block} tokens: twin"] = bench(select_blocks, q_means, k_means, visible, windows, pairs)
        if block == 128:
            result |= _flex(q, k, v, mask)
    result["dense SDPA (every token)"] = bench(F.scaled_dot_product_attention, q[None], k[None], v[None])
    return result


def _flex(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> dict[str, float]:
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    counts = mask.sum(-1, dtype=torch.int32)[None]
    indices = mask.to(torch.uint8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)[None].contiguous()
    block_mask = BlockMask.from_kv_blocks(
        torch.zeros_like(counts), torch.zeros_like(indices), counts, indices, BLOCK_SIZE=(128, 128)
    )
    compiled = torch.compile(flex_attention)
    time = bench(compiled, q[None], k[None], v[None], block_mask=block_mask)
    return {"FlexAttention bf16, the same 128-token blocks": time}


def others(rows: int, columns: int) -> dict[str, float]:
    """The kernels around the matrix products and convolutions."""
    tokens, dim = rows * columns * 128, HEADS * WIDTH
    x, delta, (gate, scale, shift) = random(tokens, dim), random(tokens, dim), random(3, dim)
    angle = torch.randn(tokens, WIDTH // 2, device=DEVICE)
    rope = (angle.cos(), angle.sin())
    keys = torch.empty(HEADS, tokens, WIDTH, dtype=torch.int8, device=DEVICE)
    scales = torch.empty(HEADS, tokens // 64, device=DEVICE)
    means = torch.empty(HEADS, tokens // 64, WIDTH, device=DEVICE)

    def prepare() -> None:
        rotate_quantise(x, triton_norms.rstd(x, 1e-6), scale, rope, 64, keys, scales, means)

    def prepare_twin() -> None:
        heads = norms.rms_norm(x, scale, 1e-6).unflatten(1, (HEADS, WIDTH)).transpose(0, 1)
        rotated = norms.rotate(heads, rope)
        block_means(rotated, 64)
        quantise_blocks(rotated, 64)

    picture, past = (
        random(n, 128, rows * 64, columns * 64).contiguous(memory_format=torch.channels_last) for n in (4, 1)
    )
    gamma, bias = random(2, 128)
    plain, fused = ConvOps(), ConvOps(cudnn=True, triton=True)
    conv = torch.nn.Conv2d(128, 128, 3, padding=1).to(DEVICE, torch.bfloat16).requires_grad_(False)
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
    result: dict[str, float] = {}
    arguments = (x, delta, gate, scale, shift, 1e-6)
    result["residual + gate + norm"] = bench(triton_norms.residual_norm, *arguments)
    result["residual + gate + norm: twin"] = bench(norms.residual_norm, *arguments)
    result["norm + RoPE + INT8"] = bench(prepare)
    result["norm + RoPE + INT8: twin"] = bench(prepare_twin)
    for kind, ops in (("", fused), (": twin", plain)):
        result[f"norm + SiLU{kind}"] = bench(ops.norm_silu, picture, gamma, bias)
        result[f"shift + concat{kind}"] = bench(ops.shift_concat, picture, past)
        result[f"conv + sum + ReLU{kind}"] = bench(ops.conv_relu, picture, conv, picture)
    return result


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="768x1408", help="HEIGHTxWIDTH, multiples of 128")
    arguments = parser.parse_args()
    rows, columns = (int(side) // 128 for side in arguments.size.split("x"))
    result: dict[str, float] = {}
    for ratio in (1.0, 2.0):
        result |= attention(rows, columns, ratio)
    result |= others(rows, columns)
    for name, value in result.items():
        print(f"{name:60} {value:10.3f}")
    about = {"size": arguments.size, "device": torch.cuda.get_device_name(), "torch": torch.__version__}
    print(json.dumps(about | {"date": datetime.date.today().isoformat()} | {k: round(v, 4) for k, v in result.items()}))


if __name__ == "__main__":
    main()
