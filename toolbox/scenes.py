"""Where one shot ends and the next begins, found while frames go by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CELLS = 24  # a frame is judged by about so many cells across
BINS = 16
# The colours of a shot stay while things move: without this much change of them nothing is a cut.
LEAST_COLOUR_CHANGE = 0.2


def signature(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A small picture of cell means (0..1) and the shares of the brightness levels, per channel."""
    cell = max(1, round(frame.shape[1] / CELLS))
    step = max(1, cell // 8)
    small = frame[::step, ::step].astype(np.float32) / (65535 if frame.dtype == np.uint16 else 255)
    side = max(1, min(cell // step, *small.shape[:2]))
    rows, columns = small.shape[0] // side, small.shape[1] // side
    cells = small[: rows * side, : columns * side].reshape(rows, side, columns, side, 3).mean((1, 3))
    levels = np.clip((small * BINS).astype(np.int64), 0, BINS - 1).reshape(-1, 3)
    shares = np.stack([np.bincount(levels[:, channel], minlength=BINS) for channel in range(3)]) / len(levels)
    return cells, shares


def is_cut(one: tuple[np.ndarray, np.ndarray], two: tuple[np.ndarray, np.ndarray], threshold: float) -> bool:
    """True when a new shot begins with ``two``. ``threshold``: mean change of the cells, 0..1; 0: never."""
    if not threshold:
        return False
    change = float(np.abs(one[0] - two[0]).mean())
    colours = float(np.abs(one[1] - two[1]).sum(1).mean()) / 2
    return change > threshold and colours > LEAST_COLOUR_CHANGE


class Scenes:
    """Cuts a stream into shots. Iterating yields one iterator of frames per shot; each must be used up in turn."""

    def __init__(self, frames: Iterator[np.ndarray], threshold: float) -> None:
        self._frames, self._threshold = frames, threshold
        self._next: np.ndarray | None = None
        self._before: tuple[np.ndarray, np.ndarray] | None = None
        self.ended = False

    def __iter__(self) -> Iterator[Iterator[np.ndarray]]:
        while not self.ended:
            yield self._scene()

    def _scene(self) -> Iterator[np.ndarray]:
        if self._next is not None:
            pending, self._next = self._next, None
            yield pending
        for frame in self._frames:
            now = signature(frame) if self._threshold else None
            before, self._before = self._before, now
            if before is not None and now is not None and is_cut(before, now, self._threshold):
                self._next = frame
                return
            yield frame
        self.ended = True
