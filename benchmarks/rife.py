"""Speed of frame interpolation: RIFE on a device with random weights, motion compensation on the CPU.

    python -m benchmarks.rife [--device cuda] [--dtype fp16] [--size 1920x1080] [--frames N] [--skip-mci]

The time does not depend on the values of the weights, so none are downloaded. ``net``: the network alone, frames on
the device. ``tool``: 2x of frames in main memory and back, as the tool runs it. ``mci``: FFmpeg's motion compensation
in the tool, frames from memory. Nothing is encoded. Prints one JSON line; frames per second count new frames only.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
import statistics
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from toolbox.clip import Clip, Job
from toolbox.interpolate import interpolate
from toolbox.rife import Rife, pick_device
from toolbox.rife_net import IFNet, pad_to_multiple
from toolbox.sound import Sound

DTYPES = {"fp16": torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}


def moving(width: int, height: int, count: int) -> Iterator[np.ndarray]:
    """A textured picture that moves 6 pixels a frame: work for a motion search, and no two frames alike."""
    y, x = np.mgrid[:height, : width + 6 * count]
    wide = ((x * 13 + y * 7) % 61 + (x // 37 * 31 + y // 29 * 17) % 120).astype(np.uint8)
    picture = np.stack((wide, 255 - wide, wide // 2 + 60), -1)
    for number in range(count):
        yield np.ascontiguousarray(picture[:, 6 * number : 6 * number + width])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_net(device: torch.device, dtype: torch.dtype) -> IFNet:
    torch.manual_seed(0)
    net = IFNet().eval().requires_grad_(False).to(device, dtype)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def time_net(net: IFNet, device: torch.device, width: int, height: int, scale: float, seconds: float) -> dict[str, Any]:
    """Median milliseconds of one middle frame, and the peak of the device's memory."""
    frames = [torch.rand(1, 3, height, width, device=device) for _ in range(2)]
    one, two = pad_to_multiple(frames, round(32 / scale))
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(3):
            net(one, two, scale)
        wait(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        began = time.perf_counter()
        while len(times) < 5 or (time.perf_counter() - began < seconds and len(times) < 300):
            start = time.perf_counter()
            net(one, two, scale)
            wait(device)
            times.append(time.perf_counter() - start)
    middle = statistics.median(times)
    result = {"ms": round(1000 * middle, 3), "fps": round(1 / middle, 2), "runs": len(times)}
    if device.type == "cuda":
        result["peak_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    return result


def time_tool(net: IFNet, device: torch.device, width: int, height: int, count: int) -> dict[str, Any]:
    """New frames per second of 2x, from numpy frames to numpy frames."""
    rife = Rife(net, device)
    frames = list(moving(width, height, count))
    half = [Fraction(1, 2)]
    for _ in range(2):
        list(rife.between(frames[0], frames[1], half))
    began = time.perf_counter()
    made = sum(len(list(rife.between(*pair, half))) for pair in itertools.pairwise(frames))
    spent = time.perf_counter() - began
    return {"new_frames": made, "seconds": round(spent, 3), "fps": round(made / spent, 2)}


def time_mci(width: int, height: int, count: int) -> dict[str, Any]:
    """New frames per second of 2x by motion compensation, start of FFmpeg included."""
    clip = Clip(
        width,
        height,
        Fraction(25),
        count,
        False,
        lambda first, stop: moving(width, height, count),
        False,
        Sound(()),
    )
    made = interpolate(Job(), clip, "2", None, "mci", "cpu", 1.0, 0.1, "keep")
    began = time.perf_counter()
    total = sum(1 for _ in made)
    spent = time.perf_counter() - began
    return {
        "size": f"{width}x{height}",
        "new_frames": total - count,
        "seconds": round(spent, 3),
        "fps": round((total - count) / spent, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="default: fp16 on a GPU, fp32 on a CPU")
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--frames", type=int, default=24, help="frames of the tool's run")
    parser.add_argument("--seconds", type=float, default=4, help="of the network's run")
    parser.add_argument("--mci-size", default="1280x720")
    parser.add_argument("--mci-frames", type=int, default=12)
    parser.add_argument("--skip-mci", action="store_true")
    given = parser.parse_args()
    device = pick_device(given.device)
    name = given.dtype or ("fp32" if device.type == "cpu" else "fp16")
    width, height = (int(side) for side in given.size.split("x"))
    net = random_net(device, DTYPES[name])
    gpu = device.type == "cuda"
    result: dict[str, Any] = {
        "benchmark": "rife",
        "device": torch.cuda.get_device_name(device) if gpu else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "threads": torch.get_num_threads(),
        "size": given.size,
        "dtype": name,
        "net": time_net(net, device, width, height, 1.0, given.seconds),
        "net_half_flow": time_net(net, device, width, height, 0.5, given.seconds),
        "tool": time_tool(net, device, width, height, given.frames),
    }
    if not given.skip_mci:
        width, height = (int(side) for side in given.mci_size.split("x"))
        result["mci"] = time_mci(width, height, given.mci_frames)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
