"""Seams: how much a tiled picture jumps where tiles meet, on the sample clip with nano.

    python -m benchmarks.seams [--tile-size 96] [--overlap 32] [--frames 21]

The mean absolute gradient across the lines where a tile begins or ends is compared with that across the lines 16
and 32 pixels beside them, in the tiled run and, for comparison, in the untiled one. A seam would stand out; the
picture's own edges are in both.
"""

from __future__ import annotations

import argparse
import datetime
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.config import Options
from src.engine import Engine, make_engine
from src.jobs import upscale
from src.ladder import wished
from src.pipelines.tiles import tiles_of
from src.plan import geometry_of
from src.video import open_source

BESIDE = (-32, -16, 16, 32)  # whole tokens: the decoder's own pattern repeats with 8 and 16 pixels
SAMPLE = Path(__file__).parent.parent / "inputs" / "bbb_320x180.mp4"


def seam_ratio(frames: np.ndarray, lines: list[int], axis: int) -> float:
    """Mean gradient across ``lines`` of (F, H, W) over that beside them; axis 1: rows, 2: columns."""
    gradient = np.abs(np.diff(frames.astype(np.float32), axis=axis)).mean(axis=(0, 3 - axis))
    at, beside = [], []
    for line in lines:
        at += [gradient[line - 1]]
        beside += [gradient[line - 1 + step] for step in BESIDE]
    return float(np.mean(at) / np.mean(beside))


def tile_lines(options: Options, height: int, width: int) -> tuple[list[int], list[int]]:
    """Rows and columns of the output where a tile begins or ends."""
    geometry = geometry_of(options, height, width)
    scale = geometry.out_height / height
    placement, _ = wished(True, options.tile_size, options.overlap, False, "auto", scale)
    tiles = tiles_of(geometry, placement)
    rows = {side * 16 for tile in tiles for side in (tile.top, tile.bottom)}
    columns = {side * 16 for tile in tiles for side in (tile.left, tile.right)}
    inner = max(BESIDE) + 2  # lines beside the seam must lie in the picture too
    return (
        sorted(line for line in rows if inner < line < geometry.out_height - inner),
        sorted(line for line in columns if inner < line < geometry.out_width - inner),
    )


def luma(frames: list[np.ndarray]) -> np.ndarray:
    return np.stack(frames).astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def measure(engine: Engine, options: Options, count: int) -> dict[str, Any]:
    """Ratios of a tiled run and of an untiled one at the same lines, and how far the two are apart."""
    with open_source(SAMPLE) as source:
        frames = list(islice(source, count))
    height, width = frames[0].shape[:2]
    rows, columns = tile_lines(options, height, width)
    tiled = luma(list(upscale(frames, options, engine)))
    whole = luma(list(upscale(frames, options.replace(tile_size=None, overlap=None, tiled_dit=False), engine)))
    result: dict[str, Any] = {"rows": rows, "columns": columns}
    for name, picture in (("tiled", tiled), ("untiled", whole)):
        result[name] = {
            "rows": round(seam_ratio(picture, rows, 1), 4) if rows else None,
            "columns": round(seam_ratio(picture, columns, 2), 4) if columns else None,
        }
    result["mean_difference_levels"] = round(float(np.abs(tiled - whole).mean()), 3)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tile-size", type=int, default=96)
    parser.add_argument("--overlap", type=int, default=32)
    parser.add_argument("--frames", type=int, default=21)
    arguments = parser.parse_args()
    options = Options(model="nano", device="cpu", tile_size=arguments.tile_size, overlap=arguments.overlap)
    result = measure(make_engine(options), options, arguments.frames)
    for name in ("tiled", "untiled"):
        ratios = result[name]
        print(f"{name:8s} gradient at seams / beside them: rows {ratios['rows']}, columns {ratios['columns']}")
    date = datetime.date.today().isoformat()
    print(json.dumps({"benchmark": "seams", "torch": torch.__version__, "date": date, **vars(arguments), **result}))


if __name__ == "__main__":
    main()
