"""The DiT in tiles: every tile a stream of its own, all at the same chunk, their latents blended.

Tiles overlap on the padded frame and start from the same noise there, which is drawn for the whole frame. What is
blended are latents, so the decoder sees one frame: it has no seams to hide.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from src.chunks import PIXELS_PER_LATENT, PIXELS_PER_TOKEN
from src.memory import Placement
from src.models.manager import Models
from src.ops.attention import AttentionPlan
from src.pipelines.geometry import Geometry
from src.state import StreamState
from src.tiling import Tile, blend, plan_tiles

LATENTS_PER_TOKEN = PIXELS_PER_TOKEN // PIXELS_PER_LATENT


class Denoiser(Protocol):
    """What is needed of a pipeline."""

    models: Models
    placement: Placement

    def new_state(self) -> StreamState: ...
    def starting_latents(self, state: StreamState, geometry: Geometry, noise: Tensor | None) -> Tensor: ...
    def clean(self, lq: Tensor, start: Tensor, state: StreamState, plan: AttentionPlan) -> Tensor: ...


def tiles_of(geometry: Geometry, placement: Placement) -> list[Tile]:
    """Tiles of the padded frame in tokens (16x16 pixels), all of one size; a single one when the frame is not cut."""
    height, width = geometry.padded_height // PIXELS_PER_TOKEN, geometry.padded_width // PIXELS_PER_TOKEN
    if placement.tile is None or placement.tile >= max(geometry.padded_height, geometry.padded_width):
        return [Tile(0, height, 0, width)]
    return plan_tiles(height, width, placement.tile // PIXELS_PER_TOKEN, placement.overlap // PIXELS_PER_TOKEN)


@torch.no_grad()
def denoise_tiles(
    pipeline: Denoiser,
    lq: Tensor,
    state: StreamState,
    plan: AttentionPlan,
    geometry: Geometry,
    tiles: list[Tile],
    noise: Tensor | None,
) -> Tensor:
    """LQ frames (F, 3, H, W) of one chunk -> its clean latents (1, 16, T, H/8, W/8), tile by tile.

    ``plan``: attention for the size of a tile. The states of the tiles live in ``state.tiles``.
    """
    if state.tiles is None:
        state.tiles = [pipeline.new_state() for _ in tiles]
    parts: list[StreamState] = state.tiles
    start = pipeline.starting_latents(state, geometry, noise)

    def pieces() -> Iterator[Tensor]:
        for tile, part in zip(tiles, parts, strict=True):
            part.chunk, part.origin = state.chunk, state.origin
            own_lq = tile.scaled(PIXELS_PER_TOKEN).crop(lq)
            own_start = tile.scaled(LATENTS_PER_TOKEN).crop(start).contiguous()
            yield pipeline.clean(own_lq, own_start, part, plan)

    return blend([tile.scaled(LATENTS_PER_TOKEN) for tile in tiles], pieces()).to(start.dtype)
