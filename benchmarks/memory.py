"""Memory: the factors of the cost model, and proof that a job keeps to its budget.

    python -m benchmarks.memory                        fits the factors on this device
    python -m benchmarks.memory --limits 8:1920x1080 24:3840x2160 6:1280x720:tiny-long

On a GPU the model has the release's size and random weights (memory and time do not depend on their values); on a CPU
it is nano, and each case is a process of its own. A limit is GIB:WIDTHxHEIGHT[:MODE]: PyTorch is held to so
many GiB, the plan is made for them, and the run is repeated without a limit where that fits. Prints tables and one
JSON line.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.config import Options
from src.device import free_memory, limit_memory, resolve_device, resolve_dtype
from src.engine import PIPELINES
from src.errors import FlashVSRError
from src.memory import FACTORS, GIB, Job, Placement, estimate, kv_bytes, units, weight_bytes
from src.models.manager import Models
from src.ops.resolve import resolve_attention
from src.pipelines.geometry import Geometry, to_uint8
from src.pipelines.stream import Pipeline
from src.plan import Fitting, fit
from src.state import tensors_of

ROOT = Path(__file__).parent.parent
SCALE = 4
FRAMES = 61  # the first chunk and five later ones
SIZES = ["1280x720", "1920x1080"]
SMALL = Placement(park=True, decoder_tile=1024, latents_at_once=1)
PLACEMENTS = [Placement(), SMALL, replace(SMALL, tile=768, decoder_tile=512, weights="blocks")]


def frames(count: int, geometry: Geometry) -> Iterator[np.ndarray]:
    """Noise that moves."""
    base = np.random.default_rng(0).integers(0, 256, (geometry.height * 2, geometry.width, 3), dtype=np.uint8)
    for index in range(count):
        yield np.ascontiguousarray(base[index % geometry.height :][: geometry.height])


def run(pipeline: Pipeline, geometry: Geometry, count: int, state: Any = None, warm: int = 29) -> float:
    """Run a stream; frames per second after ``warm`` frames, the chunks in which libraries choose kernels."""
    shown, began = 0, 0.0
    source = frames(count, geometry)
    stream = pipeline.stream(source, geometry.height, geometry.width, geometry=geometry, state=state)
    for part in stream:
        to_uint8(part).cpu()
        shown += part.shape[0]
        if shown == warm:
            began = time.perf_counter()
    return (count - warm) / (time.perf_counter() - began)


def size_of(text: str) -> Geometry:
    width, height = (int(side) for side in text.split("x"))
    return Geometry.of(height // SCALE, width // SCALE, Fraction(SCALE))


class Meter:
    """The largest extra memory of each stage of a pipeline on a CUDA device, in bytes, by the factor it stands for."""

    def __init__(self, pipeline: Pipeline, mode: str) -> None:
        self.device = pipeline.models.device
        self.extra: dict[str, int] = {}
        self.later: dict[str, int] = {}  # without the first call, in which decoders take their state
        self.before: dict[str, int] = {}
        self.before_dit = 0
        self.peak = 0
        models = pipeline.models
        decoder = "vae" if mode == "full" else "tcdecoder"
        self.watch(models.projector, "forward", "projector")
        self.watch(models.dit, "step", "dit")
        self.watch(pipeline, "decode", decoder)
        self.watch(pipeline, "_finish", "finish")
        self.watched = ((models.projector, "forward"), (models.dit, "step"))

    def watch(self, owner: Any, name: str, factor: str) -> None:
        call: Callable[..., Any] = getattr(owner, name)

        def measured(*args: Any, **settings: Any) -> Any:
            self.peak = max(self.peak, torch.cuda.max_memory_allocated(self.device))
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            if factor == "projector" and not self.before_dit:
                self.before_dit = before
            result = call(*args, **settings)
            extra = torch.cuda.max_memory_allocated(self.device) - before
            if factor in self.extra:
                self.later[factor] = max(self.later.get(factor, 0), extra)
            self.extra[factor] = max(self.extra.get(factor, 0), extra)
            self.before[factor] = max(self.before.get(factor, 0), before)
            return result

        setattr(owner, name, measured)

    def stop(self) -> None:
        self.peak = max(self.peak, torch.cuda.max_memory_allocated(self.device))
        for module, name in self.watched:
            delattr(module, name)  # the class's own again


def measure_cuda(models: Models, mode: str, size: str, placement: Placement, options: Options) -> dict[str, Any]:
    """One case: factors of its stages, predicted and measured peak."""
    geometry = size_of(size)
    fitting = fit(options.replace(mode=mode), geometry, models.config, models.device, models.dtype)
    job = fitting.job
    attention = resolve_attention(options, models.config.sampling, models.device, models.dtype)
    pipeline = PIPELINES[mode](models, attention, color=options.color_fix).placed(placement)
    pipeline.residency.set(placement.weights)
    free_memory(models.device)
    torch.cuda.reset_peak_memory_stats(models.device)
    idle = torch.cuda.memory_allocated(models.device)
    meter = Meter(pipeline, mode)
    state = pipeline.new_state()
    try:
        fps = run(pipeline, geometry, FRAMES, state)
    finally:
        meter.stop()
        pipeline.residency.set("resident")
    size_by_name = units(job, placement)
    extra = meter.extra | {name: meter.later[name] for name in ("tcdecoder", "vae") if name in meter.later}
    # What the model counts apart from the factors, where it comes and goes inside a stage.
    if placement.weights == "blocks":
        extra["dit"] -= int(size_by_name["dit_weights"])
    if placement.park:
        extra["tcdecoder" if mode == "tiny" else "vae"] -= int(decoder_state(job, size_by_name))
    held = sum(tensor.nbytes for tensor in tensors_of([state.caches]) if tensor.is_cuda)
    factors = {name: round(extra[name] / size_by_name[name], 2) for name in extra if name in size_by_name}
    factors["lq"] = round((meter.before_dit - idle) / size_by_name["lq"], 2)
    if not placement.park:
        per_slot = kv_bytes(job, geometry.padded_height, geometry.padded_width) / (job.kv_len + job.factors.kv_slots)
        factors["kv_slots"] = round(held / per_slot - job.kv_len, 2)
    if mode == "full":
        vae_state = sum(tensor.nbytes for tensor in tensors_of(state.decoder) if tensor.is_cuda)
        if placement.decoder_tile is None:
            factors["vae_state"] = round(vae_state / size_by_name["vae_state"], 2)
    return {
        "mode": mode,
        "size": size,
        "placement": placement.text(),
        "fps": round(fps, 2),
        "predicted_gib": round(estimate(job, placement).device / GIB, 2),
        "peak_gib": round(meter.peak / GIB, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved(models.device) / GIB, 2),
        "weights_gib": round(idle / GIB, 2),
        "weights_model_gib": round(sum(weight_bytes(job.config, mode, job.element).values()) / GIB, 2),
        "factors": factors,
        # GiB: before, and on top of that in the worst call of all, and of all but the first
        "stages": {
            name: [round(part.get(name, 0) / GIB, 2) for part in (meter.before, meter.extra, meter.later)]
            for name in meter.extra
        },
    }


def decoder_state(job: Job, size: dict[str, float]) -> float:
    """Bytes of the decoder's states on the device, as the model has them."""
    return size["decoder_state"] + job.factors.vae_state * size["vae_state"]


