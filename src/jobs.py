"""The one way in: what the command line, the web page, the API and the tests call."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import Tensor

from src import chunks
from src.config import Options
from src.device import free_memory, is_out_of_memory, limit_memory, peak_memory, use_card
from src.engine import Engine, make_engine
from src.errors import Cancelled, DeviceError, InputError, RangeError
from src.hub import Progress as DownloadProgress
from src.journal import discard, identity
from src.memory import GIB
from src.overlap import Ahead, Behind
from src.pipelines.geometry import Geometry, to_host, to_uint8, to_uint16, upscale_alpha
from src.pipelines.stream import Pipeline
from src.plan import Fitting, fit, geometry_of, target_of
from src.reports import Controls, Preview, Progress, Result
from src.scenes import CutDetector, Scenes
from src.sinks import FolderSink, PictureSink, Sink, VideoSink
from src.video import ALPHA_SUFFIXES, Source, holds_alpha, open_source

__all__ = ["Progress", "Result", "discard_job", "upscale", "upscale_file"]

log = logging.getLogger(__name__)
T = TypeVar("T")

READ_AHEAD = 8  # input frames: one later chunk
WRITE_BEHIND = 8  # output frames
# A stream that begins in the middle of a clip first runs over so many frames that are shown already, to remember what a
# stream from the start would (README, "Long jobs", says how closely): two lengths of the KV cache, at least these.
WARM_UP = 48
PAUSE_POLL = 0.1  # seconds


def upscale(frames: Iterable[np.ndarray], options: Options, engine: Engine | None = None) -> Iterator[np.ndarray]:
    """Upscale frames in memory: (H, W, 3) uint8 or uint16 RGB in, (scale * H, scale * W, 3) uint8 out.

    Lazy on both sides; as many frames come out as went in. ``bit_depth`` 10 gives uint16, 0..65535. Only the options of
    the model and its computation matter here. InputError if a frame has another size than the first.
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

    geometry = geometry_of(options, *first.shape[:2])
    fitting = fit(options, geometry, engine.models.config, engine.models.device, engine.models.dtype)
    pipeline = _place(engine, options, fitting)
    scenes = Scenes(checked(), _detector(options))
    try:
        for part in _arrays(_parts(pipeline, scenes, geometry), options):
            yield from part
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise _too_large(fitting, error) from error


def upscale_file(
    options: Options,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    engine: Engine | None = None,
    download: DownloadProgress | None = None,
    pause: threading.Event | None = None,
    preview: Preview | None = None,
) -> Result:
    """Upscale a video, a picture, or a folder of pictures into one file (or one folder of pictures).

    ``progress`` is called after every piece of output, ``cancel`` stops within one chunk (raises Cancelled), ``pause``
    holds the job between two chunks while it is set, ``engine`` skips loading. ``preview`` gets the number of frames
    done and the last of them after every piece. Whatever is raised, nothing is left under the output's name; finished
    segments wait beside it for the next call with the same options.
    """
    if options.input is None:
        raise InputError("--input needs a value")
    with open_source(options.input, options.start, options.end, options.fps) as source:
        geometry = geometry_of(options, source.height, source.width)
        # Opened before the models are loaded: a bad target shows at once.
        target, sink = _open_sink(options, source, geometry)
        try:
            if engine is not None:
                limit_memory(engine.models.device, options.vram)
            engine = engine or _guarded(lambda: make_engine(options, download))
            sink.begin(identity(options, engine.release.name), not options.no_resume)
            resumed = sink.done
            run = _Run(source, sink, engine, options, geometry, Controls(progress, cancel, pause, preview))
            began = time.perf_counter()
            run.to_the_end()
            sink.finish()
        finally:
            sink.close()
    return Result(
        path=target,
        frames=run.done,
        width=geometry.out_width,
        height=geometry.out_height,
        seconds=time.perf_counter() - began,
        peak_memory=peak_memory(engine.models.device),
        model=engine.release.name,
        resumed=resumed,
    )


def _guarded(load: Callable[[], T]) -> T:
    """Loading weights, with an error that helps where memory is too small for them."""
    try:
        return load()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(
            f"out of memory while loading the weights ({_first_line(error)}); use --model nano, or --device cpu"
        ) from error


def discard_job(options: Options) -> bool:
    """Delete what an unfinished job with these options left. False if there is nothing; InputError while it runs."""
    with open_source(options.input, options.start, options.end, options.fps) as source:
        _, target = target_of(options, source)
    return discard(target)


