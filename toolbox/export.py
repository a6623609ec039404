"""Writing what a chain has made: presets for sharing, a wanted size, pictures."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from src.errors import InputError, OutputExistsError, VideoError
from src.video import VideoWriter
from src.video.encoders import Encoder, pick_encoder
from src.video.paths import commit, temporary_path
from src.video.presets import SILENT, PresetEncoder, RawSound, first_available, pass_options
from toolbox.animation import animate
from toolbox.clip import Clip, Job
from toolbox.edit import fitted, frame_rate
from toolbox.sound import render

log = logging.getLogger(__name__)

TRIES = 5  # encodings until the size fits
ROOM = 0.97  # of the wanted size; the rest is for the container
LEAST_BITS = 0.004  # per pixel; below, no encoder gives a picture


@dataclass(frozen=True)
class Preset:
    """``quality``: 1..10 where none is asked for. ``speed``: options of the encoder for size, not for haste."""

    name: str
    extensions: tuple[str, ...]
    codec: str
    quality: int
    encoders: tuple[str, ...] = ()
    speed: tuple[str, ...] = ()
    animation: bool = False


_X264 = ("-preset", "medium")
PRESETS = {
    preset.name: preset
    for preset in (
        Preset("h264-small", (".mp4", ".mkv", ".mov"), "h264", 4, ("libx264",), ("-preset", "slow")),
        Preset("h264-balanced", (".mp4", ".mkv", ".mov"), "h264", 6, ("libx264",), _X264),
        Preset("h264-high", (".mp4", ".mkv", ".mov"), "h264", 8, ("libx264",), _X264),
        Preset("hevc", (".mp4", ".mkv", ".mov"), "hevc", 6, ("libx265",), _X264),
        Preset("av1", (".mp4", ".mkv", ".webm"), "av1", 6, ("libsvtav1",), ("-preset", "7")),
        Preset("webm", (".webm",), "vp9", 6, ("libvpx-vp9",), ("-row-mt", "1", "-cpu-used", "3", "-deadline", "good")),
        Preset("prores", (".mov",), "prores", 7, ("prores_ks",)),
        Preset("gif", (".gif",), "gif", 7, animation=True),
        Preset("webp", (".webp",), "webp", 7, ("libwebp_anim", "libwebp"), animation=True),
    )
}
_BY_EXTENSION = {".gif": "gif", ".webp": "webp", ".webm": "webm"}
_CRF = {
    "libx264": (36, 33, 30, 27, 24, 21, 18, 15, 12, 8),
    "libx265": (38, 35, 32, 29, 26, 23, 20, 17, 14, 9),
    "libsvtav1": (60, 54, 48, 42, 36, 30, 24, 18, 13, 7),
    "libvpx-vp9": (58, 52, 46, 40, 36, 32, 28, 22, 16, 8),
}
_PRORES = {1: 0, 2: 0, 3: 1, 4: 1, 5: 2, 6: 2, 7: 3, 8: 3, 9: 3, 10: 3}  # proxy, LT, standard, HQ
_AUDIO_BITS = {"aac": 128_000, "libopus": 96_000}


def choose_preset(name: str, output: Path | None) -> Preset:
    """The preset, by name or ("auto") by the extension of the output. InputError when they do not go together."""
    extension = "" if output is None else output.suffix.lower()
    if name == "auto":
        name = _BY_EXTENSION.get(extension, "h264-balanced")
    preset = PRESETS[name]
    if extension and extension not in preset.extensions:
        fits = ", ".join(preset.extensions)
        others = [other.name for other in PRESETS.values() if extension in other.extensions]
        hint = f", or --preset {' or '.join(others)}" if others else ""
        raise InputError(f"{output}: the preset {name} is written as {fits}, not {extension}{hint}")
    return preset


def check(values: dict[str, object], output: Path | None) -> Preset:
    """Refuse what cannot go together, before anything is read."""
    preset = choose_preset(str(values["preset"]), output)
    if values["size_mb"] is not None and values["quality"] is not None:
        raise InputError("--size-mb and --quality contradict each other: a wanted size decides the quality")
    if values["size_mb"] is not None and (preset.animation or preset.codec == "prores"):
        raise InputError(f"--size-mb does not work with {preset.name}; use an h264, hevc, av1 or webm preset")
    return preset


def export(
    job: Job,
    clip: Clip,
    preset: str,
    quality: int | None,
    size_mb: float | None,
    width: int | None,
    fps: Fraction | None,
    audio: str,
) -> Clip:
    """Write ``clip`` to the job's output. Returns the clip as it was written."""
    output = _target(job)
    chosen = choose_preset(preset, output)
    if fps is not None:
        clip = frame_rate(job, clip, fps)
    clip = _sized(job, clip, width, chosen)
    if chosen.animation:
        return animate(job, clip, output, quality or chosen.quality)
    if audio == "drop":
        clip = replace(clip, sound=replace(clip.sound, segments=(), edited=True))
    if size_mb is not None:
        return _to_size(job, clip, chosen, size_mb)
    encoder = _encoder(chosen, quality or chosen.quality, clip)
    written = _write(job, clip, output, encoder, _sound(job, clip, chosen, output), "writing", job.overwrite)
    return replace(clip, count=written)


