"""Tiles: how a picture is cut into overlapping pieces, and how the pieces become one picture again.

Every weight is above 0 and the weighted sum is divided by the sum of the weights, so a pixel
comes out wherever at least one tile lies, the border of the picture included. Sizes have no unit of their
own: pixels, latents or windows, as the caller has it; ``Tile.scaled`` changes the unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from src.errors import InputError


@dataclass(frozen=True)
class Tile:
    """Rows top..bottom and columns left..right of a picture (ends excluded).

    ``fade``: over how many rows or columns the weight rises from the (top, bottom, left, right)
    side inwards. 0: that side is the picture's own border, nothing to fade into.
    """

    top: int
    bottom: int
    left: int
    right: int
    fade: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def scaled(self, factor: int) -> Tile:
        """The same tile in a unit ``factor`` times finer, e.g. 8 for latents to pixels."""
        top, bottom, left, right = (side * factor for side in (self.top, self.bottom, self.left, self.right))
        f = self.fade
        return Tile(top, bottom, left, right, (f[0] * factor, f[1] * factor, f[2] * factor, f[3] * factor))

    def crop(self, picture: Tensor) -> Tensor:
        """(..., H, W) -> view (..., height, width)."""
        return picture[..., self.top : self.bottom, self.left : self.right]


def tile_starts(length: int, size: int, stride: int) -> list[int]:
    """0, stride, 2 * stride, ... up to the first tile that reaches the end of ``length``.

    Raises InputError for a length or size below 1, or a stride outside 1..size (it would leave gaps).
    """
    if length < 1 or size < 1:
        raise InputError(f"tiles of {size} over a length of {length}: both must be at least 1")
    if not 1 <= stride <= size:
        raise InputError(f"tile stride {stride} is outside 1..{size}, the tile size")
    count = 1 + max(0, -(-(length - size) // stride))
    return [index * stride for index in range(count)]


def plan_tiles(height: int, width: int, tile: int, overlap: int) -> list[Tile]:
    """Square tiles over a picture, row by row; neighbours share at least ``overlap``.

    The last tile of a row or column is moved back to end with the picture, so all tiles have the
    same size; a picture smaller than a tile gets a tile of its own size. Raises InputError
    for overlap < 0 or overlap >= tile / 2. An overlap of 0 works, with visible seams.
    """
    if overlap < 0 or 2 * overlap >= tile:
        raise InputError(f"overlap {overlap} is outside 0..{(tile - 1) // 2}, less than half of the tile size {tile}")

    def spans(length: int) -> list[_Span]:
        starts = tile_starts(length, tile, tile - overlap)
        bounds = [(max(0, min(start, length - tile)), min(start + tile, length)) for start in starts]
        # The last tile may share more than `overlap`; half a tile is the limit, as two fades must fit in.
        shared = [min(before[1] - after[0], tile // 2) for before, after in pairwise(bounds)]
        return [
            (*bound, fade_in, fade_out)
            for bound, fade_in, fade_out in zip(bounds, [0, *shared], [*shared, 0], strict=True)
        ]

    return _grid(spans(height), spans(width))


def plan_strided(height: int, width: int, size: tuple[int, int], stride: tuple[int, int]) -> list[Tile]:
    """Tiles of ``size`` (rows, columns) every ``stride`` (rows, columns); the last ones are cut off, not moved.

    Weights fade over size - stride. Raises InputError as ``tile_starts``.
    """

    def spans(length: int, size: int, stride: int) -> list[_Span]:
        starts = tile_starts(length, size, stride)
        fade = size - stride
        return [
            (start, min(start + size, length), fade if start else 0, fade if start != starts[-1] else 0)
            for start in starts
        ]

    return _grid(spans(height, size[0], stride[0]), spans(width, size[1], stride[1]))


def plan_context(height: int, width: int, size: int, context: int) -> list[tuple[Tile, Tile]]:
    """(inner, outer) tiles: the inner ones, at most ``size`` wide and about equal, cover a picture once; the outer ones
    add ``context`` on every side, as far as the picture goes. For work whose result at a place depends on no more
    than that around it.
    """

    def spans(length: int) -> list[tuple[int, int, int, int]]:
        even = -(-length // len(tile_starts(length, size, size)))
        return [
            (start, min(start + even, length), max(0, start - context), min(start + even + context, length))
            for start in tile_starts(length, even, even)
        ]

    return [
        (Tile(top, bottom, left, right), Tile(outer_top, outer_bottom, outer_left, outer_right))
        for (top, bottom, outer_top, outer_bottom), (left, right, outer_left, outer_right) in product(
            spans(height), spans(width)
        )
    ]


_Span = tuple[int, int, int, int]  # start, end, fade in, fade out


def _grid(rows: list[_Span], columns: list[_Span]) -> list[Tile]:
    return [
        Tile(top, bottom, left, right, (fade_top, fade_bottom, fade_left, fade_right))
        for (top, bottom, fade_top, fade_bottom), (left, right, fade_left, fade_right) in product(rows, columns)
    ]


def ramp(length: int, fade_in: int, fade_out: int, device: torch.device | None = None) -> Tensor:
    """(length,) float32 weights in (0, 1]: 1/n, 2/n, ... 1 over the first ``fade_in`` = n, mirrored at the end.

    Where two neighbours overlap by n their weights sum to a constant, so dividing by the sum
    turns them into a straight cross-fade. Where both fades meet the second wins, as in the
    original: only VAE tiles that overlap by more than half have such a place.
    """
    position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    weights = (position / fade_in).clamp_(max=1) if fade_in else torch.ones_like(position)
    if fade_out:
        weights[-fade_out:] = position.flip(0)[-fade_out:] / fade_out
    return weights


def feather(tile: Tile, device: torch.device | None = None) -> Tensor:
    """(height, width) float32 weights of a tile in (0, 1]: the smaller of its row and column ramps."""
    top, bottom, left, right = tile.fade
    rows = ramp(tile.height, top, bottom, device)
    columns = ramp(tile.width, left, right, device)
    return torch.minimum(rows[:, None], columns[None, :])


def blend(tiles: Sequence[Tile], pieces: Iterable[Tensor]) -> Tensor:
    """The picture that the tiles make: float32 (..., H, W), each pixel the weighted mean of its tiles.

    pieces: one tensor (..., tile height, tile width) per tile, in order; they are taken one by one,
    so a generator keeps a single one in memory. The picture ends where the last tile ends. Raises
    InputError if a piece does not fit its tile, the numbers differ, or the tiles leave a hole.
    """
    height, width = max(tile.bottom for tile in tiles), max(tile.right for tile in tiles)
    total: Tensor | None = None
    weight_sum = torch.zeros(height, width)
    count = 0
    for piece in pieces:
        if count == len(tiles) or piece.shape[-2:] != (tiles[count].height, tiles[count].width):
            raise InputError(f"piece {count} of shape {tuple(piece.shape)} does not fit the plan of {len(tiles)} tiles")
        tile = tiles[count]
        count += 1
        weight = feather(tile, piece.device)
        if total is None:
            total = torch.zeros(*piece.shape[:-2], height, width, device=piece.device)
            weight_sum = weight_sum.to(piece.device)
        tile.crop(total).addcmul_(piece.float(), weight)
        tile.crop(weight_sum).add_(weight)
    if total is None or count != len(tiles):
        raise InputError(f"{count} pieces for {len(tiles)} tiles")
    if not bool((weight_sum > 0).all()):
        raise InputError("the tiles do not cover the picture")
    return total.div_(weight_sum)
