"""Tiles: what they must not change, and what the decoder's context is good for."""

from fractions import Fraction

import pytest
import torch

from src.config import Options
from src.engine import make_engine
from src.jobs import upscale
from src.memory import CONTEXT, Placement
from src.ops.attention import Attention
from src.pipelines.geometry import Geometry
from src.pipelines.tiles import tiles_of
from tests.tiny_models import clip, run, tiny_models, tiny_pipeline

MODES = ["tiny", "tiny-long", "full"]
SIZES = [(180, 320), (179, 321), (128, 128), (17, 33), (272, 640)]
TILED = Placement(tile=256, overlap=64)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("tile", [256, 384, 1024])
def test_tiles_cover_every_frame_exactly(height, width, tile):
    geometry = Geometry.of(height, width, Fraction(4))
    tiles = tiles_of(geometry, Placement(tile=tile, overlap=tile // 4))
    seen = torch.zeros(geometry.padded_height // 16, geometry.padded_width // 16, dtype=torch.int)
    for one in tiles:
        assert one.height % 8 == 0
        assert one.width % 8 == 0, "a whole number of attention windows"
        one.crop(seen).add_(1)
    assert int(seen.min()) >= 1
    assert len({(one.height, one.width) for one in tiles}) == 1


@pytest.mark.parametrize("mode", ["tiny", "full"])
def test_a_tile_as_large_as_the_frame_changes_nothing(mode):
    pipeline, frames = tiny_pipeline(mode), clip(30, 20, 30)
    whole = run(pipeline, frames)
    assert torch.equal(run(pipeline.placed(Placement(tile=256)), frames), whole)


@pytest.mark.parametrize("mode", MODES)
def test_tiled_counts_and_sizes(mode):
    """N frames in, N frames out of the exact size, with everything tiled at once.

    Every N over the first chunk and one more; `benchmarks.endurance --counts` goes to 60 in five sizes, with nano.
    """
    placement = Placement(tile=256, overlap=64, park=True, decoder_tile=128, latents_at_once=1, weights="blocks")
    pipeline = tiny_pipeline(mode).placed(placement)
    pipeline.residency.set("blocks")
    source = clip(60, 8, 260)
    counts = range(1, 31) if mode == "tiny" else (1, 20, 21, 22, 29, 30, 37, 60)
    for count in counts:
        out = run(pipeline, source[:count], 1)
        assert out.shape == (count, 3, 8, 260)
        assert out.isfinite().all()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tiled_sizes(height, width):
    pipeline = tiny_pipeline("tiny").placed(Placement(tile=256, overlap=64, decoder_tile=256))
    out = run(pipeline, clip(2, height, width), 2)
    assert out.shape == (2, 3, 2 * height, 2 * width)


def test_tiles_start_from_the_same_noise():
    """Overlapping tiles see one noise, and it does not depend on where a stream begins."""
    pipeline = tiny_pipeline("tiny")
    geometry = Geometry.of(64, 300, Fraction(1))
    late, early = pipeline.new_state(), pipeline.new_state()
    late.origin = 4
    early.chunk = 2
    a = pipeline.starting_latents(early, geometry, None)  # latents 8 and 9 of the clip
    b = pipeline.starting_latents(late, geometry, None)[:, :, 4:]  # 4 + 4 and 4 + 5
    assert torch.equal(a, b)
    assert a.std() > 0.9


def test_decoder_tiles_are_exact():
    """With its context a decoded tile equals the same place of a whole frame; with less it does not."""
    models = tiny_models("tiny")
    decoder, constants = models.decoder, models.decoder.constants()
    from src.pipelines.tiny import DecoderTiles

    pipeline = tiny_pipeline("tiny")
    generator = torch.Generator().manual_seed(1)
    whole, tiled = pipeline.new_decoder_state(), DecoderTiles(24)
    for count, first in ((2, True), (1, False), (2, False)):
        latents = torch.randn(1, 16, count, 60, 60, generator=generator)
        condition = torch.rand(4 * count - 3 * first, 3, 480, 480, generator=generator) * 2 - 1
        a = pipeline.decode(latents, condition, whole)
        b = pipeline.decode(latents, condition, tiled)
        torch.testing.assert_close(b, a, rtol=0, atol=2e-6)
    # How far one latent is seen: measured, so that nobody has to trust the sum over the layers.
    plain = torch.zeros(1, 16, 1, 64, 64)
    touched = plain.clone()
    touched[..., 32, 32] = 3
    grey = torch.zeros(1, 3, 512, 512)
    from src.state import ConvState

    difference = decoder(plain, grey, ConvState(), constants) - decoder(touched, grey, ConvState(), constants)
    rows = difference.abs().amax((0, 1, 3)).nonzero().flatten()
    reach = max(32 * 8 - int(rows.min()), int(rows.max()) - (32 * 8 + 7))
    assert CONTEXT * 8 - 16 < reach <= CONTEXT * 8


def test_fp16_overflow_is_an_error(monkeypatch):
    from dataclasses import replace

    from src.errors import DeviceError

    pipeline = tiny_pipeline("tiny")
    pipeline.models = replace(pipeline.models, dtype=torch.float16)
    monkeypatch.setattr(type(pipeline.models.projector), "forward", lambda self, lq, state: lq)
    monkeypatch.setattr(type(pipeline.models.dit), "step", lambda self, latents, *rest: latents * torch.inf)
    with pytest.raises(DeviceError, match="too large for fp16"):
        run(pipeline, clip(1, 8, 8), 1)


def test_a_flat_picture_has_no_seams():
    """nano, everything in tiles: a flat colour stays flat, borders included."""
    import numpy as np

    engine = make_engine(Options(model="nano", device="cpu"))
    options = Options(model="nano", scale=2, tile_size=192, overlap=32, tiled_vae=True)
    frame = np.empty((100, 300, 3), np.uint8)
    frame[:] = (30, 160, 220)
    out = next(iter(upscale([frame], options, engine))).astype(int)
    assert out.shape == (200, 600, 3)
    assert np.abs(out - (30, 160, 220)).max() <= 3


def test_no_seams_on_real_footage():
    """Across seam lines the picture changes as much as beside them, and as much as it does there without tiles."""
    from benchmarks.seams import measure

    options = Options(model="nano", device="cpu", scale=2, tile_size=128, overlap=32)
    result = measure(make_engine(options), options, 2)
    for axis in ("rows", "columns"):
        assert result[axis], "there are seams"
        assert abs(result["tiled"][axis] / result["untiled"][axis] - 1) < 0.03
    assert result["mean_difference_levels"] < 0.5


@pytest.mark.parametrize("kind", ["block", "dense"])
def test_every_backend_runs_in_tiles(kind):
    attention = Attention(kind, sparse_ratio=2.0, local_range=3, kv_len=2)
    pipeline = tiny_pipeline("tiny", attention=attention).placed(TILED)
    assert run(pipeline, clip(30, 8, 300), 1).isfinite().all()
