"""Long jobs with nano on a CPU: constant memory, and kill -9 in the middle.

    python -m benchmarks.endurance --frames 3000    resident memory along a long job
    python -m benchmarks.endurance --kills 10       a job killed ten times at random moments, against one left alone
    python -m benchmarks.endurance --counts 60      clips of 1 to 60 frames in five sizes, whole and in tiles

Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
COUNT_SIZES = ["320x180", "321x179", "128x128", "33x17", "640x272"]


def make_clip(path: Path, frames: int, size: str) -> Path:
    """A moving pattern with sound."""
    from src.video import ffmpeg

    seconds = frames / 25
    args = ["-y", "-f", "lavfi", "-i", f"testsrc2=s={size}:r=25", "-f", "lavfi"]
    args += ["-i", f"sine=frequency=330:beep_factor=3:duration={seconds}", "-frames:v", str(frames)]
    args += ["-c:v", "libx264", "-qp", "0", "-c:a", "aac", str(path)]
    ffmpeg.run_checked(args, 600, "making the clip")
    return path


def long_run(count: int, size: str, folder: Path) -> dict[str, Any]:
    """Resident memory of this process along one job."""
    from src import Options, upscale_file
    from src.device import own_memory
    from src.video import probe

    clip = make_clip(folder / "long.mkv", count, size)
    seen: list[tuple[int, int]] = []
    options = Options(input=clip, output=folder / "long.mp4", model="nano", device="cpu", scale=2)
    result = upscale_file(options, lambda state: seen.append((state.frames, own_memory())))
    at_500 = next(memory for frames, memory in seen if frames >= 500)
    marks = [next(memory for frames, memory in seen if frames >= mark) for mark in range(500, count + 1, 500)]
    last = max(memory for frames, memory in seen if frames >= 500)
    return {
        "frames": result.frames,
        "frames_written": probe(result.path).frames,
        "size": f"{result.width}x{result.height}",
        "fps": round(result.fps, 1),
        "rss_mib_every_500": [round(memory / 2**20, 1) for memory in marks],
        "growth_after_500_percent": round(100 * (last / at_500 - 1), 2),
    }


def killed(kills: int, frames: int, size: str, folder: Path, seed: int) -> dict[str, Any]:
    """One job killed again and again, and the same job left alone."""
    from src.video import open_source, probe

    clip = make_clip(folder / "in.mkv", frames, size)
    rng = random.Random(seed)
    common = ["-s", "2", "-v", "nano", "-d", "cpu", "--segment-frames", "24", "--quiet"]

    def command(target: Path) -> list[str]:
        return [sys.executable, str(ROOT / "run.py"), "-i", str(clip), str(target), *common]

    began = time.perf_counter()
    subprocess.run(command(folder / "whole.mp4"), check=True, stdout=subprocess.DEVNULL)
    length = time.perf_counter() - began
    done, moments = 0, []
    target = folder / "killed.mp4"
    while done < kills:
        process = subprocess.Popen(command(target), start_new_session=True, stdout=subprocess.DEVNULL)
        # Somewhere in what a run takes: while it starts, computes, writes a segment or joins them.
        moment = rng.uniform(0.3, 0.75) * length
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if target.exists():  # it had just finished
                target.unlink()
                continue
            done += 1
            journal = folder / f".{target.name}.unfinished" / "journal.json"
            segments = json.loads(journal.read_text())["segments"] if journal.exists() else []
            moments.append((round(moment, 2), sum(item["frames"] for item in segments)))
            continue
        if target.exists():  # finished before its kill: throw it away and go on killing
            target.unlink()
    subprocess.run(command(target), check=True, stdout=subprocess.DEVNULL)
    with open_source(folder / "whole.mp4") as one, open_source(target) as other:
        a, b = np.stack(list(one)).astype(np.int16), np.stack(list(other)).astype(np.int16)
    same = [bool(np.array_equal(x, y)) for x, y in zip(a, b, strict=True)]
    difference = np.abs(a - b)
    whole, ours = probe(folder / "whole.mp4"), probe(target)
    return {
        "kills_after_seconds_and_frames_done": moments,
        "frames": [len(a), len(b)],
        "frames_equal": sum(same),
        "mean_difference_levels": round(float(difference.mean()), 4),
        "largest_difference_levels": int(difference.max()),
        "sound_and_rate_equal": (whole.fps, whole.duration, len(whole.audio_streams))
        == (ours.fps, ours.duration, len(ours.audio_streams)),
    }


def counted(most: int, sizes: list[str]) -> dict[str, Any]:
    """Clips of 1 to ``most`` frames: as many must come out, of the exact size, finite and not flat."""
    from src import Options, upscale
    from src.engine import make_engine

    found: dict[str, Any] = {}
    for size in sizes:
        width, height = (int(side) for side in size.split("x"))
        noise = np.random.default_rng(0).integers(0, 256, (most, height, width, 3), np.uint8)
        for way, changes in (("whole", {}), ("tiled", {"tiled_dit": True, "tile_size": 128, "overlap": 32})):
            options = Options(input=ROOT, model="nano", device="cpu", scale=1, no_scene_cuts=True, **changes)
            engine = make_engine(options)
            for count in range(1, most + 1):
                frames = list(upscale(noise[:count], options, engine))
                if len(frames) != count or any(f.shape != (height, width, 3) or not np.ptp(f) for f in frames):
                    raise SystemExit(f"{size} {way}: {count} frames in, {len(frames)} out")
            found[f"{size} {way}"] = f"1..{most} ok"
            print(f"{size} {way}: 1..{most} ok", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--counts", type=int, default=0)
    parser.add_argument("--count-sizes", nargs="+", default=COUNT_SIZES, metavar="WIDTHxHEIGHT")
    parser.add_argument("--size", default="64x48")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"benchmark": "endurance", "date": datetime.date.today().isoformat()}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.frames:
            report["long"] = long_run(arguments.frames, arguments.size, Path(folder))
        if arguments.kills:
            report["killed"] = killed(arguments.kills, 240, arguments.size, Path(folder), arguments.seed)
        if arguments.counts:
            report["counts"] = counted(arguments.counts, arguments.count_sizes)
    for name, part in report.items():
        if isinstance(part, dict):
            for key, value in part.items():
                print(f"{name:7s} {key}: {value}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
