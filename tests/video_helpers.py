"""Making small clips with known content, and looking into files without the code under test."""

from __future__ import annotations

import re
import subprocess
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np

SAMPLE = Path(__file__).parents[1] / "inputs" / "bbb_320x180.mp4"
GREY_STEP = 4  # luma steps between two frames of a counter clip


def ffmpeg(*args: object, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run FFmpeg; fail the test when it fails."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-y", "-loglevel", "error"]
    done = subprocess.run([*command, *map(str, args)], input=data, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done


def describe(path: Path) -> str:
    """What FFmpeg prints about a file."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-i", f"file:{path}"]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).stderr.decode(errors="replace")


def stream_lines(path: Path, kind: str) -> list[str]:
    """The lines FFmpeg prints about the Video, Audio or Subtitle streams of a file."""
    return [line for line in describe(path).splitlines() if re.search(rf"Stream #0:\d+.*: {kind}: ", line)]


def counter_clip(
    path: Path, frames: int, rate: object, *extra: object, size: str = "64x48", filters: str = "", step: int = GREY_STEP
) -> Path:
    """A clip whose frame n is flat grey of luma 16 + step * n; ``extra`` arguments before the output."""
    seconds = float(frames / Fraction(str(rate))) + 1
    source = f"color=c=black:s={size}:r={rate}:d={seconds:.3f},format=yuv420p,geq=lum='16+{step}*N':cb=128:cr=128"
    if filters:
        source += "," + filters
    ffmpeg("-f", "lavfi", "-i", source, "-frames:v", frames, "-c:v", "libx264", "-qp", 0, "-g", 10, *extra, path)
    return path


def numbers(frames: list[np.ndarray], step: int = GREY_STEP) -> list[int]:
    """Which frame of a counter clip each of these is."""
    return [round(float(frame[..., 1].mean()) * 219 / 255 / step) for frame in frames]


def audio(path: Path, track: int = 0, rate: int = 8000) -> np.ndarray:
    """Sound of a file as float mono from the start of the file, silence where there is none."""
    done = ffmpeg(
        *("-i", f"file:{path}", "-map", f"0:a:{track}", "-af", "aresample=async=1:first_pts=0"),
        *("-ac", 1, "-ar", rate, "-f", "s16le", "-"),
        *("-map", "0:V:0", "-c", "copy", "-t", 0, "-f", "null", "-"),  # time counts from the first stream in use
    )
    return np.frombuffer(done.stdout, "<i2") / 32768


def video_packets(path: Path) -> list[Fraction]:
    """Presentation times in seconds of the video packets, from the start of the file."""
    out = ffmpeg("-i", f"file:{path}", "-map", "0:V:0", "-c", "copy", "-f", "framecrc", "-").stdout.decode()
    base = Fraction(next(line for line in out.splitlines() if line.startswith("#tb 0")).split(": ")[1])
    return sorted(int(line.split(",")[2]) * base for line in out.splitlines() if line[:1] == "0")
