"""How far reduced precision moves the latents of a whole stream, with random weights of the release's size.

    python -m benchmarks.accuracy [--size 512x768] [--chunks 5]

For every attention backend: its run in bf16 against a run of the same weights in float32, with exact float32
attention over the very blocks that the first run selected.
Relative L2 of the latents (noise - velocity). "dense" is bf16's own share.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.random_models import random_models
from src import chunks
from src.config import Options
from src.models.dit import DiT
from src.models.manager import Models
from src.models.tcdecoder import TCDecoder
from src.ops.attention import Attention, TorchPlan, with_observer
from src.ops.resolve import resolve_attention
from src.state import ConvState, KVCache


@dataclass(frozen=True)
class ForcedPlan(TorchPlan):
    """Exact attention over block masks that are handed in, one per layer and chunk."""

    masks: Iterator[Tensor] | None = None

    def _select(self, q: Tensor, cache: KVCache) -> tuple[Tensor, Tensor]:
        columns = super()._select(q, cache)[1]
        assert self.masks is not None
        return next(self.masks).to(q.device), columns


def inputs(count: int, rows: int, columns: int, models: Models) -> tuple[list[Tensor], list[Tensor]]:
    """Noise and LQ tokens of ``count`` chunks, float32."""
    generator = torch.Generator().manual_seed(5)
    noise, tokens = [], []
    for chunk in range(count):
        latents = chunks.latents_out(chunk)
        noise.append(torch.randn(1, 16, latents, rows * 2, columns * 2, generator=generator))
        tokens.append(torch.randn(latents * rows * columns, models.config.dit.dim, generator=generator))
    return noise, tokens


@torch.no_grad()
def latents(models: Models, plan: Any, caches: Any, noise: list[Tensor], tokens: list[Tensor]) -> Tensor:
    """The latents of all chunks, (1, 16, T, h, w) float32 on the CPU."""
    out = []
    for chunk, (start, lq) in enumerate(zip(noise, tokens, strict=True)):
        start, lq = start.to(models.device, models.dtype), lq.to(models.device, models.dtype)
        velocity = models.dit(start, lq, models.constants, plan, caches, chunks.first_latent(chunk))
        out.append((start.float() - velocity.float()).cpu())
    return torch.cat(out, dim=2)


def relative(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact.double()).norm() / exact.double().norm())


def cast(models: Models, dtype: torch.dtype) -> Models:
    """The same numbers in another dtype (bf16 to float32 loses nothing)."""
    config = models.config
    with torch.device("meta"):
        dit = DiT(config.dit)
    state = {name: tensor.to(dtype) for name, tensor in models.dit.state_dict().items()}
    dit.load_state_dict(state, assign=True)
    dit.eval().requires_grad_(False)
    prompt = torch.randn(1, 512, config.dit.text_dim, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        constants = dit.constants(prompt.to(models.device, dtype))
    return Models(config, dit, constants, models.projector, models.decoder, models.device, dtype)


@torch.no_grad()
def decoder_error(low: Models, height: int, width: int) -> float:
    """TCDecoder in bf16 against float32, two calls of a stream, from the same latents and LQ frames."""
    decoder = low.decoder
    assert isinstance(decoder, TCDecoder)
    with torch.device("meta"):
        exact = TCDecoder(low.config.tcdecoder)
    exact.load_state_dict({name: tensor.float() for name, tensor in decoder.state_dict().items()}, assign=True)
    generator = torch.Generator().manual_seed(6)
    states, out = (ConvState(), ConvState()), []
    constants = (decoder.constants(), exact.constants())
    for steps, frames in ((2, 5), (2, 8)):
        z = torch.randn(1, 16, steps, height // 8, width // 8, generator=generator).to(low.device, low.dtype)
        lq = (torch.rand(frames, 3, height, width, generator=generator) * 2 - 1).to(low.device, torch.float16)
        ours = decoder(z, lq, states[0], constants[0])
        out.append((ours.float(), exact(z.float(), lq.float(), states[1], constants[1])))
    return max(relative(ours, twin) for ours, twin in out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="512x768", help="HEIGHTxWIDTH, multiples of 128")
    parser.add_argument("--chunks", type=int, default=5)
    parser.add_argument("--attention", nargs="+", default=["sage", "block", "dense"])
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    height, width = (int(side) for side in arguments.size.split("x"))
    low = cast(random_models("tiny", device, torch.bfloat16), torch.bfloat16)
    exact = cast(low, torch.float32)
    noise, tokens = inputs(arguments.chunks, height // 16, width // 16, low)
    result: dict[str, Any] = {
        "size": arguments.size,
        "chunks": arguments.chunks,
        "device": torch.cuda.get_device_name(),
    }
    grid = (height // 128, width // 128)
    for kind in [*arguments.attention, "sage + int8 values", "sage + fp8"]:
        if kind.endswith("fp8"):  # last: it replaces the 16-bit weights
            low.dit.to_fp8()
        masks: list[Tensor] = []
        attention = resolve_attention(Options(attention=kind.split()[0]), low.config.sampling, device, torch.bfloat16)

        def keep(mask: Tensor, masks: list[Tensor] = masks) -> None:
            masks.append(mask.cpu())

        attention = replace(with_observer(attention, keep), int8_values=kind.endswith("int8 values"))
        layers = len(low.dit.blocks)
        ours = latents(low, attention.for_size(*grid, device), attention.new_caches(layers, 3, 1), noise, tokens)
        twin = Attention(attention.kind, attention.sparse_ratio, attention.local_range, attention.kv_len)
        plan = twin.for_size(*grid, device)
        assert isinstance(plan, TorchPlan)
        forced = ForcedPlan(twin, plan.windows, plan.local, plan.pairs, iter(masks))
        result[kind] = {
            "kernels": attention.kernels,
            "latents": relative(ours, latents(exact, forced, twin.new_caches(layers, 3, 1), noise, tokens)),
            "selected": float(torch.stack([m.float().mean() for m in masks]).mean()) if masks else 1.0,
        }
        print(kind, result[kind], flush=True)
    result["decoder"] = decoder_error(low, height, width)
    print("decoder", result["decoder"], flush=True)
    result |= {"torch": torch.__version__, "date": datetime.date.today().isoformat()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
