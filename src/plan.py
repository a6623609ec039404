"""What a job will do, known before its first frame: sizes, memory, disk and time."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from src.config import ModelConfig, Options, parse_resolution
from src.device import limit_memory, main_memory, memory_budget, resolve_device, resolve_dtype
from src.engine import PIPELINES, Engine
from src.errors import InputError
from src.ladder import choose, next_lower, wished
from src.memory import GIB, Estimate, Job, Placement, estimate, tile_sizes
from src.models.manager import ModelManager
from src.ops.resolve import why_no_triton
from src.pipelines.geometry import Geometry
from src.video import Source, kind_of_video, open_source, output_path

log = logging.getLogger(__name__)

# Seconds per million output pixels of the whole program, by kind of device and size of model; the README says how it
# was measured. Another machine of the kind may take several times as long.
SPEED = {("cpu", "nano"): (0.37, "2 cores of an AMD EPYC (Zen 4)")}
# Bits per output pixel at --quality 7; a step of quality is 3 steps of the quantiser, 6 of which double the rate.
BITS_PER_PIXEL = {"h264": 0.20, "hevc": 0.13, "av1": 0.10, "vp9": 0.13, "prores": 6.0, "png": 14.0}


@dataclass(frozen=True)
class Fitting:
    """A job's placement, and what is needed to find a lower one: see ``src.memory``."""

    job: Job
    wish: Placement
    fixed: frozenset[str]
    budget: int
    ram: int
    placement: Placement
    need: Estimate

    def lower(self) -> Fitting | None:
        """The next step down after an out-of-memory error; None at the bottom."""
        placement = next_lower(self.job, self.placement, self.wish, self.fixed, self.ram)
        if placement is None:
            return None
        return dataclasses.replace(self, placement=placement, need=estimate(self.job, placement))

    def text(self) -> str:
        """One line: the plan, the expected peak, the budget."""
        _, _, tiles = tile_sizes(self.job, self.placement)
        count = f" ({tiles} tiles)" if tiles > 1 else ""
        beside = f" and {self.need.ram / GIB:.1f} GiB of main memory" if self.need.ram else ""
        sure = "" if self.job.factors.measured else " (estimated)"
        peak, budget = f"{self.need.device / GIB:.1f} GiB{beside}{sure}", f"{self.budget / GIB:.1f} GiB"
        return f"{self.placement.text()}{count}; expected peak {peak} of {budget}"


def geometry_of(options: Options, height: int, width: int) -> Geometry:
    """Output sizes of a job: by --resolution, otherwise by --scale."""
    if options.resolution is not None:
        return Geometry.within(height, width, parse_resolution(options.resolution))
    return Geometry.of(height, width, options.scale)


