"""The Triton kernels against their plain PyTorch twins, run by Triton's interpreter on the CPU."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton exists for Linux only; elsewhere nothing imports its kernels")

from src.ops import norms, triton_convs, triton_norms
from src.ops.attention import Attention
from src.ops.block_mask import block_means, local_mask, select_blocks, visible_blocks
from src.ops.convs import ConvOps, advance, norm_silu
from src.ops.plan import QKNorm
from src.ops.pooled_attention import lists_to_mask
from src.ops.quantize import LOG2_E, dequantise_blocks, quantise_blocks
from src.ops.resolve import why_no_triton
from src.ops.sparse_attention import sparse_attention
from src.ops.triton_attention import attend_lists, longest_first
from src.ops.triton_check import check_kernels
from src.ops.triton_qkv import rotate_quantise, store_values
from src.ops.triton_select import Locality, select_lists
from src.state import KVPool
from tests.golden_data import assert_close, golden
from tests.tiny_models import CPU, clip, run, tiny_pipeline

CONFIG = (4, 2)  # warps and stages mean nothing to the interpreter


def relative(ours, twin):
    return float((ours.float() - twin.float()).norm() / twin.float().norm())


def lists_of(mask):
    """A block mask (H, q blocks, k blocks) as lists of block numbers of a pool (1, H, k blocks)."""
    heads, _, k_blocks = mask.shape
    counts = mask.sum(-1).int()
    lists = mask.byte().argsort(dim=-1, descending=True, stable=True) + torch.arange(heads)[:, None, None] * k_blocks
    return lists.int().contiguous(), counts


# --------------------------------------------------------------------------- golden data


@pytest.mark.parametrize("name", ["d128", "d64"])
def test_quantisation_is_the_originals(name):
    data = golden("sparse_attention")[0]
    q, k = (data[f"in.{name}.{x}"][0] for x in "qk")
    q8, q_scale = quantise_blocks(q * (q.shape[-1] ** -0.5 * LOG2_E), 128)
    k8, k_scale = quantise_blocks(k - data[f"out.{name}.km"][0], 64)
    assert torch.equal(q8, data[f"out.{name}.q_int8"][0])
    assert torch.equal(k8, data[f"out.{name}.k_int8"][0])
    assert_close(q_scale, data[f"out.{name}.q_scale"][0], 1e-8)
    assert_close(k_scale, data[f"out.{name}.k_scale"][0], 1e-7)


@pytest.mark.parametrize("name", ["d128", "d64"])
def test_attention_over_int8_is_the_originals(name):
    data = golden("sparse_attention")[0]
    q8, k8 = (data[f"out.{name}.{x}_int8"][0] for x in "qk")
    scales = [data[f"out.{name}.{x}_scale"][0].contiguous() for x in "qk"]
    lists, counts = lists_of(data[f"in.{name}.mask"][0])
    v = data[f"in.{name}.v"][0].contiguous()
    out = attend_lists(q8, scales[0], k8, scales[1], v, lists, counts, longest_first(counts), 64, CONFIG)
    expected = data[f"out.{name}.kernel_f32"][0].transpose(0, 1).flatten(1)
    # The original rounds probabilities and values to float16, ours stay float32 here.
    assert_close(out, expected, 1e-3)
    assert out.view(-1, 2, q8.shape[-1])[128:, 0].eq(0).all(), "the query block without keys"


# --------------------------------------------------------------------------- twins


def test_every_kernel_passes_its_own_check():
    assert check_kernels(CPU, torch.float32) is None


def test_the_check_sees_a_wrong_kernel(monkeypatch):
    monkeypatch.setattr(triton_norms, "rms_norm", lambda x, weight, eps: x * 1.02)
    assert "rms_norm" in check_kernels(CPU, torch.float32)


def test_no_kernels_for_a_cpu():
    assert "cpu" in why_no_triton(CPU, torch.bfloat16)


@pytest.mark.parametrize("width", [1, 96, 130])
@pytest.mark.parametrize(("delta", "gate"), [(False, False), (True, False), (True, True)])
def test_residual_norm(width, delta, gate):
    torch.manual_seed(width)
    x, d = torch.randn(7, width), torch.randn(7, width)
    vectors = [torch.randn(width) for _ in range(3)]
    arguments = (d if delta else None, vectors[0] if gate else None, *vectors[1:], 1e-6)
    for ours, twin in zip(
        triton_norms.residual_norm(x.clone(), *arguments), norms.residual_norm(x, *arguments), strict=True
    ):
        assert_close(ours, twin, 2e-6)
    assert_close(triton_norms.rms_norm(x, vectors[1], 1e-6), norms.rms_norm(x, vectors[1], 1e-6), 2e-6)


@pytest.mark.parametrize("block", [64, 128])
def test_keys_and_values_go_where_the_table_says(block):
    torch.manual_seed(0)
    heads, width, tokens, slots = 2, 64, 256, torch.tensor([3, 0], dtype=torch.int32)
    x = torch.randn(2 * tokens, 3 * heads * width)[:, heads * width : 2 * heads * width]  # a slice of a wider matrix
    weight, angle = torch.rand(heads * width) + 0.5, torch.randn(2 * tokens, width // 2)
    rope, blocks = (angle.cos(), angle.sin()), tokens // block
    pool = torch.full((4, heads, tokens, width), 99, dtype=torch.int8)
    scales, means = torch.zeros(4, heads, blocks), torch.zeros(4, heads, blocks, width)
    smooth = torch.randn(heads, width)
    factors = triton_norms.rstd(x, 1e-6)
    where = {"slots": slots, "frame_blocks": blocks}
    rotate_quantise(x, factors, weight, rope, block, pool, scales, means, smooth=smooth, **where)
    twin = norms.rotate(norms.rms_norm(x, weight, 1e-6).view(-1, heads, width).transpose(0, 1), rope)

    def stored(tensor):
        return tensor[slots.long()].transpose(0, 1).flatten(1, 2)

    assert_close(stored(means), block_means(twin, block), 1e-6)
    expected, expected_scales = quantise_blocks(twin - smooth[:, None], block)
    assert torch.equal(stored(pool), expected)
    assert_close(stored(scales), expected_scales, 1e-7)
    assert pool[1:3].eq(99).all(), "slots that the table does not name stay as they were"
    restored = dequantise_blocks(expected, expected_scales) + smooth[:, None]
    assert relative(restored, twin) < 2e-2  # a third of a step of 1/127 of a block's largest number, 4 to 5 sigma
    values = torch.zeros(4, heads, tokens, width)
    store_values(x, values, None, slots, block)
    expected = x.reshape(-1, heads, width).transpose(0, 1)
    assert torch.equal(stored(values), expected)
    values8, value_scales = values.to(torch.int8), torch.zeros(4, heads, tokens)
    store_values(x, values8, value_scales, slots, block)
    twin8, twin_scales = quantise_blocks(expected, 1)
    assert torch.equal(stored(values8), twin8)
    assert_close(stored(value_scales), twin_scales, 1e-7)
    assert relative(dequantise_blocks(twin8, twin_scales), expected) < 1e-2


@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize(("rows", "columns", "reach"), [(3, 2, 1), (3, 2, 4), (2, 3, 11), (1, 1, 3)])
@pytest.mark.parametrize("pairs", [None, 1, 7, 10**6])
@pytest.mark.parametrize("quirks", [False, True])
def test_selection(rows, columns, reach, halves, pairs, quirks):
    torch.manual_seed(rows * reach)
    heads, width, windows, order = 2, 16, rows * columns, torch.tensor([2, 0], dtype=torch.int32)
    q = torch.randn(heads, 2 * windows, width)
    k = torch.randn(3, heads, windows * halves, width)
    lists, counts = select_lists(q, k, order, Locality(rows, columns, reach, halves), pairs, quirks)
    visible = visible_blocks(local_mask(rows, columns, reach), 2, 2, halves)
    keys = k[order.long()].transpose(0, 1).flatten(1, 2)
    twin = visible.expand(heads, -1, -1) if pairs is None else select_blocks(q, keys, visible, windows, pairs, quirks)
    assert torch.equal(lists_to_mask(lists, counts, order, windows * halves), twin)
    assert torch.equal(counts, twin.sum(-1).int())


@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize(("q_blocks", "k_blocks", "width"), [(1, 1, 64), (3, 5, 128)])
def test_attention_over_lists(q_blocks, k_blocks, width, block):
    torch.manual_seed(q_blocks)
    q = torch.randn(2, q_blocks * 128, width)
    k, v = (torch.randn(2, k_blocks * block, width) for _ in range(2))
    mask = torch.rand(2, q_blocks, k_blocks) < 0.6
    mask[0, 0], mask[1, -1] = False, True
    lists, counts = lists_of(mask)
    twin = sparse_attention(q, k, v, mask, block).transpose(0, 1).flatten(1)
    order = longest_first(counts)
    assert counts.flatten()[order.long()].diff().le(0).all()
    exact = attend_lists(q, None, k, None, v, lists, counts, order, block, CONFIG)
    assert_close(exact, twin, 2e-6)
    q8, q_scale = quantise_blocks(q, 128)
    k8, k_scale = quantise_blocks(k, block)
    scale = q_scale * width**-0.5 * LOG2_E
    ours = attend_lists(q8, scale, k8, k_scale, v, lists, counts, order, block, CONFIG)
    restored = (dequantise_blocks(q8, q_scale), dequantise_blocks(k8, k_scale))
    twin = sparse_attention(*restored, v, mask, block).transpose(0, 1).flatten(1)
    assert_close(ours, twin, 2e-5)  # the same int8 numbers: only float32 rounding is left
    v8, v_scale = quantise_blocks(v, 1)
    settings = (lists, counts, order, block, CONFIG, v_scale, torch.float32)
    twin = sparse_attention(*restored, dequantise_blocks(v8, v_scale), mask, block).transpose(0, 1).flatten(1)
    assert_close(attend_lists(q8, scale, k8, k_scale, v8, *settings), twin, 2e-5)


@pytest.mark.parametrize("channels", [3, 96])
def test_conv_ops(channels):
    torch.manual_seed(0)
    plain, fused = ConvOps(), ConvOps(triton=True)
    x, past, y = (torch.randn(n, channels, 5, 7).contiguous(memory_format=torch.channels_last) for n in (3, 1, 3))
    gamma, bias = torch.randn(channels), torch.randn(channels)
    assert torch.equal(fused.shift_concat(x, past), plain.shift_concat(x, past))
    assert_close(fused.norm_silu(x, gamma, bias), plain.norm_silu(x, gamma, bias), 2e-6)
    assert_close(fused.add_bias(x, y.clone(), bias), plain.add_bias(x, y.clone(), bias), 2e-6)
    tail = torch.randn(1, 2 * channels, 5, 7).contiguous(memory_format=torch.channels_last)
    tails = [tail.clone(), tail.clone()]
    for settings in ((gamma, bias), (gamma, None), (None, None)):
        out = [ops.advance(x, tail, *settings) for ops, tail in zip((fused, plain), tails, strict=True)]
        assert_close(*out, 2e-6)
        assert_close(*tails, 2e-6)
    zeros = torch.zeros(4, channels)
    assert triton_convs.norm_silu(zeros, gamma).eq(0).all(), "a pixel of zeros has a norm"
    assert norm_silu(zeros, gamma).eq(0).all()


def test_history_is_two_frames_and_this_one():
    x, tail, out = torch.tensor([[5.0]]), torch.tensor([[3.0, 4.0]]), torch.zeros(1, 3)
    advance(x, tail, out, None, None)
    assert out.tolist() == [[3, 4, 5]]
    assert tail.tolist() == [[4, 5]]


# --------------------------------------------------------------------------- the pool


def test_one_free_slot_wanders_through_the_layers():
    pool, like = KVPool(layers=3, kv_len=2, first_window_frames=3, later_window_frames=1), torch.zeros(0, 8)
    held = []
    for chunk in range(50):
        pool.begin(3 if chunk == 0 else 1, 2, 128, 4, 64, True, like)
        table = pool.tensors().table
        for layer, row in enumerate(table.tolist()):
            others = [slot for other, order in enumerate(pool.orders) if other > layer for slot in order[:-1]]
            assert len(set(row)) == len(row), "a window-frame has a slot of its own"
            assert not set(row) & set(others) or chunk == 0, "nothing that a later layer still reads is overwritten"
        pool.layers_done = 3
        held.append((sum(len(order) for order in pool.orders), len(pool.free), pool.tensors().keys.data_ptr()))
    assert pool.slots == 3 * 2 + 1
    assert len(set(held[1:])) == 1


def test_a_stream_that_broke_off_says_so():
    pool, like = KVPool(layers=2, kv_len=3, first_window_frames=3, later_window_frames=1), torch.zeros(0, 8)
    pool.begin(3, 2, 128, 4, 64, True, like)
    pool.layers_done = 1
    with pytest.raises(RuntimeError, match="layer 1"):
        pool.begin(1, 2, 128, 4, 64, True, like)


def test_a_cache_of_another_backend_is_refused():
    plain = Attention("block", sparse_ratio=None, local_range=3, kv_len=3)
    fused = replace(plain, kernels=True)
    x, norm = torch.zeros(128, 64), QKNorm(torch.ones(64), torch.ones(64), 1e-6)
    rope = (torch.ones(128, 16), torch.zeros(128, 16))
    for ours, other in ((plain, fused), (fused, plain)):
        cache = other.new_caches(1, 3, 1)[0]
        with pytest.raises(TypeError, match="another attention"):
            ours.for_size(1, 1, CPU).attend(x, x, x, norm, rope, cache)


# --------------------------------------------------------------------------- whole streams


# Only attention runs in kernels here: the interpreter takes a millisecond for every token of the others.


@pytest.mark.parametrize(("kind", "tolerance", "values"), [("block", 1e-5, False), ("sage", 2e-4, True)])
def test_a_stream_with_kernels_equals_one_without(kind, tolerance, values):
    masks = {True: [], False: []}
    frames, out = clip(22, 32, 33), {}
    for kernels in (True, False):
        attention = Attention(
            kind,
            sparse_ratio=0.02,
            local_range=3,
            kv_len=3,
            kernels=kernels,
            int8_values=values,
            observe=masks[kernels].append,
        )
        out[kernels] = run(tiny_pipeline(attention=attention), frames)
    assert_close(out[True], out[False], tolerance)  # sage: INT8 scores, whose share in these small models is little
    assert all(torch.equal(a, b.expand_as(a)) for a, b in zip(masks[True], masks[False], strict=True))
    assert any(not mask.all() for mask in masks[True]), "the budget must bind"


def test_two_interleaved_streams_with_kernels():
    attention = Attention("sage", sparse_ratio=2.0, local_range=3, kv_len=3, kernels=True)
    pipeline = tiny_pipeline(attention=attention)
    clips = [clip(22, 32, 32, seed=s) for s in (1, 2)]
    alone = run(pipeline, clips[0])
    streams = [pipeline.stream(frames, 32, 32) for frames in clips]
    parts = [[], []]
    for a, b in zip(*streams, strict=True):
        parts[0].append(a)
        parts[1].append(b)
    assert torch.equal(torch.cat(parts[0]), alone)
    assert not torch.equal(torch.cat(parts[1]), alone)
