"""What a job tells its caller, and what the caller may do to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Preview = Callable[[int, np.ndarray], None]  # frames done, the last of them: (H, W, 3), uint8 or uint16


@dataclass(frozen=True)
class Progress:
    """State of a running job: frames written, frames expected (None: unknown), seconds since the start.

    ``resumed``: frames taken over from an earlier run. ``message``: what happened on the way, "" mostly.
    """

    frames: int
    expected: int | None
    seconds: float
    resumed: int = 0
    paused: bool = False
    message: str = ""

    @property
    def fps(self) -> float:
        return (self.frames - self.resumed) / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Result:
    """What a finished job wrote. ``seconds`` counts from the first frame read; ``peak_memory`` in bytes or None.

    ``resumed``: how many of the frames an earlier run had made already.
    """

    path: Path
    frames: int
    width: int
    height: int
    seconds: float
    peak_memory: int | None
    model: str
    resumed: int = 0

    @property
    def fps(self) -> float:
        return (self.frames - self.resumed) / self.seconds


@dataclass(frozen=True)
class Controls:
    """What a caller may do to a running job; see ``upscale_file``."""

    progress: Callable[[Progress], None] | None = None
    cancel: threading.Event | None = None
    pause: threading.Event | None = None
    preview: Preview | None = None
