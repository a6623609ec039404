"""Everything a stream remembers. Models never hold any of this: they are handed it and change it in place.

Shapes: n windows per window-frame, 128 tokens per window, d width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

WINDOW_LENGTH = 128


class KVCache:
    """Keys and values of one DiT block: the chunk's own and up to ``kv_len`` earlier window-frames.

    A fixed number of slots, one window-frame each, allocated once. ``order`` lists the slots in
    use from the oldest window-frame to the newest; attention does not care where a slot lies, so
    nothing is ever moved.
    """

    def __init__(self, kv_len: int, first_window_frames: int, later_window_frames: int) -> None:
        self.kv_len = kv_len
        self.slots = max(first_window_frames, kv_len + later_window_frames)
        self.order: list[int] = []
        self.keys: Tensor | None = None  # (heads, slots * n * 128, d)
        self.values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor, windows: int) -> None:
        """Add the window-frames of a chunk: (heads, g * windows * 128, d), rotated, in window order."""
        length = windows * WINDOW_LENGTH
        if self.keys is None or self.values is None:
            shape = (keys.shape[0], self.slots * length, keys.shape[2])
            # Zeros, not garbage: an unused slot must never hold a NaN, even if it is only masked.
            self.keys, self.values = keys.new_zeros(shape), values.new_zeros(shape)
        for start in range(0, keys.shape[1], length):
            slot = next(i for i in range(self.slots) if i not in self.order)
            where = slice(slot * length, (slot + 1) * length)
            self.keys[:, where] = keys[:, start : start + length]
            self.values[:, where] = values[:, start : start + length]
            self.order.append(slot)

    def tokens(self) -> tuple[Tensor, Tensor]:
        """Keys and values of all slots: (heads, slots * n * 128, d), slots that ``order`` does not name included."""
        if self.keys is None or self.values is None:
            raise ValueError("an empty KV cache has no tokens: append comes first")
        return self.keys, self.values

    def trim(self) -> None:
        """Forget all but the last ``kv_len`` window-frames (called after the chunk's attention)."""
        self.order = self.order[-self.kv_len :]


@dataclass
class ConvState:
    """Tail frames of a chain of temporal convolutions or memory blocks, by layer name."""

    tails: dict[str, Tensor] = field(default_factory=dict)
    started: bool = False


@dataclass
class StreamState:
    """All memory of one stream. Make one with the pipeline's ``new_state``; drop it at the end."""

    projector: ConvState
    caches: list[KVCache]
    decoder: Any  # ConvState of the TCDecoder or the VAE's own state
    chunk: int = 0  # number of the next chunk
    # Latent frames of the clip before the stream's first one: a stream that starts in the middle of a clip keeps the
    # clip's own positions and noise.
    origin: int = 0
    tiles: Any = None  # Parking of one StreamState per tile; None: the frame is not cut


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor reachable from a state object; used to measure what a stream holds."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for item in value.values() for t in tensors_of(item)]
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in tensors_of(item)]
    if hasattr(value, "__dict__") and not isinstance(value, torch.Generator):
        return tensors_of(vars(value))
    return []