def fit(options: Options, geometry: Geometry, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Fitting:
    """Choose the placement of a job. DeviceError if nothing fits, InputError for tiles that cannot be."""
    element = torch.empty((), dtype=dtype).element_size()
    cpu = device.type == "cpu"
    kernels = options.attention != "dense" and why_no_triton(device, dtype) is None
    job = Job(
        config=config,
        mode=options.mode,
        out_height=geometry.out_height,
        out_width=geometry.out_width,
        element=element,
        # "auto" takes the INT8 kernel where it runs: see ``resolve_attention``.
        key_element=1 if kernels and options.attention in ("auto", "sage") else element,
        pooled=kernels,
        lq_element=4 if cpu or element == 4 else 2,
        kv_len=options.kv_ratio or config.sampling.kv_ratio,
        latents_at_once=PIPELINES[options.mode].latents_at_once,
        kind="cpu" if cpu else "cuda",
    )
    weights = "resident" if cpu else "unload" if options.unload_dit and options.offload == "auto" else options.offload
    if cpu and (options.unload_dit or options.offload == "blocks"):
        log.info("the weights stay where they are: on a CPU there is no other memory to move them to")
    weights = "resident" if weights == "none" else weights
    scale = geometry.out_height / geometry.height
    wish, fixed = wished(options.tiled_dit, options.tile_size, options.overlap, options.tiled_vae, weights, scale)
    if cpu:
        # There is nothing to be won by moving states or weights from main memory to main memory.
        wish, fixed = dataclasses.replace(wish, park=False), fixed | {"park", "weights"}
    budget, ram = memory_budget(device, options.vram), main_memory()
    placement, need = choose(job, wish, fixed, budget, ram)
    return Fitting(job, wish, fixed, budget, ram, placement, need)


@dataclass(frozen=True)
class JobPlan:
    """What ``upscale_file`` would do with the same options. Sizes in pixels and bytes; see ``lines``.

    ``kind``: video, picture, or png (a folder of pictures). ``frames``: None if unknown. ``seconds``: None where no
    speed was ever measured. ``disk_bytes``: rough, while the job runs. ``resumes_at``: frames of an unfinished job.
    """

    input: Path
    target: Path
    kind: str
    width: int
    height: int
    frames: int | None
    fps: Fraction
    model: str
    device: str
    dtype: str
    placement: Placement
    peak_bytes: int
    budget_bytes: int
    ram_bytes: int
    seconds: float | None
    disk_bytes: int
    resumes_at: int
    memory_text: str
    speed_text: str

    def lines(self) -> list[str]:
        """The plan in words, one fact per line."""
        count = "an unknown number of frames" if self.frames is None else f"{self.frames} frames"
        rate = "" if self.kind == "picture" else f" at {float(self.fps):g} frames per second"
        time = "unknown: no speed was measured for such a device"
        if self.seconds is not None:
            time = f"about {_duration(self.seconds)} ({self.speed_text})"
        lines = [
            f"output: {self.target} ({self.kind}, {self.width}x{self.height}, {count}{rate})",
            f"model: {self.model} on {self.device} in {self.dtype}",
            f"memory: {self.memory_text}",
            f"disk: about {self.disk_bytes / 1e9:.2f} GB while the job runs",
            f"time: {time}",
        ]
        if self.resumes_at:
            lines.append(f"resume: {self.resumes_at} frames are there from an unfinished job")
        return lines


def plan_job(options: Options, engine: Engine | None = None) -> JobPlan:
    """Plan a job without loading weights, downloading or writing anything.

    ``engine``: one that is loaded already, whose device and model count. Raises what ``upscale_file`` would raise
    for bad options, a bad input, or a picture that does not fit into memory.
    """
    from src.journal import frames_done

    if options.input is None:
        raise InputError("--input needs a value")
    with open_source(options.input, options.start, options.end, options.fps) as source:
        kind, target = target_of(options, source)
        geometry = geometry_of(options, source.height, source.width)
        frames, fps = source.frames_expected, source.fps
    if engine is not None:
        device, dtype, release = engine.models.device, engine.models.dtype, engine.release
    else:
        device = resolve_device(options.device)
        limit_memory(device, options.vram)
        dtype = resolve_dtype(options.dtype, device)
        release = ModelManager(options.models_dir, device, dtype).choose(options.model, options.mode)
    fitting = fit(options, geometry, release.config, device, dtype)
    speed = SPEED.get((device.type, "nano" if release.name == "nano" else "release"))
    pixels = geometry.out_height * geometry.out_width * (frames or 1)
    return JobPlan(
        input=options.input,
        target=target,
        kind=kind,
        width=geometry.out_width,
        height=geometry.out_height,
        frames=frames,
        fps=fps,
        model=release.name,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        placement=fitting.placement,
        peak_bytes=fitting.need.device,
        budget_bytes=fitting.budget,
        ram_bytes=fitting.need.ram,
        seconds=None if speed is None or frames is None else speed[0] * pixels / 1e6,
        disk_bytes=_disk(options, kind, pixels),
        resumes_at=frames_done(target, options),
        memory_text=fitting.text(),
        speed_text="" if speed is None else f"as measured on {speed[1]}",
    )


def target_of(options: Options, source: Source) -> tuple[str, Path]:
    """What kind of output a job writes, and where. InputError for a name that cannot be."""
    suffix = f"_{options.resolution}" if options.resolution else f"_{float(options.scale):g}x"
    if source.is_picture:
        return "picture", output_path(options.input, options.output, kind="picture", suffix=suffix)
    if options.output_format == "png":
        return "png", output_path(options.input, options.output, kind="folder", suffix=suffix)
    return "video", output_path(options.input, options.output, kind=kind_of_video(options.codec), suffix=suffix)


def _disk(options: Options, kind: str, pixels: int) -> int:
    codec = "png" if kind in ("png", "picture") else options.codec
    bits = BITS_PER_PIXEL[codec] * (2 if codec == "png" and options.bit_depth == "10" else 1)
    if codec not in ("png", "prores"):
        bits *= 2 ** ((options.quality - 7) / 2)
    copies = 2 if kind == "video" else 1  # segments, and the film they are joined into
    sound = options.input.stat().st_size if options.input.is_file() and kind == "video" else 0
    return int(copies * bits / 8 * pixels + sound)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