def fit_cuda(options: Options, device: torch.device, sizes: list[str]) -> dict[str, Any]:
    """Every case, and the largest of every factor: an estimate should never be too low."""
    from benchmarks.random_models import random_models

    rows: list[dict[str, Any]] = []
    for mode in ("tiny", "full"):
        models = random_models(mode, device, resolve_dtype(options.dtype, device))
        for size in sizes:
            for placement in PLACEMENTS:
                try:
                    rows.append(measure_cuda(models, mode, size, placement, options))
                except (torch.OutOfMemoryError, FlashVSRError) as error:
                    rows.append({"mode": mode, "size": size, "placement": placement.text(), "failed": str(error)[:200]})
                print(json.dumps(rows[-1]), flush=True)
        del models
        free_memory(device)
    names = sorted({name for row in rows for name in row.get("factors", {})})
    largest = {name: max(row["factors"][name] for row in rows if name in row.get("factors", {})) for name in names}
    return {"rows": rows, "factors": largest}


def within_limit(text: str, options: Options, device: torch.device, limited_only: bool) -> list[dict[str, Any]]:
    """One job planned for and held to a budget, and, unless told otherwise, the same without one."""
    from benchmarks.random_models import random_models

    gib, size, *rest = text.split(":")
    mode, geometry = rest[0] if rest else "tiny", size_of(size)
    rows = []
    for vram in (float(gib), None)[: 1 if limited_only else 2]:
        limit_memory(device, vram)
        free_memory(device)
        own = options.replace(mode=mode, vram=vram)
        models = random_models(mode, device, resolve_dtype(options.dtype, device))
        row: dict[str, Any] = {"limit_gib": vram, "mode": mode, "size": size}
        attention = resolve_attention(own, models.config.sampling, device, models.dtype)
        whole = PIPELINES[mode](models, attention, color=own.color_fix)
        fitting: Fitting | None = None
        try:
            fitting = fit(own, geometry, models.config, device, models.dtype)
        except FlashVSRError as error:
            row["failed"] = str(error)[:300]
        steps_down: list[str] = []
        while fitting is not None:  # as a job does: on an out-of-memory error one step down the ladder
            whole.residency.set(fitting.placement.weights)
            free_memory(device)
            torch.cuda.reset_peak_memory_stats(device)
            row |= {"plan": fitting.text(), "predicted_gib": round(fitting.need.device / GIB, 2)}
            try:
                row["fps"] = round(run(whole.placed(fitting.placement), geometry, FRAMES), 2)
                break
            except torch.OutOfMemoryError as error:
                steps_down.append(f"{fitting.placement.text()}: {str(error)[:300]}")
            fitting = fitting.lower()
        else:
            row.setdefault("failed", "the bottom of the ladder")
        row["steps_down"] = steps_down
        row["peak_gib"] = round(torch.cuda.max_memory_allocated(device) / GIB, 2)
        row["reserved_gib"] = round(torch.cuda.max_memory_reserved(device) / GIB, 2)
        rows.append(row)
        print(json.dumps(row), flush=True)
        del whole, models
    limit_memory(device, None)
    return rows


