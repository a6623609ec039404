"""The cost model and the choice of a placement: pure arithmetic, so every size can be asked for."""

import dataclasses

import pytest
import torch

from src.config import NANO_CONFIG, ModelConfig, Options
from src.device import is_out_of_memory, limit_memory, memory_budget
from src.errors import DeviceError, InputError
from src.ladder import choose, ladder, next_lower, wished
from src.memory import FACTORS, GIB, Job, Placement, estimate, weight_bytes
from src.models.dit import DiT
from src.models.lq_projector import LQProjector
from src.models.tcdecoder import TCDecoder
from src.models.vae import WanVAE
from src.ui.presets import preset_values

FREE = frozenset[str]()
PLENTY = 10**15


def job(width: int, height: int, mode: str = "tiny", config: ModelConfig | None = None, element: int = 2) -> Job:
    return Job(
        config=config or ModelConfig(),
        mode=mode,
        out_height=height,
        out_width=width,
        element=element,
        key_element=element,
        pooled=True,
        lq_element=element,
        kv_len=3,
        latents_at_once=1 if mode == "full" else 2,
        kind="cuda",
    )


@pytest.mark.parametrize("config", [ModelConfig(), NANO_CONFIG])
@pytest.mark.parametrize("mode", ["tiny", "full"])
def test_weights_are_counted_right(config, mode):
    """Against the real modules, built without memory."""
    if mode == "full" and config.vae is None:
        return
    with torch.device("meta"):
        dit, projector = DiT(config.dit), LQProjector(config.projector)
        decoder = WanVAE(config.vae, encoder=False) if mode == "full" else TCDecoder(config.tcdecoder)

    def count(module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    parts = weight_bytes(config, mode, 1)
    assert parts["blocks"] == pytest.approx(count(dit.blocks), rel=0.01)
    assert parts["blocks"] + parts["dit"] == pytest.approx(count(dit), rel=0.02)
    assert parts["projector"] == pytest.approx(count(projector), rel=0.01)
    assert count(decoder) * 0.95 <= parts["decoder"] <= count(decoder) * 1.6, "upsampling kernels are kept twice"


def test_more_of_anything_needs_more():
    small, large = (estimate(job(*size), Placement()).device for size in ((640, 384), (1920, 1080)))
    assert small < large
    base = estimate(job(1920, 1080), Placement()).device
    for better in (
        Placement(latents_at_once=1),
        Placement(decoder_tile=512, park=True),
        Placement(weights="blocks"),
        Placement(tile=512, park=True),
    ):
        assert estimate(job(1920, 1080), better).device <= base
    parked = estimate(job(1920, 1080), Placement(tile=512, park=True, weights="blocks"))
    assert parked.ram > estimate(job(1920, 1080), Placement(weights="blocks")).ram > 0


def test_the_ladder_starts_fast_and_ends_small():
    needs = [estimate(job(3840, 2160), rung).device for rung in ladder(job(3840, 2160), Placement(), FREE)]
    assert needs[0] == max(needs[:4])
    assert needs[-1] == min(needs)


@pytest.mark.parametrize(
    ("size", "budget"),
    [((1280, 720), 6), ((1920, 1080), 8), ((3840, 2160), 24), ((1280, 720), 80), ((7680, 4320), 80)],
)
@pytest.mark.parametrize("mode", ["tiny", "full"])
def test_what_cards_should_do_is_planned(size, budget, mode):
    placement, need = choose(job(*size, mode), Placement(), FREE, budget * GIB, PLENTY)
    assert need.device <= budget * GIB
    if budget == 80 and size == (1280, 720):
        assert placement == Placement(), "a large card gives up nothing"


def test_wishes_are_kept_on_every_rung():
    wish, fixed = wished(True, 256, 16, True, "resident", 4)
    assert wish == Placement(tile=1024, overlap=64, decoder_tile=512)
    assert fixed == {"tile", "overlap", "decoder_tile", "weights"}
    for rung in ladder(job(3840, 2160), wish, fixed):
        assert (rung.tile, rung.overlap, rung.decoder_tile, rung.weights) == (1024, 64, 512, "resident")
    assert wished(False, None, None, False, "auto", 4) == (Placement(), FREE)
    assert wished(True, None, None, False, "auto", 2)[0].tile == 1024
    assert wished(False, 100, None, False, "auto", 4)[0].tile == 512, "rounded up to whole windows"
    assert wished(False, 32, None, False, "auto", 4)[0].overlap < 64
    with pytest.raises(InputError, match=r"--tile-size 60 .*smaller --overlap"):
        wished(True, 60, 32, False, "auto", 4)


def test_the_preset_for_small_cards_needs_less():
    options = Options(**preset_values("Low VRAM", has_full=True))
    weights = "unload" if options.unload_dit and options.offload == "auto" else options.offload
    wish, fixed = wished(options.tiled_dit, options.tile_size, options.overlap, options.tiled_vae, weights, 4)
    first = next(iter(ladder(job(1920, 1080), wish, fixed)))
    assert estimate(job(1920, 1080), first).device < 0.9 * estimate(job(1920, 1080), Placement()).device


def test_too_little_for_anything():
    with pytest.raises(DeviceError, match=r"1920x1080 does not fit: it would need \d.*there are 0.5 GiB"):
        choose(job(1920, 1080), Placement(), FREE, GIB // 2, PLENTY)
    with pytest.raises(DeviceError, match="main memory"):
        choose(job(3840, 2160), Placement(), FREE, 8 * GIB, GIB)


def test_stepping_down_ends():
    now, steps = Placement(), 0
    while (lower := next_lower(job(1920, 1080), now, Placement(), FREE, PLENTY)) is not None:
        assert estimate(job(1920, 1080), lower).device < estimate(job(1920, 1080), now).device
        now, steps = lower, steps + 1
    assert 3 <= steps <= 20


def test_budgets():
    cpu = torch.device("cpu")
    assert 0 < memory_budget(cpu, None) < 2**50
    assert memory_budget(cpu, 0.5) == GIB // 2
    limit_memory(cpu, 1.0)  # nothing to limit, and no error
    assert is_out_of_memory(torch.OutOfMemoryError("x"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))
    assert all(value >= 0 for f in FACTORS.values() for value in dataclasses.asdict(f).values() if value != f.measured)
