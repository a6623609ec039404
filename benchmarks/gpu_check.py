"""What must hold on a CUDA card and no CPU test can show, with random weights. Exit code 1 if anything fails.

    python -m benchmarks.gpu_check [--chunks 100]

Kernels against their twins; the CUDA graph against the plain path; two streams at once against one after the other;
memory that does not grow; the CPU's picture against the GPU's; tiles and weights that wait in main memory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor

from benchmarks.gpu import frames
from benchmarks.random_models import random_models
from src.config import DiTConfig, ModelConfig, Options, ProjectorConfig, TCDecoderConfig, VAEConfig
from src.engine import PIPELINES
from src.memory import Placement
from src.models import dit_graph
from src.models.manager import fold_time
from src.ops.resolve import resolve_attention, why_no_triton
from src.pipelines.stream import Pipeline

# Heads as wide as the release's, so that its kernels run; everything else small.
CONFIG = ModelConfig(
    dit=DiTConfig(dim=256, ffn_dim=512, freq_dim=64, text_dim=64, num_heads=2, num_layers=5),
    projector=ProjectorConfig(hidden_dims=(64, 128), out_dim=256),
    tcdecoder=TCDecoderConfig(channels=(128, 64, 64, 64)),
    vae=VAEConfig(dim=32),
)
SIDE = 128  # of the input: 512 x 512 out
GPU = torch.device("cuda")


def pipeline(mode: str, kind: str = "sage", device: torch.device = GPU) -> Pipeline:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    models = random_models(mode, device, dtype, CONFIG)
    options = Options(attention=kind, sparse_ratio=0.1)
    return PIPELINES[mode](models, resolve_attention(options, models.config.sampling, device, dtype))


def run(pipe: Pipeline, count: int, shift: int = 0) -> Tensor:
    source = list(frames(count + shift, SIDE, SIDE))[shift:]
    return torch.cat([part.cpu() for part in pipe.stream(source, SIDE, SIDE, Fraction(4))])


def kernels(arguments: argparse.Namespace) -> str | None:
    """Every Triton kernel compiles and gives its twin's numbers."""
    return why_no_triton(GPU, torch.bfloat16) or why_no_triton(GPU, torch.float16)


def graph(arguments: argparse.Namespace) -> str | None:
    """Frames with the CUDA graph are those without, bit by bit."""
    pipe, used = pipeline("tiny"), 0
    state = pipe.new_state()
    with_graph = torch.cat([p.cpu() for p in pipe.stream(frames(61, SIDE, SIDE), SIDE, SIDE, Fraction(4), state=state)])
    used = state.graph is not None and state.graph.graph is not None
    limit = dit_graph.MAX_TOKENS
    try:
        dit_graph.MAX_TOKENS = 0
        plain = run(pipe, 61)
    finally:
        dit_graph.MAX_TOKENS = limit
    if not used:
        return "no graph was recorded"
    return None if torch.equal(with_graph, plain) else f"they differ by {(with_graph - plain).abs().max():.2e}"


def two_streams(arguments: argparse.Namespace) -> str | None:
    """Two interleaved streams give what each gives alone, in every mode."""
    for mode in PIPELINES:
        pipe = pipeline(mode)
        alone = [run(pipe, 45, shift) for shift in (0, 7)]
        sources = [list(frames(45 + shift, SIDE, SIDE))[shift:] for shift in (0, 7)]
        streams = [pipe.stream(source, SIDE, SIDE, Fraction(4)) for source in sources]
        parts: list[list[Tensor]] = [[], []]
        for pair in zip(*streams, strict=True):
            for got, part in zip(parts, pair, strict=True):
                got.append(part.cpu())
        for got, expected in zip(parts, alone, strict=True):
            if not torch.equal(torch.cat(got), expected):
                return f"{mode}: they differ by {(torch.cat(got) - expected).abs().max():.2e}"
    return None


