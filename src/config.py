"""Configurations: model dimensions, releases, and the one declaration of every user option.

Standard library only, so that ``run.py --help`` stays instant.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from src.errors import InputError

VERSION = "0.1.0"

# --------------------------------------------------------------------------- model dimensions


@dataclass(frozen=True)
class DiTConfig:
    """Dimensions of the causal Wan 2.1 DiT. The defaults are those of the releases."""

    dim: int = 1536
    in_dim: int = 16
    out_dim: int = 16
    ffn_dim: int = 8960
    freq_dim: int = 256
    text_dim: int = 4096
    num_heads: int = 12
    num_layers: int = 30
    patch_size: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(f"dim {self.dim} is not num_heads {self.num_heads} x an even head width")
        if self.patch_size != (1, 2, 2):
            raise ValueError(f"patch_size {self.patch_size}: only (1, 2, 2) exists")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


@dataclass(frozen=True)
class ProjectorConfig:
    """Dimensions of the LQ projector.

    ``kind``: "causal" (v1.1: a convolution sees the previous call's last two frames) or "buffer"
    (v1.0: it sees this call's own last two). Same shapes, different numbers.
    """

    kind: str = "causal"
    in_dim: int = 3
    hidden_dims: tuple[int, int] = (2048, 3072)
    out_dim: int = 1536

    def __post_init__(self) -> None:
        if self.kind not in ("causal", "buffer"):
            raise ValueError(f"projector kind {self.kind!r} is neither 'causal' nor 'buffer'")


@dataclass(frozen=True)
class TCDecoderConfig:
    """Dimensions of the TCDecoder.

    ``latent_channels``: 16 latent + 768 condition channels. ``residual``: the output (0..1 scale)
    is added to the condition frames (nano only).
    """

    channels: tuple[int, int, int, int] = (512, 256, 128, 128)
    latent_channels: int = 784
    residual: bool = False


@dataclass(frozen=True)
class VAEConfig:
    """Dimensions of the Wan 2.1 VAE."""

    dim: int = 96
    z_dim: int = 16


@dataclass(frozen=True)
class SamplingConfig:
    """How a checkpoint wants to be run.

    ``sparse_ratio``: attention budget (None: every block inside the local window).
    ``local_range``: width of the local window in attention windows. ``kv_ratio``: window-frames
    kept in the KV cache. ``noise_scale``: standard deviation of the starting latent.
    ``antialias``: upscale the input with the anti-aliased bicubic kernel (a = -0.5), clamped to
    0..1, instead of the plain one (a = -0.75).
    """

    noise_scale: float = 1.0
    sparse_ratio: float | None = 2.0
    local_range: int = 11
    kv_ratio: int = 3
    antialias: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """Everything that defines the computation of one checkpoint. ``vae`` None: it has no VAE."""

    dit: DiTConfig = DiTConfig()
    projector: ProjectorConfig = ProjectorConfig()
    tcdecoder: TCDecoderConfig = TCDecoderConfig()
    vae: VAEConfig | None = VAEConfig()
    sampling: SamplingConfig = SamplingConfig()


NANO_CONFIG = ModelConfig(
    dit=DiTConfig(dim=128, ffn_dim=512, freq_dim=64, text_dim=64, num_heads=1, num_layers=6),
    projector=ProjectorConfig(kind="causal", hidden_dims=(64, 128), out_dim=128),
    tcdecoder=TCDecoderConfig(channels=(96, 48, 24, 16), residual=True),
    vae=None,
    sampling=SamplingConfig(noise_scale=0.0, sparse_ratio=None, local_range=3, antialias=True),
)

# --------------------------------------------------------------------------- options


def option(
    default: Any,
    help: str,
    *,
    flags: tuple[str, ...] = (),
    choices: tuple[str, ...] = (),
    bounds: tuple[float, float] | None = None,
    kind: str = "str",
    group: str = "output",
    const: str | None = None,
    aliases: dict[str, str] | None = None,
) -> Any:
    """Declare one option: its default, help, flags, choices, bounds and display group.

    ``kind``: str, path, target, int, float, fraction, time or flag. ``const``: the value of a bare flag
    that may also take one. ``aliases``: other words for a choice. The command line, the web page and the API are made from this.
    """
    return field(
        default=default,
        metadata={
            "help": help,
            "flags": flags,
            "choices": choices,
            "bounds": bounds,
            "kind": kind,
            "group": group,
            "const": const,
            "aliases": aliases or {},
        },
    )


@dataclass(frozen=True)
class Options:
    """Every setting of one job. Values are checked on construction: InputError names what is wrong.

    Values may be given as text (as a command line has them) or in their own type.
    """

    # One option, one line.
    # fmt: off
    input: Path = option(None, "video, picture, or folder of pictures", flags=("-i", "--input"), kind="path", group="files")
    output: str = option("outputs", "output folder or file; a trailing slash makes it a folder", kind="target", group="files")
    overwrite: bool = option(False, "replace an existing output", flags=("--overwrite",), kind="flag", group="files")
    no_resume: bool = option(False, "start over where an unfinished job would be continued", flags=("--no-resume",), kind="flag", group="files")
    dry_run: bool = option(False, "say what would be done (size, memory, disk, time) and stop", flags=("--dry-run",), kind="flag", group="files")
    start: Fraction | None = option(None, "start at this time of the input: seconds or [HH:]MM:SS[.s]", flags=("--start",), kind="time", group="files")
    end: Fraction | None = option(None, "stop at this time of the input: seconds or [HH:]MM:SS[.s]", flags=("--end",), kind="time", group="files")

    scale: Fraction = option(Fraction(4), "enlargement, 1-4, fractions too (1.5 or 3/2)", flags=("-s", "--scale"), bounds=(1, 4), kind="fraction", group="model")
    resolution: str | None = option(None, "size of the output in place of --scale: 720p, 1080p, 1440p, 4k or WxH; keeps the aspect, even sides", flags=("-r", "--resolution"), group="model")
    mode: str = option("tiny", "tiny: fast; tiny-long: least memory; full: Wan VAE decoder, best", flags=("-m", "--mode"), choices=("tiny", "tiny-long", "full"), group="model")
    model: str = option("auto", "weights to use; auto: 1.1 if present or (with a GPU) downloadable, otherwise the embedded nano", flags=("-v", "--model"), choices=("auto", "nano", "1.0", "1.1"), group="model", aliases={"10": "1.0", "11": "1.1"})
    models_dir: Path = option(Path("models"), "folder of the weights", flags=("--models-dir",), kind="path", group="model")
    color_fix: str = option("wavelet", "match the colours of the input (bare flag: adain)", flags=("--color-fix",), choices=("none", "adain", "wavelet"), group="model", const="adain")
    seed: int = option(0, "seed of the starting noise", flags=("--seed",), bounds=(0, 2**63 - 1), kind="int", group="model")

    device: str = option("auto", "auto, cpu, cuda, cuda:N, mps, xpu or xpu:N", flags=("-d", "--device"), group="compute")
    dtype: str = option("auto", "number format of the model", flags=("-t", "--dtype"), choices=("auto", "fp32", "fp16", "bf16"), group="compute")
    precision: str = option("full", "fp8: the DiT's matrix products in 8 bits, on cards that have them: faster, smaller, less exact", flags=("--precision",), choices=("full", "fp8"), group="compute")
    attention: str = option("auto", "sage: 64-token key blocks; block: 128-token ones; dense: no selection; auto: the best there is", flags=("-a", "--attention"), choices=("auto", "sage", "block", "dense"), group="compute")
    sparse_ratio: float | None = option(None, "attention budget: 1.5 faster, 2.0 steadier (default: the model's)", flags=("--sparse-ratio",), bounds=(0.01, 1000), kind="float", group="compute")
    kv_ratio: int | None = option(None, "window-frames kept in the KV cache (default: the model's)", flags=("--kv-ratio",), bounds=(1, 16), kind="int", group="compute")
    local_range: int | None = option(None, "width of the local attention window in windows of 128 pixels (default: the model's)", flags=("--local-range",), bounds=(1, 999), kind="int", group="compute")
    vram: float | None = option(None, "memory budget in GiB, also enforced on a CUDA card (default: what is free)", flags=("--vram",), bounds=(0.1, 1024), kind="float", group="compute")
    tiled_dit: bool = option(False, "run the DiT in tiles even if the frame would fit", flags=("--tiled-dit",), kind="flag", group="compute")
    tile_size: int | None = option(None, "tile size in input pixels (default: the largest that fits)", flags=("--tile-size",), bounds=(8, 8192), kind="int", group="compute")
    overlap: int | None = option(None, "overlap of the tiles in input pixels (default: 128 pixels of the output)", flags=("--overlap",), bounds=(1, 2048), kind="int", group="compute")
    tiled_vae: bool = option(False, "decode in tiles even if the frame would fit", flags=("--tiled-vae",), kind="flag", group="compute")
    offload: str = option("auto", "blocks: the DiT's weights wait in main memory and come block by block; auto: if they must", flags=("--offload",), choices=("auto", "none", "blocks"), group="compute")
    unload_dit: bool = option(False, "take the DiT off the device while decoding", flags=("--unload-dit",), kind="flag", group="compute")
    no_scene_cuts: bool = option(False, "do not look for cuts (by default every scene is a stream of its own: nothing ghosts over a cut)", flags=("--no-scene-cuts",), kind="flag", group="compute")
    scene_threshold: float = option(24.0, "how large a jump between two frames is a cut (mean difference in levels of 255)", flags=("--scene-threshold",), bounds=(1, 255), kind="float", group="compute")

    fps: Fraction | None = option(None, "frame rate of a folder of pictures (default 30), or a new constant rate for a video", flags=("-f", "--fps"), bounds=(0.001, 1000), kind="fraction", group="output")
    quality: int = option(7, "1 smallest file, 10 best picture", flags=("-q", "--quality"), bounds=(1, 10), kind="int", group="output")
    codec: str = option("h264", "video codec; prores (.mov) and vp9 (.webm) keep transparency", flags=("--codec",), choices=("h264", "hevc", "av1", "vp9", "prores"), group="output")
    bit_depth: str = option("8", "bits per channel: 10 for hevc, av1, vp9, prores (and 16-bit PNG)", flags=("--bit-depth",), choices=("8", "10"), group="output")
    output_format: str = option("video", "png: a folder of numbered PNG pictures in place of a video", flags=("--output-format",), choices=("video", "png"), group="output")
    encoder: str = option("software", "auto: a hardware encoder, if a trial with it succeeds", flags=("--encoder",), choices=("software", "auto"), group="output")
    segment_frames: int = option(240, "a long video is written in segments of so many frames; a resumed job continues after the last whole one", flags=("--segment-frames",), bounds=(8, 100000), kind="int", group="output")
    # fmt: on

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = _convert(item, getattr(self, item.name))
            object.__setattr__(self, item.name, value)
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise InputError(f"--end {float(self.end):g} is not after --start {float(self.start):g}")
        if not re.fullmatch(r"auto|cpu|(cuda|xpu)(:\d+)?|mps", self.device):
            raise InputError(f"--device {self.device!r} is not one of auto, cpu, cuda, cuda:N, mps, xpu, xpu:N")
        if self.resolution is not None:
            parse_resolution(self.resolution)
        if self.tile_size is not None and self.overlap is not None and self.tile_size < 2 * self.overlap:
            raise InputError(f"--tile-size {self.tile_size} is smaller than twice --overlap {self.overlap}")

    def replace(self, **changes: Any) -> Options:
        """A copy with some values changed, checked again."""
        return dataclasses.replace(self, **changes)


def option_name(item: dataclasses.Field[Any]) -> str:
    """The name a person knows an option by: its long flag, or its field name."""
    flags = item.metadata["flags"]
    return flags[-1] if flags else item.name


def _convert(item: dataclasses.Field[Any], value: Any) -> Any:
    """``value`` in the option's own type, checked. Raises InputError naming flag and value."""
    kind, bounds, choices = item.metadata["kind"], item.metadata["bounds"], item.metadata["choices"]
    name = option_name(item)
    if value is None:
        if item.default is None:
            return None
        raise InputError(f"{name} needs a value")
    try:
        value = _PARSERS[kind](value)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"{name} {value!r} is not {_KIND_WORDS[kind]}") from error
    if isinstance(value, str):
        value = item.metadata["aliases"].get(value, value)
    if choices and value not in choices:
        raise InputError(f"{name} {value!r} is not one of {', '.join(choices)}")
    if bounds and not bounds[0] <= value <= bounds[1]:
        raise InputError(f"{name} {value} is outside {bounds[0]:g}..{bounds[1]:g}")
    return value


RESOLUTIONS = {"720p": (1280, 720), "1080p": (1920, 1080), "1440p": (2560, 1440), "4k": (3840, 2160)}


def parse_resolution(value: str) -> tuple[int, int]:
    """Width and height that the output must fit into. Raises InputError."""
    name = value.strip().lower()
    if name in RESOLUTIONS:
        return RESOLUTIONS[name]
    match = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", name)
    if match is None or min(int(match[1]), int(match[2])) < 2:
        raise InputError(f"--resolution {value!r} is not one of {', '.join(RESOLUTIONS)}, or WIDTHxHEIGHT")
    return int(match[1]), int(match[2])


def parse_time(value: str | int | float | Fraction) -> Fraction:
    """Seconds as an exact fraction from ``90``, ``1:30``, ``00:01:30.5``. Raises ValueError."""
    if isinstance(value, str) and ":" in value:
        parts = value.split(":")
        if len(parts) > 3 or not all(re.fullmatch(r"\d+(\.\d+)?", part) for part in parts):
            raise ValueError(value)
        seconds = Fraction(0)
        for part in parts:
            seconds = seconds * 60 + Fraction(part)
        return seconds
    seconds = _parse_fraction(value)
    if seconds < 0:
        raise ValueError(value)
    return seconds


def _parse_fraction(value: Any) -> Fraction:
    # A float such as 1.1 means the decimal that was written, not its binary neighbour.
    return Fraction(repr(value)) if isinstance(value, float) else Fraction(value)


def _parse_int(value: Any) -> int:
    number = int(value)
    if isinstance(value, float) and value != number:
        raise ValueError(value)
    return number


def _parse_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def _parse_float(value: Any) -> float:
    number = float(value)
    if number != number:
        raise ValueError(value)
    return number


_PARSERS: dict[str, Any] = {
    "str": str,
    "path": Path,
    "target": os.fspath,  # text: Path would lose the slash that says "a folder"
    "int": _parse_int,
    "float": _parse_float,
    "fraction": _parse_fraction,
    "time": parse_time,
    "flag": _parse_flag,
}
_KIND_WORDS = {
    "str": "text",
    "path": "a path",
    "target": "a path",
    "int": "a whole number",
    "float": "a number",
    "fraction": "a number",
    "time": "a time (seconds or [HH:]MM:SS[.s])",
    "flag": "true or false",
}
