"""Cuts: where one scene ends and another begins, so that each becomes a stream of its own.

A stream remembers what it has seen; over a cut that memory is of the wrong picture and would show as ghosts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

SHORTEST = 6  # frames: a flash is no scene, and every scene costs a first chunk of its own
ROWS = 18  # of the thumbnail that is compared
RECENT = 8  # differences that say how much moves in a scene anyway
CONTRAST = 3.0  # a cut differs so many times as much as these


class CutDetector:
    """Says of every frame whether a new scene begins with it, from the frames before it alone.

    ``threshold``: mean difference of two frames' thumbnails, in levels of 255, from which on a jump may be a cut. It
    also has to stand out from the motion of the last frames.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.restart()

    def restart(self) -> None:
        """Forget everything: the next frame is the first of a scene."""
        self._last: np.ndarray | None = None
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._length = 0

    def begins_scene(self, frame: np.ndarray) -> bool:
        """frame: (H, W, 3 or 4) uint8 or uint16. True when it belongs to another scene than the one before it."""
        small = thumbnail(frame)
        if self._last is None:
            self._last, self._length = small, 1
            return False
        difference = float(np.abs(small - self._last).mean())
        usual = sum(self._recent) / len(self._recent) if self._recent else 0.0
        cut = difference >= self.threshold and difference >= CONTRAST * usual and self._length >= SHORTEST
        if cut:
            self.restart()
            self._length = 0
        else:
            self._recent.append(difference)
        self._last = small
        self._length += 1
        return cut


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """(H, W, >= 3) -> about (18, 32, 3) float32, 0..255: means of blocks, sampled from large frames."""
    step = max(1, frame.shape[0] // (ROWS * 4))
    part = frame[::step, ::step, :3]
    block = max(1, part.shape[0] // ROWS)
    rows, columns = max(1, part.shape[0] // block), max(1, part.shape[1] // block)
    block_columns = min(block, part.shape[1])
    cells = part[: rows * block, : columns * block_columns].reshape(rows, block, columns, block_columns, 3)
    means = cells.astype(np.float32).mean(axis=(1, 3))
    return means if frame.dtype == np.uint8 else means / 257


class Scenes:
    """Frames cut into scenes: iterating yields (number of the first frame, iterator over the scene's frames).

    Lazy: a scene must be taken to its end before the next one is asked for. ``detector`` None: one scene in all.
    first: number of the first frame given. settled: up to this frame number, no cut is looked for: it is known that
    there is none. ``cuts``: first frames of all scenes found so far.
    """

    def __init__(
        self, frames: Iterable[np.ndarray], detector: CutDetector | None, first: int = 0, settled: int = 0
    ) -> None:
        self._frames = iter(frames)
        self._detector = detector
        self._number = first  # of the pending frame, or of the next one
        self._settled = settled
        self._pending: np.ndarray | None = None
        self.cuts: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
        self._pending = next(self._frames, None)
        if self._pending is not None and self._detector is not None:
            self._detector.begins_scene(self._pending)
        while self._pending is not None:
            self.cuts.append(self._number)
            yield self._number, self._scene()

    def _scene(self) -> Iterator[np.ndarray]:
        frame = self._pending
        while frame is not None:
            yield frame
            self._pending = None
            self._number += 1
            frame = next(self._frames, None)
            if frame is None or self._detector is None:
                continue
            if self._detector.begins_scene(frame) and self._number > self._settled:
                self._pending = frame
                return
