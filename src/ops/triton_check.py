"""Whether the Triton kernels compile here and give their twins' numbers: run once before they are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from src.ops import norms, triton_norms
from src.ops.attention import Attention
from src.ops.block_mask import local_mask, select_blocks, visible_blocks
from src.ops.convs import ConvOps
from src.ops.plan import QKNorm
from src.ops.pooled_attention import lists_to_mask
from src.ops.triton_select import Locality, select_lists

HEADS, WIDTH, ROWS, COLUMNS = 2, 128, 1, 2
# Relative L2. Norms: one rounding to 8 mantissa bits, at another place. Attention: INT8 scores of random
# queries and keys (1.5e-2 measured), or bf16 probabilities (2.3e-3 measured); twice that and more is a fault.
NORM_TOLERANCE = 1e-2
TOLERANCES = {("sage", False): 4e-2, ("sage", True): 5e-2, ("block", False): 1e-2}


def check_kernels(device: torch.device, dtype: torch.dtype) -> str | None:
    """None, or which kernel gives other numbers than its twin. Raises what Triton raises."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    dim = HEADS * WIDTH
    x, delta, gate, scale, shift = random(64, dim), random(64, dim), random(dim), random(dim), random(dim)
    pairs = {
        "residual_norm": (
            torch.cat(triton_norms.residual_norm(x.clone(), delta, gate, scale, shift, 1e-6)),
            torch.cat(norms.residual_norm(x, delta, gate, scale, shift, 1e-6)),
        ),
        "rms_norm": (triton_norms.rms_norm(x, scale, 1e-6), norms.rms_norm(x, scale, 1e-6)),
    }
    for name, (ours, twin) in pairs.items():
        if not _relative(ours, twin) < NORM_TOLERANCE:
            return f"{name} is {_relative(ours, twin):.1e} away from its twin"
    for name, (ours, twin) in _conv_pairs(random).items():
        if not _relative(ours, twin) < NORM_TOLERANCE:
            return f"{name} is {_relative(ours, twin):.1e} away from its twin"
    wrong = _wrong_pairs(device)
    if wrong:
        return f"the block selection differs from its twin's in {wrong} pairs"
    for (kind, int8_values), tolerance in TOLERANCES.items():
        error = _attention_error(kind, int8_values, random, device)
        if not error < tolerance:  # a NaN is an error too
            return f"{kind} attention{' to int8 values' * int8_values} is {error:.1e} away from its twin"
    return None


def _conv_pairs(random: Callable[..., Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """What stands between convolutions, by the kernels and by their twins."""
    x, y = (random(2, 96, 5, 7).contiguous(memory_format=torch.channels_last) for _ in range(2))
    tail = random(1, 192, 5, 7).contiguous(memory_format=torch.channels_last)
    gamma, bias = random(96), random(96)
    out: list[list[Tensor]] = []
    for ops in (ConvOps(triton=True), ConvOps()):
        own = tail.clone()
        results = [ops.norm_silu(x, gamma, bias), ops.shift_concat(x, y[:1]), ops.add_bias(x, y.clone(), bias)]
        out.append([*results, ops.advance(x, own, gamma, bias), own])
    names = ("norm_silu", "shift_concat", "add_bias", "advance", "advance's tail")
    return {name: (ours, twin) for name, ours, twin in zip(names, *out, strict=True)}


def _wrong_pairs(device: torch.device) -> int:
    """Pairs that only one of kernel and twin selects, beyond one per head at the threshold."""
    generator = torch.Generator().manual_seed(1)
    rows, columns, slots, windows = 2, 3, 3, 6
    q = torch.randn(HEADS, windows, WIDTH, generator=generator).to(device)
    k = torch.randn(slots, HEADS, 2 * windows, WIDTH, generator=generator).to(device)
    order = torch.tensor([2, 0, 1], dtype=torch.int32, device=device)
    lists, counts = select_lists(q, k, order, Locality(rows, columns, 3, 2), 20, False)
    visible = visible_blocks(local_mask(rows, columns, 3, device), 1, slots, 2)
    keys = k[order.long()].transpose(0, 1).flatten(1, 2)
    twin = select_blocks(q, keys, visible, windows, 20)
    differ = int((lists_to_mask(lists, counts, order, 2 * windows) != twin).sum())
    return 0 if differ <= 2 * HEADS else differ


def _attention_error(kind: str, int8_values: bool, random: Callable[..., Tensor], device: torch.device) -> float:
    """Largest relative error over two chunks of a stream, against exact attention to the same blocks."""
    twin = Attention(kind, sparse_ratio=None, local_range=3, kv_len=3)
    ours = replace(twin, kernels=True, int8_values=int8_values)
    plans = [attention.for_size(ROWS, COLUMNS, device) for attention in (ours, twin)]
    caches = [attention.new_caches(1, 3, 1)[0] for attention in (ours, twin)]
    worst = 0.0
    for window_frames in (3, 1):
        tokens = window_frames * ROWS * COLUMNS * 128
        q, k, v = (random(tokens, HEADS * WIDTH) for _ in range(3))
        weight = random(HEADS * WIDTH).abs()
        norm = QKNorm(weight, weight, 1e-6)
        angle = random(tokens, WIDTH // 2).float()
        rope = (angle.cos(), angle.sin())
        for plan, cache in zip(plans, caches, strict=True):
            plan.begin([cache], tokens, HEADS, q)
        out = [plan.attend(q, k, v, norm, rope, cache) for plan, cache in zip(plans, caches, strict=True)]
        error = _relative(*out)
        worst = error if error != error else max(worst, error)
    return worst


def _relative(ours: Tensor, twin: Tensor) -> float:
    return float((ours.float() - twin.float()).norm() / twin.float().norm())
