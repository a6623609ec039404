"""Block-sparse attention in plain PyTorch against masked dense attention."""

import pytest
import torch

from src.config import Options, SamplingConfig
from src.ops import sparse_attention as module
from src.ops.resolve import resolve_attention
from src.ops.sparse_attention import sparse_attention
from tests.golden_data import assert_close, golden


def exact(q, k, v, mask, block_k):
    """Softmax over the masked keys in float64; rows without keys give 0."""
    full = mask.repeat_interleave(128, dim=1).repeat_interleave(block_k, dim=2)
    scores = (q.double() @ k.double().transpose(1, 2)) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~full, float("-inf")).softmax(-1).nan_to_num(0)
    return weights @ v.double()


@pytest.mark.parametrize("name", ["d128", "d64"])
def test_golden_exact(name):
    data = golden("sparse_attention")[0]
    q, k, v = (data[f"in.{name}.{x}"][0] for x in "qkv")
    out = sparse_attention(q, k, v, data[f"in.{name}.mask"][0], 64)
    # Both float32; only the order of summation differs.
    assert_close(out[None], data[f"out.{name}.exact_f32"], 2e-6)


@pytest.mark.parametrize("block_k", [64, 128])
@pytest.mark.parametrize(("q_blocks", "k_blocks", "heads", "width"), [(1, 1, 1, 32), (3, 7, 2, 128), (5, 40, 3, 64)])
def test_equals_masked_dense(q_blocks, k_blocks, heads, width, block_k):
    torch.manual_seed(q_blocks * k_blocks)
    q = torch.randn(heads, q_blocks * 128, width)
    k, v = (torch.randn(heads, k_blocks * block_k, width) for _ in range(2))
    mask = torch.rand(heads, q_blocks, k_blocks) < torch.rand(heads, q_blocks, 1)
    mask[0, 0] = False  # a query block that sees nothing
    out = sparse_attention(q, k, v, mask, block_k)
    assert_close(out, exact(q, k, v, mask, block_k).float(), 1e-5)
    assert out[0, :128].eq(0).all()


def test_memory_bound_changes_nothing(monkeypatch):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 512, 64), torch.randn(2, 1024, 64), torch.randn(2, 1024, 64)
    mask = torch.rand(2, 4, 16) < 0.5
    whole = sparse_attention(q, k, v, mask, 64)
    monkeypatch.setattr(module, "_CPU_GATHER_BYTES", 1)  # one row at a time
    monkeypatch.setattr(module, "_MAX_GROUPS", 1)  # and every row padded to the longest
    assert_close(sparse_attention(q, k, v, mask, 64), whole, 1e-6)


def test_only_selected_blocks_are_read():
    q, k, v = torch.randn(1, 128, 32), torch.randn(1, 256, 32), torch.randn(1, 256, 32)
    k[:, 128:], v[:, 128:] = float("nan"), float("nan")
    mask = torch.tensor([[[True, False]]])
    assert sparse_attention(q, k, v, mask, 128).isfinite().all()


def test_columns_name_the_blocks():
    torch.manual_seed(1)
    q, k, v = torch.randn(2, 256, 32), torch.randn(2, 512, 32), torch.randn(2, 512, 32)
    order = torch.tensor([2, 0, 3])
    mask = torch.rand(2, 2, 3) < 0.7
    moved = [x.unflatten(1, (4, 128))[:, order].flatten(1, 2) for x in (k, v)]
    assert_close(sparse_attention(q, k, v, mask, 128, order), sparse_attention(q, *moved, mask, 128), 1e-6)


def test_bf16_on_the_cpu_stays_near():
    torch.manual_seed(2)
    q, k, v = (torch.randn(1, 512, 128) for _ in range(3))
    mask = torch.rand(1, 4, 4) < 0.7
    mask[:, :, 0] = True
    low = sparse_attention(*(x.bfloat16() for x in (q, k, v)), mask, 128).float()
    expected = exact(q, k, v, mask, 128).float()
    # Scores, probabilities and values each carry 8 mantissa bits.
    assert (low - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize(
    ("asked", "kind"), [("auto", "block"), ("sage", "sage"), ("block", "block"), ("dense", "dense")]
)
def test_resolved_once_and_logged(asked, kind, caplog):
    caplog.set_level("INFO")
    options = Options(attention=asked, sparse_ratio=1.5)
    attention = resolve_attention(options, SamplingConfig(), torch.device("cpu"), torch.float32)
    assert (attention.kind, attention.sparse_ratio, attention.local_range) == (kind, 1.5, 11)
    assert len(caplog.records) == 1
    assert kind in caplog.text
