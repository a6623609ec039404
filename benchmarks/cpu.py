"""Speed and memory of the embedded nano on a CPU, file to file.

    python -m benchmarks.cpu [--input CLIP] [--runs N] [--lengths 1 3]

Each run is a process of its own, so its peak memory is its own. Prints a table and one JSON line.
Quote the median, with device, versions and date beside it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def child(source: Path, target: Path) -> None:
    """One run; prints its numbers as JSON. Stage times are those of the calls, per 8 output frames."""
    began = time.perf_counter()
    from torch import nn

    from src import Options, upscale_file
    from src.engine import make_engine

    options = Options(input=source, output=target, model="nano", device="cpu", overwrite=True)
    engine = make_engine(options)
    spent: dict[str, float] = {}

    def watch(name: str, module: nn.Module, method: str) -> None:
        call = getattr(module, method)

        def timed(*args: Any, **settings: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **settings)
            spent[name] = spent.get(name, 0) + time.perf_counter() - start
            return result

        setattr(module, method, timed)

    models = engine.models
    watch("projector", models.projector, "forward")
    watch("dit", models.dit, "step")
    watch("decoder", models.decoder, "forward")
    result = upscale_file(options, engine=engine)
    print(
        json.dumps(
            {
                "frames": result.frames,
                "size": f"{result.width}x{result.height}",
                "fps": result.fps,
                "fps_with_start": result.frames / (time.perf_counter() - began),
                "peak_gib": (result.peak_memory or 0) / 2**30,
                "dtype": str(models.dtype).removeprefix("torch."),
                "ms_per_8_frames": {name: seconds / result.frames * 8e3 for name, seconds in spent.items()},
            }
        )
    )


def lengthened(source: Path, times: int, folder: Path) -> Path:
    """``source`` played ``times`` times in a row, without re-encoding."""
    if times == 1:
        return source
    from src.video import ffmpeg

    target = folder / f"{times}x{source.suffix}"
    loop = [
        "-y",
        "-stream_loop",
        str(times - 1),
        *ffmpeg.input_args(source),
        "-map",
        "0:V:0",
        "-c",
        "copy",
        str(target),
    ]
    ffmpeg.run_checked(loop, timeout=120, what="repeating the clip")
    return target


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, default=ROOT / "inputs" / "bbb_320x180.mp4")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 3], help="play the clip so many times in a row")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.input, arguments.child)
        return
    import torch

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for times in arguments.lengths:
            clip = lengthened(arguments.input, times, Path(folder))
            runs = [measure(clip, Path(folder) / "out.mp4") for _ in range(arguments.runs)]
            rows.append(summary(runs))
    report = {
        "benchmark": "cpu",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "runs": arguments.runs,
        "rows": rows,
    }
    print_table(report)
    print(json.dumps(report))


def measure(clip: Path, target: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.cpu", "--input", str(clip), "--child", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of every number."""

    def median(values: list[float], digits: int = 2) -> float:
        return round(statistics.median(values), digits)

    first = runs[0]
    stages = {stage: median([run["ms_per_8_frames"][stage] for run in runs], 0) for stage in first["ms_per_8_frames"]}
    return {
        **{key: first[key] for key in ("frames", "size", "dtype")},
        **{key: median([run[key] for run in runs]) for key in ("fps", "fps_with_start", "peak_gib")},
        "ms_per_8_frames": stages,
    }


def print_table(report: dict[str, Any]) -> None:
    print(
        f"{report['cpu']}; Python {report['python']}, torch {report['torch']}; {report['date']};"
        f" medians of {report['runs']} runs"
    )
    print("frames  output     dtype     FPS   FPS with start  peak GiB  ms per 8 frames: projector / DiT / decoder")
    for row in report["rows"]:
        stages = row["ms_per_8_frames"]
        print(
            f"{row['frames']:6d}  {row['size']:9s}  {row['dtype']:8s}  {row['fps']:4.2f}  {row['fps_with_start']:14.2f}"
            f"  {row['peak_gib']:8.2f}  {stages['projector']:.0f} / {stages['dit']:.0f} / {stages['decoder']:.0f}"
        )


if __name__ == "__main__":
    main()
