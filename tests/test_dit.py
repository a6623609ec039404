"""DiT and its block selection against the original's numbers."""

import pytest
import torch

from src.config import DiTConfig
from src.models.dit import DiT
from src.ops.attention import REFERENCE_AREA, Attention
from src.ops.block_mask import block_means, local_mask, pair_budget, select_blocks, visible_blocks
from src.state import KVCache
from tests.golden_data import assert_close, golden, load, manifest, weights

CONFIG = DiTConfig(dim=256, ffn_dim=320, freq_dim=64, text_dim=48, num_heads=2, num_layers=2)
# One float32 rounding per layer and summation order: the golden data itself is reproducible to 2e-6.
TOLERANCE = 1e-5
BLOCK = {"sage": 64, "block": 128}


def test_keys_and_shapes_are_the_checkpoints():
    with torch.device("meta"):
        state = DiT(DiTConfig()).state_dict()
    assert {k: list(v.shape) for k, v in state.items()} == manifest("dit")["tensors"]


@pytest.fixture(scope="module")
def dit():
    return load(DiT(CONFIG), weights("dit_weights"))


class Run:
    """One golden stream computed by ours: velocities, block masks in call order, caches."""

    def __init__(self, dit, name, variant):
        data, config = golden(name)
        base = golden("dit_stream")[0] if "in.latents" not in data else data
        height, width = config.get("image_size", (256, 256))
        self.masks: list[torch.Tensor] = []
        attention = Attention(
            kind=variant,
            sparse_ratio=config["topk_ratio"] * height * width / REFERENCE_AREA,
            local_range=config["local_range"],
            kv_len=int(config["kv_ratio"]),
            reference_quirks=True,
            observe=self.masks.append,
        )
        rows, columns = config["h"], config["w"]
        plan = attention.for_size(rows // 8, columns // 8, torch.device("cpu"))
        constants = dit.constants(base["in.context"])
        self.caches = [KVCache(attention.kv_len, 3, 1) for _ in dit.blocks]
        self.chunks = []
        first = 0
        for count in config["frames"]:
            tokens = None
            if "in.LQ_latents" in base:
                tokens = base["in.LQ_latents"][0, first * rows * columns : (first + count) * rows * columns]
            part = base["in.latents"][:, :, first : first + count]
            self.chunks.append(dit(part, tokens, constants, plan, self.caches, first))
            first += count


@pytest.mark.parametrize("variant", ["sage", "block"])
@pytest.mark.parametrize("name", ["dit_stream", "dit_stream_dense", "dit_stream_nonsquare"])
def test_stream_parity(dit, name, variant):
    expected = golden(name)[0]
    run = Run(dit, name, variant)
    checked = 0
    for key, value in expected.items():
        if not key.startswith(f"out.{variant}."):
            continue
        if key.endswith("noise_pred"):
            assert_close(torch.cat(run.chunks, dim=2), value, TOLERANCE)
        elif "noise_pred.chunk" in key:
            chunk = run.chunks[int(key[-1])]
            assert_close(chunk[:, :, ::2] if value.shape[2] * 2 == chunk.shape[2] else chunk, value, TOLERANCE)
        elif ".mask." in key:
            index = int(key.split("chunk")[1][0]) * len(dit.blocks) + int(key[-1])
            assert torch.equal(run.masks[index], value), key
        elif "cache_k" in key:
            cache = run.caches[1]
            slots = [cache.keys[:, s * 4 * 128 : (s + 1) * 4 * 128] for s in cache.order]
            tokens = torch.cat(slots, dim=1).transpose(0, 1).reshape(12, 128, 256)
            assert_close(tokens[:, 3::16, 1::4], value, TOLERANCE)
        elif "tokens_after_block0" not in key:
            continue
        checked += 1
    assert checked >= 3


def test_tokens_after_the_first_block(dit):
    from einops import rearrange

    seen = []
    handle = dit.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    try:
        Run(dit, "dit_stream", "sage")
    finally:
        handle.remove()
    tokens = rearrange(seen[0], "(f h w a b c) d -> (f a h b w c) d", f=3, h=2, w=2, a=2, b=8, c=8)
    assert_close(tokens[None, 5::48], golden("dit_stream")[0]["out.sage.tokens_after_block0.chunk0"], TOLERANCE)


def test_constants_parity(dit):
    data = golden("dit_stream")[0]
    constants = dit.constants(data["in.context"])
    assert_close(constants.t, data["out.t"], TOLERANCE)
    assert_close(constants.t_mod, data["out.t_mod"], TOLERANCE)
    assert_close(constants.cross_keys[0].transpose(0, 1).reshape(1, 11, 256), data["out.cross_k.block0"], TOLERANCE)
    assert_close(constants.cross_values[1].transpose(0, 1).reshape(1, 11, 256), data["out.cross_v.block1"], TOLERANCE)


def test_the_module_remembers_nothing(dit):
    before = {k: v.clone() for k, v in vars(dit).items() if isinstance(v, torch.Tensor)}
    names = set(vars(dit.blocks[0].self_attn))
    Run(dit, "dit_stream", "block")
    assert set(vars(dit.blocks[0].self_attn)) == names
    assert before == {}


# --------------------------------------------------------------------------- block masks

CASES = [case for case in golden("block_mask_unit")[1]["cases"] if "error" not in case]


def case_name(case):
    return f"{case['set']}.{case['variant']}.local{case['local_range']}.topk{case['topk']}"


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_masks_are_bit_equal(case):
    data = golden("block_mask_unit")[0]
    local = local_mask(*case["grid"], case["local_range"])
    assert torch.equal(local, data[f"out.{case['set']}.local{case['local_range']}"])
    block, windows = BLOCK[case["variant"]], local.shape[0]
    q, k = (data[f"in.{case['set']}.{x}_w"].reshape(-1, 2, 12).transpose(0, 1) for x in "qk")
    visible = visible_blocks(local, case["seqlen"], case["kv_groups"], 128 // block)
    mask = select_blocks(block_means(q, 128), block_means(k, block), visible, windows, case["topk"], True)
    expected = data[f"out.{case['set']}.{case['variant']}.local{case['local_range']}.topk{case['topk']}"]
    assert torch.equal(mask, expected)
    assert int(mask.sum()) == case["true_count"]


@pytest.mark.parametrize(("rows", "columns", "reach"), [(2, 3, 3), (5, 7, 3), (5, 7, 4)])
def test_local_masks(rows, columns, reach):
    expected = golden("dit_stream_nonsquare")[0][f"out.local_mask_{rows}x{columns}_range{reach}"]
    assert torch.equal(local_mask(rows, columns, reach), expected)


def test_budget_is_in_tokens_and_drops_nothing():
    assert pair_budget(6, 0.5, 128) == 18
    assert pair_budget(6, 0.5, 64) == 36, "64-token blocks must get twice as many, for as many tokens"
    assert pair_budget(6, 0.5, 128, reference_quirks=True) == pair_budget(6, 0.5, 64, reference_quirks=True) == 17


@pytest.mark.parametrize("block", [64, 128])
def test_a_large_budget_keeps_all_that_is_visible(block):
    data = golden("block_mask_unit")[0]
    q, k = (data[f"in.A.{x}_w"].reshape(-1, 2, 12).transpose(0, 1) for x in "qk")
    visible = visible_blocks(local_mask(2, 3, 3), 2, 3, 128 // block)
    mask = select_blocks(block_means(q, 128), block_means(k, block), visible, 6, 10**6)
    assert torch.equal(mask, visible.expand_as(mask))
    exact = select_blocks(block_means(q, 128), block_means(k, block), visible, 6, 20)
    assert exact.view(2, 2, -1).sum(-1).eq(20).all(), "exactly the budget, per head and window-frame"
