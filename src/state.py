"""Everything a stream remembers. Models never hold any of this: they are handed it and change it in place.

Shapes: n windows per window-frame, 128 tokens per window, d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from src.parking import Parking

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
class PoolTensors:
    """The memory of a ``KVPool``; r key blocks per window-frame.

    keys, values (slots, H, n * 128, d), keys int8 or floating; means (slots, H, r, d) float32, of the keys as they
    came; table (layers, window-frames) int32, the visible slots of the present chunk in time order. For int8 keys:
    scales (slots, H, r) float32 and smooth (layers, H, d) float32, which is taken off every key of the stream. For int8
    values: value_scales (slots, H, n * 128) float32, one per token.
    """

    keys: Tensor
    values: Tensor
    means: Tensor
    table: Tensor
    scales: Tensor | None
    smooth: Tensor | None
    value_scales: Tensor | None = None


class KVPool:
    """Keys and values of all DiT blocks in one allocation, for attention over lists of key blocks.

    Slots of one window-frame each, ``kv_len`` of them owned by every DiT block. One free slot wanders through
    the layers: a layer writes its new window-frame there, and the slot of its oldest one becomes the next layer's. So
    nothing is copied, and only one window-frame in all is held beyond the cache itself.

    Because of that a chunk cannot be undone: a stream that broke off inside one is lost.
    """

    def __init__(self, layers: int, kv_len: int, first_window_frames: int, later_window_frames: int) -> None:
        self.kv_len = kv_len
        self.slots = layers * kv_len + max(later_window_frames, first_window_frames - kv_len)
        self.orders: list[list[int]] = [[] for _ in range(layers)]
        self.free = list(range(self.slots))
        self.first = True  # whether the present chunk is the stream's first
        self.layers_done = layers  # of the present chunk
        self._tensors: PoolTensors | None = None

    def views(self) -> list[KVPoolView]:
        """One handle per DiT block."""
        return [KVPoolView(self, layer) for layer in range(len(self.orders))]

    def tensors(self) -> PoolTensors:
        """The memory; ``begin`` comes first."""
        if self._tensors is None:
            raise ValueError("an empty KV pool has no tensors: begin comes first")
        return self._tensors

    def begin(
        self,
        window_frames: int,
        heads: int,
        tokens: int,
        width: int,
        block: int,
        int8: bool,
        like: Tensor,
        int8_values: bool = False,
    ) -> None:
        """Lay out a chunk: a slot for every new window-frame of every layer.

        The first call takes the memory: window-frames of ``tokens`` tokens, heads of ``width``, key blocks of ``block``
        tokens, on the device and in the dtype of ``like`` unless they are int8. Raises RuntimeError if an earlier chunk
        stopped half-way.
        """
        if self.layers_done != len(self.orders):
            raise RuntimeError(
                f"this stream broke off in layer {self.layers_done} of an earlier chunk: begin a new one"
            )
        self.first, rows = not self.orders[0], []
        for layer, order in enumerate(self.orders):
            visible = order + [self.free.pop() for _ in range(window_frames)]
            rows.append(visible)
            self.free += visible[: -self.kv_len]
            self.orders[layer] = visible[-self.kv_len :]
        table = torch.tensor(rows, dtype=torch.int32)
        if like.device.type == "cuda":
            table = table.pin_memory()  # so that the copy waits for nothing, and nothing for it
        self.layers_done = 0
        if self._tensors is not None:
            if self._tensors.table.shape == table.shape:  # in place: a captured graph reads it there
                self._tensors.table.copy_(table, non_blocking=True)
            else:
                self._tensors.table = table.to(like.device, non_blocking=True)
            return
        shape, blocks = (self.slots, heads, tokens, width), tokens // block
        self._tensors = PoolTensors(
            keys=like.new_empty(shape, dtype=torch.int8 if int8 else like.dtype),
            values=like.new_empty(shape, dtype=torch.int8 if int8_values else like.dtype),
            means=like.new_empty((self.slots, heads, blocks, width), dtype=torch.float32),
            table=table.to(like.device, non_blocking=like.device.type == "cuda"),
            scales=like.new_empty((self.slots, heads, blocks), dtype=torch.float32) if int8 else None,
            smooth=like.new_empty((len(self.orders), heads, width), dtype=torch.float32) if int8 else None,
            value_scales=like.new_empty((self.slots, heads, tokens), dtype=torch.float32) if int8_values else None,
        )


@dataclass(frozen=True)
class KVPoolView:
    """One DiT block's part of a pool."""

    pool: KVPool
    layer: int


@dataclass
class ConvState:
    """Tail frames of a chain of temporal convolutions or memory blocks, by layer name."""

    tails: dict[str, Tensor] = field(default_factory=dict)
    started: bool = False


@dataclass
class StreamState:
    """All memory of one stream. Make one with the pipeline's ``new_state``; drop it at the end."""

    projector: ConvState
    caches: Sequence[KVCache | KVPoolView] | Parking[KVCache | KVPoolView]  # one per DiT block
    decoder: Any  # ConvState of the TCDecoder or the VAE's own state
    graph: Any = None  # the DiT's captured step for this stream's memory, where that pays
    chunk: int = 0  # number of the next chunk
    # Latent frames of the clip before the stream's first one: a stream that starts in the middle of a clip keeps the
    # clip's own positions and noise.
    origin: int = 0
    tiles: list[StreamState] | None = None  # None: the frame is not cut


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor reachable from a state object, each once; used to measure what a stream holds."""
    return list({id(tensor): tensor for tensor in _reachable(value)}.values())


def _reachable(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for item in value.values() for t in _reachable(item)]
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in _reachable(item)]
    if hasattr(value, "__dict__") and not isinstance(value, (torch.Generator, nn.Module)):
        return _reachable(vars(value))
    return []
