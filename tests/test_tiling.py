"""Tiles: laws of the plan, the weights and the blending, and the original's numbers."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from src.errors import InputError
from src.tiling import Tile, blend, feather, plan_strided, plan_tiles, ramp, tile_starts
from tests.golden_data import GOLDEN, golden

SIZES = [(64, 64), (1, 1), (7, 300), (101, 65), (180, 181), (100, 99), (129, 131)]
PLANS = json.loads((GOLDEN / "prepost.json").read_text())["tiles"]


def plans(height: int, width: int) -> list[list[Tile]]:
    return [
        plan_tiles(height, width, 64, 24),
        plan_tiles(height, width, 33, 16),
        plan_tiles(height, width, 50, 0),
        plan_strided(height, width, (40, 56), (30, 20)),  # overlaps of more than half
        plan_strided(height, width, (32, 32), (32, 32)),  # none at all
    ]


def test_starts():
    assert tile_starts(8, 6, 3) == [0, 3]
    assert tile_starts(8, 5, 2) == [0, 2, 4]
    assert tile_starts(5, 5, 2) == [0]
    assert tile_starts(3, 5, 2) == [0]
    assert tile_starts(10, 5, 5) == [0, 5]


def test_ramp_is_the_original_one():
    torch.testing.assert_close(ramp(40, 16, 16), golden("vae")[0]["out.mask1d_len40_border16_unbound"], rtol=0, atol=0)


@pytest.mark.parametrize("factor", [1, 8])
def test_vae_plan_is_the_original_one(factor):
    config = golden("vae")[1]
    expected = config["tiles_latent"] if factor == 1 else config["tiles_encode_pixel"]
    tiles = [t.scaled(factor) for t in plan_strided(8, 8, tuple(config["tile_size"]), tuple(config["tile_stride"]))]
    # The original lets tiles end outside and relies on slices being cut; ours end with the picture.
    expected = [[a, min(b, 8 * factor), c, min(d, 8 * factor)] for a, b, c, d in expected]
    assert [[t.top, t.bottom, t.left, t.right] for t in tiles] == expected


@pytest.mark.parametrize("case", PLANS, ids=lambda c: f"{c['width']}x{c['height']}")
def test_picture_plan_is_the_original_one(case):
    if 2 * case["overlap"] >= case["tile_size"]:
        with pytest.raises(InputError):  # the original allows it; ours asks for less than half
            plan_tiles(case["height"], case["width"], case["tile_size"], case["overlap"])
        return
    tiles = plan_tiles(case["height"], case["width"], case["tile_size"], case["overlap"])
    assert [[t.left, t.top, t.right, t.bottom] for t in tiles] == case["coords_x1y1x2y2"]


@pytest.mark.parametrize("size", SIZES)
def test_plan_covers_the_picture_and_nothing_else(size):
    for tiles in plans(*size):
        seen = torch.zeros(size)
        for tile in tiles:
            assert 0 <= tile.top < tile.bottom <= size[0]
            assert 0 <= tile.left < tile.right <= size[1]
            tile.crop(seen).add_(1)
        assert seen.min() >= 1
    for tile in plan_tiles(*size, 64, 24):
        assert (tile.height, tile.width) == (min(64, size[0]), min(64, size[1]))


@pytest.mark.parametrize("size", SIZES)
def test_feather_is_positive_and_full_at_the_picture_border(size):
    for tiles in plans(*size):
        for tile in tiles:
            weight = feather(tile)
            assert weight.shape == (tile.height, tile.width)
            assert weight.min() > 0
            assert weight.max() == 1
        assert feather(tiles[0])[0, 0] == 1
        assert feather(tiles[-1])[-1, -1] == 1


@pytest.mark.parametrize("size", SIZES)
def test_constant_in_constant_out(size):
    """Borders and odd sizes included. Tolerance: a weighted mean of equal float32 numbers."""
    for tiles in plans(*size):
        out = blend(tiles, (torch.full((2, 3, t.height, t.width), 0.7) for t in tiles))
        torch.testing.assert_close(out, torch.full((2, 3, *size), 0.7), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_cutting_and_blending_returns_the_picture(size):
    picture = torch.randn(3, *size)
    for tiles in plans(*size):
        torch.testing.assert_close(blend(tiles, (t.crop(picture) for t in tiles)), picture, rtol=0, atol=1e-6)


def test_overlapping_halves_cross_fade_in_a_straight_line():
    tiles = plan_tiles(4, 110, 64, 18)  # columns 0..64 and 46..110
    out = blend(tiles, [torch.zeros(4, 64), torch.ones(4, 64)])
    expected = torch.cat([torch.zeros(46), torch.arange(1, 19) / 19, torch.ones(46)]).expand(4, -1)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)  # rounding of the division


def test_a_local_operator_agrees_away_from_the_seams():
    """A 7x7 mean with zero padding sees 3 pixels far: only pixels that close to a tile's inner side may differ."""
    picture = torch.randn(1, 1, 150, 171)

    def operator(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, 7, stride=1, padding=3)

    tiles = plan_tiles(150, 171, 64, 16)
    tiled, whole = blend(tiles, (operator(t.crop(picture)) for t in tiles)), operator(picture)
    near = torch.zeros(150, 171, dtype=torch.bool)
    for t in tiles:
        inside = torch.zeros(t.height, t.width, dtype=torch.bool)
        top, bottom, left, right = (3 if fade else 0 for fade in t.fade)
        inside[top : t.height - bottom, left : t.width - right] = True
        t.crop(near).logical_or_(~inside)
    error = (tiled - whole).abs()[0, 0]
    assert error[~near].max() < 1e-6  # rounding of the blend
    assert error[near].max() > 1e-3  # the law has teeth
    assert near.float().mean() < 0.4


def test_scaled_tile():
    tile = Tile(1, 3, 2, 6, (0, 1, 2, 0))
    assert tile.scaled(8) == Tile(8, 24, 16, 48, (0, 8, 16, 0))
    assert tile.crop(torch.zeros(3, 9, 9)).shape == (3, 2, 4)


def test_half_precision_pieces_are_summed_in_float32():
    tiles = plan_tiles(50, 50, 32, 12)
    out = blend(tiles, (torch.full((t.height, t.width), 0.3, dtype=torch.bfloat16) for t in tiles))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.full((50, 50), 0.3).bfloat16().float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("tile", "overlap"), [(64, 32), (64, 60), (64, -1), (1, 1), (0, 0)])
def test_bad_overlap_is_refused(tile, overlap):
    with pytest.raises(InputError, match=f"overlap {overlap}"):
        plan_tiles(100, 100, tile, overlap)


def test_bad_stride_and_length_are_refused():
    for stride in (0, 7):
        with pytest.raises(InputError, match=f"stride {stride}"):
            tile_starts(10, 6, stride)
    with pytest.raises(InputError, match="length of 0"):
        tile_starts(0, 6, 3)


def test_pieces_must_fit_the_plan():
    tiles = plan_tiles(50, 50, 32, 12)
    pieces = [torch.zeros(32, 32)] * 4
    for bad in (pieces[:3], [*pieces, pieces[0]], [torch.zeros(31, 32), *pieces[1:]], []):
        with pytest.raises(InputError, match="piece"):
            blend(tiles, bad)
    with pytest.raises(InputError, match="cover"):
        blend([tiles[0], tiles[3]], pieces[:2])
