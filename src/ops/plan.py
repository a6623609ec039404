"""What every way of attending has in common: its settings, and the plan for one picture size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from src.ops.fused import TORCH_OPS, Ops

BLOCK_K = {"sage": 64, "block": 128, "dense": 128}


@dataclass(frozen=True)
class QKNorm:
    """The RMS norms of Q and K: weights (D,) and epsilon."""

    q: Tensor
    k: Tensor
    eps: float


@dataclass(frozen=True)
class AttentionSettings:
    """A resolved attention backend, as plain values.

    ``kind``: "sage" (64-token key blocks), "block" (128-token ones) or "dense" (every cached token).
    ``sparse_ratio`` None: no budget, every block inside the local window is kept.
    ``kernels``: attend with the Triton kernels ("sage" then quantises queries and keys to INT8, and with
    ``int8_values`` the cached values too).
    ``ops``: the DiT's other operations. ``observe``: called with the block mask of every layer (tests and
    benchmarks look at it).
    """

    kind: str
    sparse_ratio: float | None
    local_range: int
    kv_len: int
    reference_quirks: bool = False
    observe: Callable[[Tensor], None] | None = None
    kernels: bool = False
    int8_values: bool = False
    ops: Ops = TORCH_OPS

    @property
    def block_k(self) -> int:
        return BLOCK_K[self.kind]


class AttentionPlan(ABC):
    """Attention for one picture size."""

    attention: AttentionSettings

    @property
    def ops(self) -> Ops:
        return self.attention.ops

    def begin(self, caches: Sequence[object], tokens: int, heads: int, like: Tensor) -> None:
        """Make room in a stream's caches, one per block, for a chunk of ``tokens`` tokens like ``like`` (_, D)."""
        return  # a backend whose caches grow as they are filled has nothing to do

    @abstractmethod
    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, norm: QKNorm, rope: tuple[Tensor, Tensor], cache: object
    ) -> Tensor:
        """Attention of a chunk over itself and the cache, which takes the chunk's keys and values.

        q, k, v (L, D): the projections, L = g * n * 128 tokens in window order; they are normed and
        rotated here. rope: cos and sin (L, d / 2). Returns (L, D).
        """
