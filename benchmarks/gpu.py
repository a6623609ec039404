"""Speed and memory of the whole stream on a GPU, with random weights of the release's size.

    python -m benchmarks.gpu [--cases tiny:768x1408 full:768x1408:53] [--attention sage] [--sparse-ratio 2 1]

A case is MODE:HEIGHTxWIDTH[:FRAMES] of the output. Frames are in memory, files are left out; everything else is in:
upscaling the input, the model, colour fix, 8-bit frames back in main memory. FPS is that of the steady state (from the
third chunk on). Stage times are medians per 8 frames, taken with events, without waiting for the device. "First" is the
first chunk (21 frames) of a stream after another one of that size, over a later chunk (8 frames), both to the end of
the device's work. Prints the time until the kernels are ready, a table, and one JSON line per case.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.random_models import random_models
from src.config import Options
from src.device import DTYPES, resolve_device
from src.engine import PIPELINES
from src.models.manager import Models
from src.ops.attention import with_observer
from src.ops.resolve import resolve_attention, why_no_triton
from src.pipelines.geometry import to_host, to_uint8
from src.pipelines.stream import Pipeline

CASES = ["tiny:768x1408", "tiny:1024x1920", "tiny:2176x3840:200", "full:768x1408:93"]
FRAMES = 181
SCALE = 4
GIB = 2**30


class Stages:
    """Device time of the parts of a pipeline, by events around their calls."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.marks: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {}
        self.peaks: dict[str, float] = {}
        pipeline._denoise = self._timed("projector + dit", pipeline._denoise)  # type: ignore[method-assign]
        pipeline.decode = self._timed("decoder", pipeline.decode)  # type: ignore[method-assign]
        pipeline._finish = self._timed("finish", pipeline._finish)  # type: ignore[method-assign]
        self._watch("projector", pipeline.models.projector)

    def _watch(self, name: str, module: nn.Module) -> None:
        module.forward = self._timed(name, module.forward)

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **settings: Any) -> Any:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.reset_peak_memory_stats()
            begin.record()
            result = call(*args, **settings)
            end.record()
            peak = torch.cuda.max_memory_allocated() / GIB
            self.peaks[name] = round(max(self.peaks.get(name, 0.0), peak), 2)
            self.marks.setdefault(name, []).append((begin, end))
            return result

        return timed

    def milliseconds(self, later_chunks: int) -> dict[str, float]:
        """Median per later chunk: calls are summed up per chunk, the first chunk's are left out."""
        result = {}
        for name, marks in self.marks.items():
            per_chunk = max(1, -(-len(marks) // (later_chunks + 3)))  # the first chunk decodes three times as much
            times = [begin.elapsed_time(end) for begin, end in marks]
            tail = times[-per_chunk * later_chunks :]
            sums = [sum(tail[i : i + per_chunk]) for i in range(0, len(tail), per_chunk)]
            result[name] = round(statistics.median(sums), 2)
        result["dit"] = round(result.pop("projector + dit") - result["projector"], 2)
        return result


def frames(count: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Moving noise, soft enough to be a picture."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (height * 2, width * 2, 3), dtype=np.uint8)
    for index in range(count):
        shift = index % height
        yield np.ascontiguousarray(base[shift : shift + height, shift : shift + width])


def run(pipeline: Pipeline, count: int, height: int, width: int) -> tuple[list[float], list[int]]:
    """Arrival times (seconds since the start) of the parts in main memory, and their frames."""
    source = frames(count, height // SCALE, width // SCALE)
    stream = pipeline.stream(source, height // SCALE, width // SCALE, Fraction(SCALE))
    began, times, sizes = time.perf_counter(), [], []
    for part in to_host(map(to_uint8, stream)):
        times.append(time.perf_counter() - began)
        sizes.append(part.shape[0])
    return times, sizes


def first_and_later(pipeline: Pipeline, height: int, width: int) -> tuple[float, float]:
    """Seconds of the first chunk and the median of later ones, of a stream on a device that is warm."""
    inputs = list(frames(21 + 4 + 8 * 8, height // SCALE, width // SCALE))
    torch.cuda.synchronize()
    last, shown, chunks = time.perf_counter(), 0, list[float]()
    for part in pipeline.stream(iter(inputs), height // SCALE, width // SCALE, Fraction(SCALE)):
        shown += part.shape[0]
        if shown >= 21 and (shown - 21) % 8 == 0:  # a chunk may come in several parts
            torch.cuda.synchronize()
            now = time.perf_counter()
            chunks.append(now - last)
            last = now
    return chunks[0], statistics.median(chunks[1:-1])


def steady_fps(times: list[float], sizes: list[int]) -> float:
    """Frames per second after the second chunk (29 frames)."""
    shown = np.cumsum(sizes)
    start = int(np.searchsorted(shown, 29))
    return float((shown[-1] - shown[start]) / (times[-1] - times[start]))


def measure(models: Models, case: str, options: Options) -> dict[str, Any]:
    """All numbers of one case."""
    mode, size, *rest = case.split(":")
    height, width = (int(side) for side in size.split("x"))
    count = int(rest[0]) if rest else FRAMES
    device = models.device
    attention = resolve_attention(options, models.config.sampling, device, models.dtype)
    selected: list[Tensor] = []
    watched = with_observer(attention, lambda mask: selected.append(mask.float().mean()))
    gc.collect()  # the pipeline of the last case, and with it perhaps its models
    torch.cuda.empty_cache()
    began = time.perf_counter()
    run(PIPELINES[mode](models, watched, color=options.color_fix), 29, height, width)
    torch.cuda.synchronize(device)
    warm_up = time.perf_counter() - began
    share = float(torch.stack(selected[-len(models.dit.blocks) :]).mean()) if selected else 1.0
    selected.clear()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    pipeline = PIPELINES[mode](models, attention, color=options.color_fix)
    stages = Stages(pipeline)
    times, sizes = run(pipeline, count, height, width)
    torch.cuda.synchronize(device)
    milliseconds = stages.milliseconds(-(-(count - 21) // 8))
    del models.projector.forward  # the class's own again
    peaks, reserved = stages.peaks, torch.cuda.max_memory_reserved(device)
    del pipeline, stages
    first, later = first_and_later(PIPELINES[mode](models, attention, color=options.color_fix), height, width)
    return {
        "case": case,
        "attention": attention.kind,
        "kernels": attention.kernels,
        "precision": options.precision,
        "sparse_ratio": attention.sparse_ratio,
        "selected": round(share, 4),
        "fps": round(steady_fps(times, sizes), 2),
        "frames": sum(sizes),
        "first_picture_s": round(times[int(np.searchsorted(np.cumsum(sizes), 21))], 3),
        "first_chunk_s": round(first, 3),
        "later_chunk_s": round(later, 3),
        "first_over_later": round(first / later, 2),
        "warm_up_s": round(warm_up, 2),
        "peak_gib": max(peaks.values()),
        "peak_gib_by_stage": peaks,
        "reserved_gib": round(reserved / GIB, 2),
        "ms_per_8_frames": milliseconds,
        "gpu_model": torch.cuda.get_device_name(device),
        "dtype": str(models.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, help="MODE:HEIGHTxWIDTH[:FRAMES]")
    parser.add_argument("--attention", nargs="+", default=["sage"], choices=["sage", "block", "dense"])
    parser.add_argument("--sparse-ratio", nargs="+", type=float, default=[2.0, 1.0])
    parser.add_argument("--dtype", default="bf16", choices=sorted(DTYPES))
    parser.add_argument("--color-fix", default="wavelet", choices=["none", "adain", "wavelet"])
    parser.add_argument("--precision", default="full", choices=["full", "fp8"])
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    models: dict[str, Models] = {}
    rows = []
    began = time.perf_counter()
    reason = why_no_triton(device, DTYPES[arguments.dtype])
    ready = time.perf_counter() - began
    print(json.dumps({"kernels_ready_s": round(ready, 2), "why_not": reason}), flush=True)
    for case in arguments.cases:
        mode = "full" if case.startswith("full") else "tiny"
        if mode not in models:
            models = {mode: random_models(mode, device, DTYPES[arguments.dtype], precision=arguments.precision)}
        for kind in arguments.attention:
            for ratio in arguments.sparse_ratio:
                options = Options(
                    attention=kind, sparse_ratio=ratio, color_fix=arguments.color_fix, precision=arguments.precision
                )
                try:
                    row = measure(models[mode], case, options)
                except torch.OutOfMemoryError as error:
                    row = {"case": case, "attention": kind, "sparse_ratio": ratio, "error": str(error).splitlines()[0]}
                print(json.dumps(row), flush=True)
                rows.append(row)
    print(f"\n{'case':22} {'attention':10} {'ratio':>5} {'FPS':>7} {'peak GiB':>9} {'first':>6}  ms per 8 frames")
    for row in rows:
        if "error" in row:
            print(f"{row['case']:22} {row['attention']:10} {row['sparse_ratio']:5} {row['error']}")
            continue
        stages = ", ".join(f"{name} {value}" for name, value in row["ms_per_8_frames"].items())
        print(
            f"{row['case']:22} {row['attention']:10} {row['sparse_ratio']:5} {row['fps']:7.2f} {row['peak_gib']:9.2f}"
            f" {row['first_over_later']:5.2f}x  {stages} ({row['selected']:.1%} of the blocks)"
        )


if __name__ == "__main__":
    main()
