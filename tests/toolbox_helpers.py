"""Clips for the tests of the toolbox: numbered frames, sound with marks at known times."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from src.video import open_source
from tests.video_helpers import audio, ffmpeg
from toolbox.clip import Clip
from toolbox.sound import Segment, Sound

STEP = 4
MARK = 0.06  # seconds of tone
AUDIO_RATE = 48_000


def marked_clip(
    path: Path, frames: int, rate: str, marks: tuple[float, ...] = (0.2, 0.5), size: tuple[int, int] = (64, 48)
) -> Path:
    """Frame n is grey of level 16 + 4 n, without loss; the sound is silent but for a short tone around each mark."""
    seconds = float(frames / Fraction(rate))
    t = np.arange(round(seconds * AUDIO_RATE)) / AUDIO_RATE
    sound = np.zeros_like(t)
    for mark in marks:
        sound += (np.abs(t - mark) < MARK / 2) * np.sin(2 * np.pi * 1500 * t) * 0.8
    wav = path.with_suffix(".wav")
    with wave.open(str(wav), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(AUDIO_RATE)
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    width, height = size
    data = b"".join(np.full((height, width, 3), 16 + STEP * n, np.uint8).tobytes() for n in range(frames))
    ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-framerate", rate, "-i", "-", "-i", wav),
        *("-c:v", "ffv1", "-pix_fmt", "gbrp", "-c:a", "pcm_s16le", path),
        data=data,
    )
    wav.unlink()
    return path


def frames_of(path: Path) -> list[np.ndarray]:
    with open_source(path) as source:
        return list(source)


def numbers(frames: list[np.ndarray]) -> list[int]:
    """Which frame of a marked clip each of these is."""
    return [round((float(frame[..., 1].mean()) - 16) / STEP) for frame in frames]


def heard_marks(path: Path) -> list[float]:
    """Times of the middle of every tone in a file's sound."""
    rate = 8000
    loud = np.flatnonzero(np.abs(audio(path, rate=rate)) > 0.2)
    groups = np.split(loud, np.flatnonzero(np.diff(loud) > 0.03 * rate) + 1) if len(loud) else []
    return [float(group[0] + group[-1]) / 2 / rate for group in groups]


def sound_seconds(path: Path) -> float:
    return len(audio(path, rate=8000)) / 8000


def disc(place: float, width: int = 128, height: int = 64) -> np.ndarray:
    """A bright textured disc on a darker textured ground, ``place`` frames on its way of 8 pixels a frame."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    ground = 60 + 20 * np.sin(x / 5) * np.cos(y / 4)
    centre = 20 + 8 * place
    inside = (x - centre) ** 2 + (y - height / 2) ** 2 < (height / 4) ** 2
    picture = np.where(inside, 200 + 30 * np.sin((x - centre) / 2) * np.cos(y / 3), ground)
    return np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, 2)


def clip_of(frames: list[np.ndarray], rate: str = "25") -> Clip:
    """Frames in memory as a clip without sound."""
    height, width = frames[0].shape[:2]
    length = len(frames) / Fraction(rate)

    def part(first: int, stop: int | None) -> Iterator[np.ndarray]:
        return iter(frames[first:stop])

    sound = Sound((Segment(None, Fraction(0), length),))
    deep = frames[0].dtype == np.uint16
    return Clip(width, height, Fraction(rate), len(frames), deep, part, True, sound)


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    error = np.square(one.astype(np.float64) - two).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
