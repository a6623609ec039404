"""What to give up when memory is short: placements from the fastest to the smallest, and the choice among them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import product
from typing import Any

from src.chunks import PIXELS_PER_TOKEN, WINDOW_PIXELS, pad_to_window
from src.errors import DeviceError, InputError
from src.memory import DECODER_TILES, GIB, LEAST_TILE, MARGIN, Estimate, Job, Placement, estimate


def ladder(job: Job, wish: Placement, fixed: frozenset[str]) -> Iterator[Placement]:
    """Placements from the fastest to the one that needs least. ``fixed``: fields of ``wish`` that a person chose."""

    def rung(**changes: Any) -> Placement:
        free = {name: value for name, value in changes.items() if name not in fixed}
        free["int8_values"] = free.get("int8_values", False) and job.quantises
        placement = dataclasses.replace(wish, **free)
        if placement.tile is not None and 2 * placement.overlap >= placement.tile and "overlap" not in fixed:
            placement = dataclasses.replace(placement, overlap=placement.tile // 4)
        return placement

    single = {"latents_at_once": 1}
    # Tiles of the decoder save nothing unless their states wait elsewhere: together those are larger than the frame's.
    parked = {**single, "park": True}
    small = {**parked, "decoder_tile": DECODER_TILES[0]}
    yield rung()
    yield rung(**single)
    yield rung(**single, weights="blocks")
    for int8_values in (False, True):
        yield rung(**parked, int8_values=int8_values)
    for decoder_tile in DECODER_TILES:
        for weights, int8_values in product(("resident", "blocks"), (False, True)):
            yield rung(**parked, decoder_tile=decoder_tile, weights=weights, int8_values=int8_values)
    least_tile = LEAST_TILE
    if "overlap" in fixed:
        least_tile = max(LEAST_TILE, pad_to_window(2 * wish.overlap + 1))
    largest = max(pad_to_window(job.out_height), pad_to_window(job.out_width))
    for tile in range(min(largest - WINDOW_PIXELS, 4096), least_tile - 1, -WINDOW_PIXELS):
        for least, weights, int8_values in product((single, small), ("resident", "blocks"), (False, True)):
            yield rung(**least, tile=tile, weights=weights, int8_values=int8_values)
    for decoder_tile in DECODER_TILES[1:]:
        for tile in (max(least_tile, 3 * WINDOW_PIXELS), least_tile):
            yield rung(**single, decoder_tile=decoder_tile, tile=tile, park=True, weights="blocks", int8_values=True)


def choose(job: Job, wish: Placement, fixed: frozenset[str], budget: int, ram: int) -> tuple[Placement, Estimate]:
    """The first placement of the ladder that fits ``budget`` bytes on the device and ``ram`` bytes of main memory.

    Raises DeviceError with the numbers if none does.
    """
    least: tuple[Estimate, Placement] | None = None
    for placement in ladder(job, wish, fixed):
        need = estimate(job, placement)
        if need.device <= budget and need.ram <= ram:
            return placement, need
        # What comes nearest: of those that fit the device the one that needs least main memory, else the smallest.
        if least is None or _distance(need, budget) < _distance(least[0], budget):
            least = need, placement
    if least is None:  # the ladder always has a first rung
        raise ValueError("an empty ladder")
    need, placement = least
    where = f"{budget / GIB:.1f} GiB on the device and {ram / GIB:.1f} GiB of main memory"
    raise DeviceError(
        f"{job.out_width}x{job.out_height} does not fit: it would need {need.device / GIB:.1f} GiB on the device"
        f" and {need.ram / GIB:.1f} GiB of main memory ({placement.text()}), there are {where};"
        " use a lower --scale, --kv-ratio 1 or --model nano, or give more with --vram"
    )


def _distance(need: Estimate, budget: int) -> tuple[int, int]:
    return max(0, need.device - budget), need.ram


def next_lower(job: Job, now: Placement, wish: Placement, fixed: frozenset[str], ram: int) -> Placement | None:
    """The first placement that needs at least a tenth less on the device than ``now``; None at the bottom.

    The libraries' own part, which nothing can lower, does not count.
    """
    base = MARGIN * job.factors.base
    limit = base + 0.9 * (estimate(job, now).device - base)
    for placement in ladder(job, wish, fixed):
        need = estimate(job, placement)
        if need.device < limit and need.ram <= ram:
            return placement
    return None


def wished(
    tiled_dit: bool, tile: int | None, overlap: int | None, tiled_vae: bool, weights: str, scale: float
) -> tuple[Placement, frozenset[str]]:
    """What a person asked for, in output pixels, and which fields are therefore fixed.

    tile, overlap: in input pixels; a tile is rounded up to a multiple of 128 output pixels, an overlap to one of
    16. Raises InputError if two overlaps do not fit into a tile.
    """
    fixed = set()
    wish: dict[str, Any] = {}
    if tile is not None:
        wish["tile"] = pad_to_window(max(1, round(tile * scale)))
        fixed.add("tile")
    elif tiled_dit:
        wish["tile"] = 8 * WINDOW_PIXELS
        fixed.add("tile")
    if overlap is not None:
        wish["overlap"] = -(-round(overlap * scale) // PIXELS_PER_TOKEN) * PIXELS_PER_TOKEN
        fixed.add("overlap")
    placement = Placement(**wish)
    if placement.tile is not None and 2 * placement.overlap >= placement.tile:
        if overlap is not None or tile is None:
            raise InputError(
                f"--tile-size {tile or '(default)'} makes tiles of {placement.tile} output pixels, not more than twice"
                f" the overlap of {placement.overlap}; use larger tiles or a smaller --overlap"
            )
        placement = dataclasses.replace(placement, overlap=placement.tile // 4)
    if tiled_vae:
        placement = dataclasses.replace(placement, decoder_tile=DECODER_TILES[1])
        fixed.add("decoder_tile")
    if weights != "auto":
        placement = dataclasses.replace(placement, weights=weights)
        fixed.add("weights")
    return placement, frozenset(fixed)