def _target(job: Job) -> Path:
    if job.output is None:
        raise InputError("there is no output; use -o")
    if job.output.exists() and not job.overwrite:
        raise OutputExistsError(f"{job.output} exists already; choose another name or use --overwrite")
    return job.output


def _sized(job: Job, clip: Clip, width: int | None, preset: Preset) -> Clip:
    """Not wider than ``width``, and with even sides where the format wants them."""
    if width is not None and width < clip.width:
        high = max(2, round(clip.height * width / clip.width / 2) * 2)
        return fitted(clip, max(2, width // 2 * 2), high, "stretch")
    wide, high = clip.width, clip.height
    if not preset.animation and (wide % 2 or high % 2) and min(wide, high) > 1:
        wide, high = wide // 2 * 2, high // 2 * 2
        job.note(f"{clip.width}x{clip.height} is cropped to {wide}x{high}: players want even sides")
        clip = clip.mapped(lambda frame: frame[:high, :wide], wide, high)
    return clip


def _encoder(preset: Preset, quality: int, clip: Clip) -> Encoder:
    name = first_available(preset.encoders)
    if preset.codec in ("h264", "hevc", "av1"):
        # Refuses frames that are too small; may take another encoder of the codec where the first one cannot.
        name = pick_encoder(preset.codec, False, clip.width, clip.height).name
        if name not in preset.encoders:
            return pick_encoder(preset.codec, False, clip.width, clip.height)
    if preset.codec == "prores":
        profile = ("-profile:v", str(_PRORES[quality]), "-vendor", "apl0")
        return PresetEncoder(name, "prores", profile, "yuv422p10le", "yuv422p10le")
    options: tuple[str, ...] = (*preset.speed, "-crf", str(_CRF[name][quality - 1]), *_quiet(name))
    if name == "libvpx-vp9":
        options += ("-b:v", "0")
    return PresetEncoder(name, preset.codec, options, *_formats(preset.codec))


def _formats(codec: str) -> tuple[str, str]:
    return "yuv420p", "yuv420p10le" if codec in ("hevc", "av1") else "yuv420p"


def _quiet(name: str) -> tuple[str, ...]:
    return ("-x265-params", "log-level=error") if name == "libx265" else ()


def _sound(job: Job, clip: Clip, preset: Preset, output: Path) -> RawSound | None:
    """None: the tracks of the source are copied. Otherwise what was made of the edited sound."""
    if not clip.sound.edited:
        return None if clip.media is not None else SILENT
    if not clip.sound.segments:
        return SILENT
    codec: tuple[str, ...] = ("-c:a", _audio_codec(output), "-b:a", "192k")
    if preset.codec == "prores":
        codec = ("-c:a", "pcm_s24le")
    job.report("joining the sound", 0, None, last=True)
    return render(clip.sound, clip.duration, job.workspace("sound").parent, codec, job.check, job.cancel)


def _audio_codec(output: Path) -> str:
    return "libopus" if output.suffix.lower() == ".webm" else "aac"


def _write(
    job: Job,
    clip: Clip,
    path: Path,
    encoder: Encoder,
    sound: RawSound | None,
    stage: str,
    overwrite: bool = False,
    frames: Iterator[np.ndarray] | None = None,
) -> int:
    """Frames through the project's writer. Returns how many there were."""
    start = end = None
    source = clip.media
    if sound is None and source is not None:
        (segment,) = clip.sound.segments
        start = segment.start if segment.start > source.first else None
        last = segment.start + segment.length
        end = last if last < source.first + source.duration else None
    with VideoWriter(
        path,
        clip.width,
        clip.height,
        clip.rate,
        source=source,
        start=start,
        end=end,
        overwrite=overwrite,
        bit_depth=10 if clip.deep or encoder.codec == "prores" else 8,
        encoder=encoder,
        sound=sound,
    ) as writer:
        for frame in job.follow(iter(clip) if frames is None else frames, stage, clip.count):
            writer.write(frame)
    return writer.frames_written


def _to_size(job: Job, clip: Clip, preset: Preset, size_mb: float) -> Clip:
    """Two passes at the bit rate that the size leaves; again with less, should the encoder exceed it."""
    output = _target(job)
    budget = size_mb * 1_000_000 * ROOM * 8
    seconds = float(clip.duration)
    bits = 0
    if not clip.sound.silent and clip.sound.segments:
        bits = min(_AUDIO_BITS[_audio_codec(output)], max(24_000, int(budget / seconds * 0.15)))
    video = budget / seconds - bits - 2_000
    least = LEAST_BITS * clip.width * clip.height * float(clip.rate)
    if video < max(least, 8_000):
        need = (max(least, 8_000) + bits + 2_000) * seconds / 8 / ROOM / 1_000_000
        raise InputError(
            f"--size-mb {size_mb:g} is too small for {seconds:.1f} s of {clip.width}x{clip.height}: at least"
            f" {need:.2f} MB; use --width, --fps, --audio drop, or trim"
        )
    if not clip.seekable:
        clip = job.stored(clip, "computing the frames")
    sound = SILENT
    if bits:
        codec = ("-c:a", _audio_codec(output), "-b:a", str(bits))
        job.report("joining the sound", 0, None, last=True)
        sound = render(clip.sound, clip.duration, job.workspace("sound").parent, codec, job.check, job.cancel)
    log_path, written = job.workspace("passes"), 0
    name = pick_encoder(preset.codec, False, clip.width, clip.height).name if preset.codec != "vp9" else "libvpx-vp9"
    two = name in ("libx264", "libx265", "libvpx-vp9")
    for attempt in range(TRIES):
        trial = job.workspace(f"trial{output.suffix}")
        for number in (1, 2) if two and not attempt else (2,):
            stage = f"pass {number}" if not attempt else f"again with {video / 1000:.0f} kbit/s"
            heard = sound if number == 2 else SILENT
            try:
                encoder = _rated(preset, name, int(video), number if two else 0, log_path)
                written = _write(job, clip, trial, encoder, heard, stage, overwrite=True)
            except VideoError as error:
                if not two or number == 1:
                    raise
                # Where the rate is less than its plan allows, an encoder refuses the second pass.
                log.info("%s: the second pass failed (%s); one pass is tried", output, error)
                two = False
                encoder = _rated(preset, name, int(video), 0, log_path)
                written = _write(job, clip, trial, encoder, sound, stage, overwrite=True)
        size = trial.stat().st_size
        if size <= size_mb * 1_000_000:
            _move(trial, output, job.overwrite)
            job.note(f"{size / 1e6:.2f} of {size_mb:g} MB, {video / 1000:.0f} kbit/s for the picture")
            return replace(clip, count=written)
        audio = bits * seconds / 8
        video *= max(0.3, (size_mb * 1e6 * ROOM - audio) / (size - audio) * 0.98) if size > audio else 0.5
    raise InputError(
        f"--size-mb {size_mb:g} cannot be reached: the smallest of {TRIES} tries has {size / 1e6:.2f} MB;"
        " use --width, --fps or trim"
    )


def _rated(preset: Preset, name: str, bits: int, number: int, log_path: Path) -> PresetEncoder:
    """``number``: 1 or 2 of two passes, 0 for a single one."""
    options: tuple[str, ...] = ("-b:v", str(bits))
    if name in preset.encoders:
        options += preset.speed
    if name in ("libx264", "libx265"):
        options += ("-maxrate", str(2 * bits), "-bufsize", str(4 * bits))
    options += pass_options(name, number, log_path) if number else _quiet(name)
    return PresetEncoder(name, preset.codec, options, *_formats(preset.codec))


def _move(path: Path, output: Path, overwrite: bool) -> None:
    temporary = temporary_path(output)
    try:
        shutil.move(path, temporary)
        commit(temporary, output, overwrite)
    except OSError as error:
        raise VideoError(f"{output} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
