"""The one way in: what the command line, the web page, the API and the tests call."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from src.config import Options
from src.device import keep_freed_memory, peak_memory, resolve_device, resolve_dtype
from src.errors import Cancelled, DeviceError, InputError, OutputExistsError
from src.hub import Progress as DownloadProgress
from src.models.manager import ModelManager, Models
from src.ops.attention import resolve_attention
from src.overlap import Ahead, Behind
from src.pipelines.full import FlashVSRFullPipeline
from src.pipelines.geometry import Geometry, to_uint8
from src.pipelines.stream import Pipeline
from src.pipelines.tiny import FlashVSRTinyPipeline
from src.pipelines.tiny_long import FlashVSRTinyLongPipeline
from src.releases import Release
from src.video import Source, VideoWriter, open_source, output_path, write_picture

log = logging.getLogger(__name__)

PIPELINES: dict[str, type[Pipeline]] = {
    pipeline.mode: pipeline for pipeline in (FlashVSRTinyPipeline, FlashVSRTinyLongPipeline, FlashVSRFullPipeline)
}
Preview = Callable[[int, np.ndarray], None]  # frames done, the last of them
READ_AHEAD = 8  # input frames: one later chunk
WRITE_BEHIND = 8  # output frames
NOT_YET = ("tiled_vae", "tiled_dit", "tile_size", "overlap", "unload_dit")


@dataclass(frozen=True)
class Progress:
    """State of a running job: frames written, frames expected (None: unknown), seconds since the start."""

    frames: int
    expected: int | None
    seconds: float

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Result:
    """What a finished job wrote. ``seconds`` counts from the first frame read; ``peak_memory`` in bytes or None."""

    path: Path
    frames: int
    width: int
    height: int
    seconds: float
    peak_memory: int | None
    model: str

    @property
    def fps(self) -> float:
        return self.frames / self.seconds


@dataclass(frozen=True)
class Engine:
    """A loaded release and the pipeline that runs it: made once, used for any number of jobs."""

    release: Release
    models: Models
    pipeline: Pipeline


def make_engine(options: Options, download: DownloadProgress | None = None) -> Engine:
    """Resolve device, dtype, release and attention (each logged once) and load the models."""
    _refuse_unfinished(options)
    device = resolve_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    manager = ModelManager(options.models_dir, device, resolve_dtype(options.dtype, device))
    release = manager.choose(options.model, options.mode)
    models = manager.load(release, options.mode, download)
    attention = resolve_attention(options, models.config.sampling, device)
    pipeline = PIPELINES[options.mode](models, attention, color=options.color_fix, seed=options.seed)
    return Engine(release, models, pipeline)


def upscale(frames: Iterable[np.ndarray], options: Options, engine: Engine | None = None) -> Iterator[np.ndarray]:
    """Upscale frames in memory: (H, W, 3) uint8 or uint16 RGB in, (scale * H, scale * W, 3) uint8 out.

    Lazy on both sides; as many frames come out as went in. Only the options of the model and its
    computation matter here. InputError if a frame has another size than the first.
    """
    engine = engine or make_engine(options)
    source = iter(frames)
    first = next(source, None)
    if first is None:
        return
    _check_frame(first, first)

    def checked() -> Iterator[np.ndarray]:
        yield first
        for frame in source:
            _check_frame(frame, first)
            yield frame

    height, width = first.shape[:2]
    with readable_out_of_memory(Geometry.of(height, width, options.scale)):
        for part in engine.pipeline.stream(checked(), height, width, options.scale):
            yield from to_uint8(part).cpu().numpy()


def upscale_file(
    options: Options,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    engine: Engine | None = None,
    download: DownloadProgress | None = None,
    preview: Preview | None = None,
) -> Result:
    """Upscale a video, a picture, or a folder of pictures into one file.

    ``progress`` is called after every piece of output, ``cancel`` stops within one chunk (raises
    Cancelled), ``engine`` skips loading. ``preview`` is handed the number of frames done and the last of them,
    (H, W, 3) uint8, after every piece of output. Whatever is raised, nothing is left under the output's name.
    """
    if options.input is None:
        raise InputError("--input needs a value")
    _refuse_unfinished(options)
    with open_source(options.input, options.start, options.end, options.fps) as source:
        geometry = Geometry.of(source.height, source.width, options.scale)
        kind = "picture" if source.is_picture else "video"
        suffix = f"_{float(options.scale):g}x"
        target = output_path(options.input, options.output, kind=kind, suffix=suffix)
        # Opened before the models are loaded: a bad target shows at once.
        with _open_sink(target, options, source, geometry) as sink:
            engine = engine or make_engine(options, download)
            began = time.perf_counter()
            with readable_out_of_memory(geometry):
                frames = _run(source, sink, engine.pipeline, options, progress, cancel, preview)
    seconds = time.perf_counter() - began
    return Result(
        path=target,
        frames=frames,
        width=geometry.out_width,
        height=geometry.out_height,
        seconds=seconds,
        peak_memory=peak_memory(engine.models.device),
        model=engine.release.name,
    )


@contextmanager
def readable_out_of_memory(geometry: Geometry) -> Iterator[None]:
    """Turn what PyTorch and Python raise when memory runs out into one DeviceError that says what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Only CUDA has a type of its own for it; on a CPU and on Apple's GPU there are just the words.
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not known and not any(words in str(error) for words in ("can't allocate memory", "out of memory")):
            raise
        size = f"{geometry.out_width}x{geometry.out_height}"
        raise DeviceError(
            f"out of memory at {size}: use --mode tiny-long, a lower --scale or --model nano ({_first_line(error)})"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _run(
    source: Source,
    sink: VideoWriter | _PictureSink,
    pipeline: Pipeline,
    options: Options,
    progress: Callable[[Progress], None] | None,
    cancel: threading.Event | None,
    preview: Preview | None = None,
) -> int:
    """Read, compute and write side by side. Returns the number of frames written."""
    began, done = time.perf_counter(), 0

    # The threads only move bytes: PyTorch in a second thread would start a second set of workers.
    with Ahead(source, READ_AHEAD) as incoming, Behind(sink.write, WRITE_BEHIND) as outgoing:
        for part in pipeline.stream(incoming, source.height, source.width, options.scale):
            for frame in to_uint8(part).cpu().numpy():
                outgoing.put(frame)
            done += part.shape[0]
            if preview is not None:
                preview(done, frame)
            if progress is not None:
                progress(Progress(done, source.frames_expected, time.perf_counter() - began))
            if cancel is not None and cancel.is_set():
                raise Cancelled(f"stopped after {done} frames; nothing was written")
    return done


def _open_sink(target: Path, options: Options, source: Source, geometry: Geometry) -> VideoWriter | _PictureSink:
    """Where frames go; opening it finds out whether the target can be written."""
    if source.is_picture:
        return _PictureSink(target, options)
    return VideoWriter(
        target,
        geometry.out_width,
        geometry.out_height,
        source.fps,
        codec=options.codec,
        quality=options.quality,
        source=source.info,
        start=options.start,
        end=options.end,
        overwrite=options.overwrite,
        hardware="auto" if options.encoder == "auto" else "off",
    )


class _PictureSink:
    """The one frame of a picture, with the manners of a VideoWriter."""

    def __init__(self, target: Path, options: Options) -> None:
        if target.exists() and not options.overwrite:
            raise OutputExistsError(f"{target} exists already; choose another name or use --overwrite")
        self._target, self._options = target, options

    def __enter__(self) -> _PictureSink:
        return self

    def __exit__(self, *details: object) -> None:
        """Nothing is open: ``write`` leaves the file complete or not at all."""

    def write(self, frame: np.ndarray) -> None:
        write_picture(self._target, frame, self._options.quality, self._options.overwrite)


def _check_frame(frame: np.ndarray, first: np.ndarray) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype not in (np.uint8, np.uint16):
        raise InputError(f"a frame must be (H, W, 3) uint8 or uint16, not {frame.shape} {frame.dtype}")
    if frame.shape != first.shape or frame.dtype != first.dtype:
        raise InputError(f"a frame of {frame.shape} {frame.dtype} after one of {first.shape} {first.dtype}")


def _refuse_unfinished(options: Options) -> None:
    for name in NOT_YET:
        if getattr(options, name):
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} is not there yet: tiles and offloading come with a later version; leave it out")