class _Run:
    """One job from where it stands to its end, whatever memory allows."""

    def __init__(
        self, source: Source, sink: Sink, engine: Engine, options: Options, geometry: Geometry, controls: Controls
    ) -> None:
        self.source, self.sink, self.engine, self.options = source, sink, engine, options
        self.geometry, self.controls = geometry, controls
        models = engine.models
        self.fitting = fit(options, geometry, models.config, models.device, models.dtype)
        log.info("memory: %s", self.fitting.text())
        self.done = self.resumed = sink.done
        self.began = time.perf_counter()

    def to_the_end(self) -> None:
        """Write all frames that are not there yet; after an out-of-memory error go on with a smaller placement."""
        with Behind(self.sink.write, WRITE_BEHIND) as outgoing:
            while True:
                failure = self._attempt(outgoing)
                if failure is None:
                    return
                # Outside the handler, whose traceback held on to the tensors that must go.
                free_memory(self.engine.models.device)
                if isinstance(failure, RangeError):
                    self._widen(failure)
                    continue
                lower = self.fitting.lower()
                if lower is None:
                    raise _too_large(self.fitting, failure)
                message = (
                    f"out of memory after {self.done} frames ({_first_line(failure)}); going on with: {lower.text()}"
                )
                log.warning("%s", message)
                self.fitting = lower
                self._report(message=message)

    def _widen(self, failure: RangeError) -> None:
        """Go on in fp32, unless fp16 was asked for by name."""
        if self.options.dtype != "auto":
            raise failure
        message = f"numbers too large for fp16 after {self.done} frames; going on in fp32, slower and with more memory"
        log.warning("%s", message)
        self._report(message=message)
        _guarded(lambda: self.engine.widen(self.options))
        models = self.engine.models
        self.fitting = fit(self.options, self.geometry, models.config, models.device, models.dtype)
        log.info("memory: %s", self.fitting.text())

    def _attempt(self, outgoing: Behind[np.ndarray]) -> BaseException | None:
        """Run to the end (None), or until memory or fp16's range runs out: the error, without its traceback."""
        try:
            self._frames(outgoing)
        except RangeError as error:
            return error.with_traceback(None)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return DeviceError(_first_line(error))
        return None

    def _frames(self, outgoing: Behind[np.ndarray]) -> None:
        """Read, compute and write side by side, from the frame after the last one that was handed on."""
        options, sink = self.options, self.sink
        pipeline = _place(self.engine, options, self.fitting)
        scene, skip = self._starting_point()
        self.source.skip = skip
        alphas: deque[np.ndarray] = deque()
        drop = self.done - skip
        # The threads only move bytes: PyTorch in a second thread would start a second set of workers.
        with Ahead(self.source, READ_AHEAD) as incoming:
            scenes = Scenes(_without_alpha(incoming, alphas), _detector(options), skip, settled=self.done)
            scenes.cuts = [cut for cut in sink.cuts if cut < skip]
            sink.cuts = scenes.cuts
            for part in _arrays(_parts(pipeline, scenes, self.geometry, skip - scene), options):
                before = self.done
                for frame in part:
                    alpha = alphas.popleft() if alphas else None
                    if drop:
                        drop -= 1
                        continue
                    outgoing.put(frame if alpha is None else _with_alpha(frame, alpha, self.geometry))
                    self.done += 1
                if self.done > before:  # not while warming up
                    if self.controls.preview is not None:
                        self.controls.preview(self.done, frame)
                    self._report()
                self._obey()

    def _starting_point(self) -> tuple[int, int]:
        """First frame of the scene that goes on, and the frame to read from: a warm-up before the next one to show."""
        scene = max((cut for cut in self.sink.cuts if cut <= self.done), default=0)
        warm_up = max(WARM_UP, 2 * chunks.NEXT_FRAMES * self.fitting.job.kv_len)
        chunk = max(0, (self.done - scene - warm_up) // chunks.NEXT_FRAMES)
        return scene, scene + chunk * chunks.NEXT_FRAMES

    def _report(self, paused: bool = False, message: str = "") -> None:
        if self.controls.progress is not None:
            seconds = time.perf_counter() - self.began
            expected = self.source.frames_expected
            self.controls.progress(Progress(self.done, expected, seconds, self.resumed, paused, message))

    def _obey(self) -> None:
        """Wait while the caller wants it, stop when the caller wants it."""
        pause, cancel = self.controls.pause, self.controls.cancel
        if pause is not None and pause.is_set():
            self._report(paused=True)
            while pause.is_set() and not (cancel is not None and cancel.is_set()):
                time.sleep(PAUSE_POLL)
        if cancel is not None and cancel.is_set():
            raise Cancelled(f"stopped after {self.done} frames; finished segments are kept for the next run")


def _parts(pipeline: Pipeline, scenes: Scenes, geometry: Geometry, origin: int = 0) -> Iterator[Tensor]:
    """Upscaled frames of all scenes, each a stream of its own: (F, 3, H, W) in [0, 1].

    ``origin``: frames of the first scene that are not read, a whole number of later chunks.
    """
    for _, frames in scenes:
        state = pipeline.new_state()
        state.origin = origin // chunks.LATENT_FRAMES
        origin = 0
        yield from pipeline.stream(frames, geometry.height, geometry.width, state=state, geometry=geometry)


def _place(engine: Engine, options: Options, fitting: Fitting) -> Pipeline:
    use_card(engine.models.device)  # again: this may be another thread than the one that loaded the engine
    engine.pipeline.residency.set(fitting.placement.weights)
    return engine.pipeline.placed(fitting.placement, options.color_fix, options.seed)


def _detector(options: Options) -> CutDetector | None:
    return None if options.no_scene_cuts else CutDetector(options.scene_threshold)


def _arrays(parts: Iterator[Tensor], options: Options) -> Iterator[np.ndarray]:
    """Parts (F, 3, H, W) in [0, 1] -> (F, H, W, 3) uint8, or uint16 for more bits, in main memory."""
    if options.bit_depth == "8":
        return to_host(map(to_uint8, parts))
    return (levels.astype(np.uint16) for levels in to_host(map(to_uint16, parts)))


def _without_alpha(frames: Iterable[np.ndarray], alphas: deque[np.ndarray]) -> Iterator[np.ndarray]:
    """The colours of frames; their alpha waits in ``alphas`` until its frame comes out."""
    for frame in frames:
        if frame.shape[2] == 4:
            alphas.append(frame[..., 3])
            frame = np.ascontiguousarray(frame[..., :3])
        yield frame


def _with_alpha(frame: np.ndarray, alpha: np.ndarray, geometry: Geometry) -> np.ndarray:
    """(H, W, 3) with the input's alpha (h, w), enlarged and of the same depth: (H, W, 4)."""
    return np.concatenate([frame, upscale_alpha(alpha, geometry, frame.dtype)[..., None]], axis=2)


def _open_sink(options: Options, source: Source, geometry: Geometry) -> tuple[Path, Sink]:
    """Where frames go; opening it finds out whether the target can be written."""
    kind, target = target_of(options, source)
    if geometry.out_height > 4.1 * geometry.height:
        log.warning("%s: the models were made for up to 4 times the size; this is more", target)
    transparent = kind == "png" or holds_alpha(target, options.codec)
    if kind == "picture":
        transparent = target.suffix.lower() in ALPHA_SUFFIXES
    source.keep_alpha = source.has_alpha and transparent
    info = source.info
    if info is not None and info.hdr and (kind != "video" or options.bit_depth == "8" or options.codec == "prores"):
        raise InputError(
            f"{options.input} is HDR ({info.transfer}), which 8 bits cannot show; use --codec hevc --bit-depth 10 to"
            " carry it through, or convert it to SDR (BT.709) first"
        )
    if kind == "picture":
        return target, PictureSink(target, options)
    if kind == "png":
        return target, FolderSink(target, options, info)
    size = (geometry.out_width, geometry.out_height)
    return target, VideoSink(target, options, size, source.fps, info, source.keep_alpha)


def _too_large(fitting: Fitting, error: BaseException) -> DeviceError:
    job, need = fitting.job, fitting.need
    return DeviceError(
        f"out of memory at {job.out_width}x{job.out_height} with {fitting.placement.text()}: expected"
        f" {need.device / GIB:.1f} of {fitting.budget / GIB:.1f} GiB; use a lower --scale, --kv-ratio 1 or --model nano"
        f" ({_first_line(error)})"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_frame(frame: np.ndarray, first: np.ndarray) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype not in (np.uint8, np.uint16):
        raise InputError(f"a frame must be (H, W, 3) uint8 or uint16, not {frame.shape} {frame.dtype}")
    if frame.shape != first.shape or frame.dtype != first.dtype:
        raise InputError(f"a frame of {frame.shape} {frame.dtype} after one of {first.shape} {first.dtype}")
