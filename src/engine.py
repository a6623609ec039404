"""A loaded release and the pipeline that runs it: what jobs share."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from src.config import Options
from src.device import free_memory, keep_freed_memory, limit_memory, resolve_device, resolve_dtype
from src.hub import Progress as DownloadProgress
from src.models.manager import ModelManager, Models
from src.ops.resolve import resolve_attention
from src.pipelines.full import FlashVSRFullPipeline
from src.pipelines.stream import Pipeline
from src.pipelines.tiny import FlashVSRTinyPipeline
from src.pipelines.tiny_long import FlashVSRTinyLongPipeline
from src.releases import Release

log = logging.getLogger(__name__)

PIPELINES: dict[str, type[Pipeline]] = {
    pipeline.mode: pipeline for pipeline in (FlashVSRTinyPipeline, FlashVSRTinyLongPipeline, FlashVSRFullPipeline)
}


@dataclass
class Engine:
    """A loaded release and the pipeline that runs it: made once, used for any number of jobs."""

    release: Release
    models: Models
    pipeline: Pipeline

    def widen(self, options: Options) -> None:
        """Load the same models again, in fp32: for this job and those to come. ``options``: of the job.

        If that fails, they are loaded as they were, and the error goes on.
        """
        options, device = options.replace(model=self.release.name), self.models.device
        del self.models, self.pipeline  # first: both need not fit side by side
        free_memory(device)
        try:
            made = make_engine(options.replace(dtype="fp32"))
        except BaseException:
            made = make_engine(options)
            raise
        finally:
            self.models, self.pipeline = made.models, made.pipeline


def make_engine(options: Options, download: DownloadProgress | None = None) -> Engine:
    """Resolve device, dtype, release and attention (each logged once) and load the models."""
    device = resolve_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    limit_memory(device, options.vram)
    dtype = resolve_dtype(options.dtype, device)
    if device.type == "cuda" and dtype == torch.float32:
        torch.backends.cudnn.allow_tf32 = False  # who asks for fp32 wants its 24 bits, not the 11 of cuDNN's default
    manager = ModelManager(options.models_dir, device, dtype, options.precision)
    release = manager.choose(options.model, options.mode)
    models = manager.load(release, options.mode, download)
    attention = resolve_attention(options, models.config.sampling, device, models.dtype)
    pipeline = PIPELINES[options.mode](models, attention, color=options.color_fix, seed=options.seed)
    return Engine(release, models, pipeline)
