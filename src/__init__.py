"""FlashVSR+: one-step streaming diffusion video super-resolution. Inference only.

Legend of shapes, used throughout: B batch (always 1 in a stream), C channels, F video frames, T latent
frames, H W pixels, h w tokens or latents, L sequence length, D width of the DiT, d width of a head,
n attention windows per window-frame. Frames are RGB, [-1, 1] inside the models, [0, 1] outside.

Names are imported when first used: importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

from src.config import VERSION

__version__ = VERSION

_HOMES = {
    "FlashVSRError": "src.errors",
    "FlashVSRFullPipeline": "src.pipelines.full",
    "FlashVSRTinyLongPipeline": "src.pipelines.tiny_long",
    "FlashVSRTinyPipeline": "src.pipelines.tiny",
    "FlowMatchScheduler": "src.schedulers.flow_match",
    "JobPlan": "src.plan",
    "ModelManager": "src.models.manager",
    "Options": "src.config",
    "Result": "src.jobs",
    "discard_job": "src.jobs",
    "plan_job": "src.plan",
    "upscale": "src.jobs",
    "upscale_file": "src.jobs",
}
__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
