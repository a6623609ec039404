"""The DiT's step as a CUDA graph: one launch for some six hundred.

A chunk of few tokens is over on the GPU before Python has queued its kernels; replaying what was recorded once
takes the host out of it. A graph is bound to the memory of one stream, so it lives in that stream's state.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from src.models.dit import Cache, DiT, DiTConstants
from src.ops.plan import AttentionPlan
from src.parking import Parking
from src.state import KVPool, KVPoolView, StreamState

log = logging.getLogger(__name__)

# Above this the GPU is the slower one, and a graph would only hold on to the memory of its intermediate results.
MAX_TOKENS = 8192


@dataclass
class DiTGraph:
    """A recorded step and the memory it reads and writes; ``graph`` None: recording failed, the reason was logged."""

    graph: torch.cuda.CUDAGraph | None
    inputs: tuple[Tensor, ...]  # latents, LQ tokens, cos, sin
    velocity: Tensor | None
    table: Tensor  # of the pool when it was recorded: one of another shape makes the record useless


def velocity(
    dit: DiT,
    latents: Tensor,
    lq_tokens: Tensor,
    constants: DiTConstants,
    plan: AttentionPlan,
    state: StreamState,
    first_latent: int,
    still: bool = True,
) -> Tensor:
    """``dit(...)`` for the next chunk of a stream, from a graph where that pays. The result may be overwritten by
    the next call. ``still``: weights and memory stay where they are between chunks."""
    caches = state.caches
    rope = dit.begin(latents, plan, caches, first_latent)
    inputs = (latents, lq_tokens, *rope)
    if not still:
        state.graph = None
    step = _record(dit, inputs, constants, plan, state) if still and _pays(lq_tokens, plan, state) else None
    if step is None or step.graph is None or step.velocity is None:
        return dit.step(latents, lq_tokens, rope, constants, plan, caches)
    for static, value in zip(step.inputs, inputs, strict=True):
        static.copy_(value)
    step.graph.replay()
    _pool(caches).layers_done = len(caches)
    return step.velocity


def _pays(tokens: Tensor, plan: AttentionPlan, state: StreamState) -> bool:
    """From the second chunk of the steady shape on (its kernels are compiled by then), for few tokens."""
    able = tokens.device.type == "cuda" and plan.attention.kernels and plan.attention.observe is None
    if not able or tokens.shape[0] > MAX_TOKENS or torch.version.hip is not None:
        return False
    return state.chunk >= max(2, plan.attention.kv_len - 1)


def _record(
    dit: DiT, inputs: tuple[Tensor, ...], constants: DiTConstants, plan: AttentionPlan, state: StreamState
) -> DiTGraph | None:
    table = _pool(state.caches).tensors().table
    known = state.graph
    if known is not None:
        return known if known.graph is not None and known.table is table else None
    static = tuple(value.clone() for value in inputs)
    graph = torch.cuda.CUDAGraph()
    try:
        # Another thread may take memory meanwhile; that concerns neither it nor this recording.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = dit.step(static[0], static[1], (static[2], static[3]), constants, plan, state.caches)
    except RuntimeError as error:
        log.warning("the DiT runs without a CUDA graph: %s", str(error).strip().splitlines()[0])
        state.graph = DiTGraph(None, (), None, table)
        _pool(state.caches).layers_done = 0
        return None
    state.graph = DiTGraph(graph, static, result, table)
    return state.graph


def _pool(caches: Sequence[Cache] | Parking[Cache]) -> KVPool:
    view = None if isinstance(caches, Parking) else caches[0]
    if not isinstance(view, KVPoolView):
        raise TypeError(f"a graph needs a KV pool, not a {type(view).__name__}")
    return view.pool