def flat_memory(arguments: argparse.Namespace) -> str | None:
    """Allocated memory does not grow after the first chunks, reserved memory by no more than 5 %, in every mode."""
    for mode in PIPELINES:
        pipe, marks = pipeline(mode), {}
        stream = pipe.stream(frames(21 + 8 * arguments.chunks, SIDE, SIDE), SIDE, SIDE, Fraction(4))
        shown = 0
        for part in stream:
            shown += part.shape[0]
            del part
            # What was asked for: blocks that are handed out may be a little larger, now one and now another.
            asked = torch.cuda.memory_stats()["requested_bytes.all.current"]
            marks[shown] = (asked, torch.cuda.memory_reserved())
        # What happens to be in flight differs from chunk to chunk, so the largest of ten chunks each.
        history = [marks[shown] for shown in sorted(marks)]
        early, late = (max(allocated for allocated, _ in part) for part in (history[10:20], history[-10:]))
        reserved = history[20][1], history[-1][1]
        if late > early or reserved[1] > 1.05 * reserved[0]:
            return f"{mode}: allocated grew from {early} to {late} bytes, reserved from {reserved[0]} to {reserved[1]}"
    return None


def same_picture(arguments: argparse.Namespace) -> str | None:
    """bf16 on the GPU stays within a few 8-bit levels of float32 on the CPU, given the same weights."""
    for mode in ("tiny", "full"):
        models = random_models(mode, torch.device("cpu"), torch.float32, CONFIG)
        options = Options(attention="block", sparse_ratio=1000)
        attention = resolve_attention(options, models.config.sampling, models.device, models.dtype)
        slow = PIPELINES[mode](models, attention)
        fast = pipeline(mode, "block")
        fast = PIPELINES[mode](fast.models, replace(fast.attention, sparse_ratio=1000))
        for name in ("dit", "projector", "decoder"):
            state = {k: v.to(GPU, torch.bfloat16) for k, v in getattr(slow.models, name).state_dict().items()}
            getattr(fast.models, name).load_state_dict(state)
        fold_time(fast.models.projector, fast.models.decoder, GPU, torch.bfloat16)  # kernels made of the old weights
        prompt = torch.randn(1, 16, CONFIG.dit.text_dim, generator=torch.Generator().manual_seed(1))
        pipes = []
        for pipe, values in ((slow, prompt), (fast, prompt.to(GPU, torch.bfloat16))):
            with torch.no_grad():
                constants = pipe.models.dit.constants(values)
            loaded = replace(pipe.models, constants=constants)
            pipes.append(PIPELINES[mode](loaded, pipe.attention))
        expected, ours = (run(pipe, 30) for pipe in pipes)
        error = float((ours - expected).square().mean().sqrt())
        print(f"  {mode}: RMS difference {error * 255:.2f} of 255 levels")
        if not error < 0.02:
            return f"{mode}: RMS difference {error:.3f} of a full scale of 1"
    return None


def placements(arguments: argparse.Namespace) -> str | None:
    """KV caches that wait in main memory and weights that are streamed change no bit."""
    for mode in ("tiny", "full"):
        pipe = pipeline(mode)
        tiles = Placement(tile=256, overlap=64, decoder_tile=256 if mode == "full" else None)
        moved_weights = [Placement(weights=weights) for weights in ("unload", "blocks")]
        pairs = [(Placement(), moved) for moved in (*moved_weights, Placement(park=True))]
        pairs.append((tiles, replace(tiles, park=True, weights="blocks")))
        pairs.append((Placement(int8_values=True), Placement(int8_values=True, park=True)))
        for plain, moved in pairs:
            out = []
            for placement in (plain, moved):
                pipe.residency.set(placement.weights)
                out.append(run(pipe.placed(placement), 45))
            pipe.residency.set("resident")
            if not torch.equal(*out):
                return f"{mode}, {moved.text()}: they differ by {(out[0] - out[1]).abs().max():.2e}"
    return None


CHECKS: list[Callable[[argparse.Namespace], str | None]] = [
    kernels,
    graph,
    two_streams,
    flat_memory,
    same_picture,
    placements,
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=100)
    arguments = parser.parse_args()
    if arguments.chunks < 20:
        parser.error("--chunks must be at least 20")
    if not torch.cuda.is_available():
        print("there is no CUDA card here")
        return 1
    failed = 0
    for check in CHECKS:
        reason = check(arguments)
        failed += reason is not None
        print(f"{'FAILED' if reason else 'ok':6} {check.__name__}: {reason or check.__doc__}", flush=True)
        torch.cuda.empty_cache()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