# --------------------------------------------------------------------------- on a CPU

CPU_CASES: list[tuple[str, Placement]] = [
    ("640x368", Placement()),
    ("1280x720", Placement()),
    ("1920x1080", Placement()),
    ("1920x1080", Placement(latents_at_once=1)),
    ("1920x1080", Placement(tile=512, decoder_tile=512, latents_at_once=1)),
    ("2560x1440", Placement(latents_at_once=1)),
    ("2560x1440", Placement(tile=512, decoder_tile=512, latents_at_once=1)),
]


def cpu_child(index: int) -> None:
    """One case of nano; prints its peak and the model's units."""
    from src.engine import make_engine

    size, placement = CPU_CASES[index]
    geometry = size_of(size)
    options = Options(model="nano", device="cpu")
    engine = make_engine(options)
    models = engine.models
    job: Job = fit(options, geometry, models.config, models.device, models.dtype).job
    fps = run(engine.pipeline.placed(placement, "wavelet"), geometry, 29, warm=21)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    row = {"size": size, "placement": placement.text(), "fps": round(fps, 2), "peak_gib": round(peak / GIB, 2)}
    row["predicted_gib"] = round(estimate(job, placement).device / GIB, 2)
    print(json.dumps(row | {"units_mib": {k: round(v / 2**20, 1) for k, v in units(job, placement).items()}}))


def run_cpu() -> dict[str, Any]:
    rows = []
    for index in range(len(CPU_CASES)):
        command = [sys.executable, "-m", "benchmarks.memory", "--cpu-case", str(index)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(done.stdout.splitlines()[-1], flush=True)
    return {"rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--limits", nargs="+", default=[], help="GIB:WIDTHxHEIGHT[:MODE], CUDA only")
    parser.add_argument("--limited-only", action="store_true", help="leave out the runs without a limit")
    parser.add_argument("--cpu-case", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cpu_case is not None:
        cpu_child(arguments.cpu_case)
        return
    device = resolve_device(arguments.device)
    options = Options(device=str(device), dtype=arguments.dtype, attention=arguments.attention)
    report: dict[str, Any]
    if arguments.limits:
        report = {
            "rows": [
                row for text in arguments.limits for row in within_limit(text, options, device, arguments.limited_only)
            ]
        }
    elif device.type == "cuda":
        report = fit_cuda(options, device, arguments.sizes)
    else:
        report = run_cpu()
    print_table(report["rows"])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    print(
        json.dumps(
            {
                "benchmark": "memory",
                "device": name,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "date": datetime.date.today().isoformat(),
                "factors_in_use": {kind: factors.measured or "estimated" for kind, factors in FACTORS.items()},
                **report,
            }
        )
    )


def print_table(rows: list[dict[str, Any]]) -> None:
    print("limit  mode       output      FPS  predicted  peak GiB  reserved  placement")
    for row in rows:
        if "failed" in row:
            print(f"{row.get('limit_gib') or '-':>5}  {row['mode']:9s}  {row['size']:9s}  failed: {row['failed']}")
            continue
        print(
            f"{row.get('limit_gib') or '-':>5}  {row.get('mode', 'tiny'):9s}  {row['size']:9s}  {row['fps']:5.2f}"
            f"  {row.get('predicted_gib', '-'):>9}  {row['peak_gib']:8.2f}  {row.get('reserved_gib', '-'):>8}"
            f"  {row.get('plan') or row['placement']}"
        )


if __name__ == "__main__":
    main()
