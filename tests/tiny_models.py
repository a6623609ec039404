"""Random models of the release's architecture, small enough for laws to be checked in a second."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from src.config import DiTConfig, ModelConfig, ProjectorConfig, SamplingConfig, TCDecoderConfig, VAEConfig
from src.models.dit import DiT
from src.models.lq_projector import LQProjector
from src.models.manager import Models
from src.models.tcdecoder import TCDecoder
from src.models.vae import WanVAE
from src.ops.attention import Attention
from src.pipelines.full import FlashVSRFullPipeline
from src.pipelines.stream import Pipeline
from src.pipelines.tiny import FlashVSRTinyPipeline
from src.pipelines.tiny_long import FlashVSRTinyLongPipeline

CPU = torch.device("cpu")
CONFIG = ModelConfig(
    dit=DiTConfig(dim=64, ffn_dim=64, freq_dim=16, text_dim=16, num_heads=2, num_layers=2),
    projector=ProjectorConfig(hidden_dims=(8, 8), out_dim=64),
    tcdecoder=TCDecoderConfig(channels=(8, 8, 8, 8)),
    vae=VAEConfig(dim=4),
    sampling=SamplingConfig(),
)
ATTENTION = Attention("block", sparse_ratio=2.0, local_range=3, kv_len=3)
PIPELINES = {p.mode: p for p in (FlashVSRTinyPipeline, FlashVSRTinyLongPipeline, FlashVSRFullPipeline)}


def randomise(module: nn.Module) -> nn.Module:
    """Every parameter gets an effect, at a size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(7)
    for parameter in module.parameters():
        fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 16
        parameter.data = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
    return module.eval().requires_grad_(False)


def tiny_models(
    mode: str = "tiny", kind: str = "causal", dtype: torch.dtype = torch.float32, config: ModelConfig = CONFIG
) -> Models:
    config = replace(config, projector=replace(config.projector, kind=kind))
    dit = randomise(DiT(config.dit))
    decoder = randomise(WanVAE(config.vae, encoder=False) if mode == "full" else TCDecoder(config.tcdecoder))
    constants = dit.constants(torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(3)))
    return Models(config, dit, constants, randomise(LQProjector(config.projector)), decoder, CPU, dtype)


def tiny_pipeline(mode: str = "tiny", kind: str = "causal", **settings: Any) -> Pipeline:
    attention = settings.pop("attention", ATTENTION)
    models = tiny_models(mode, kind, config=settings.pop("config", CONFIG))
    return PIPELINES[mode](models, attention, **settings)


def clip(frames: int, height: int = 32, width: int = 32, seed: int = 0) -> list:
    """Random uint8 frames (H, W, 3)."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(0, 256, (frames, height, width, 3), generator=generator, dtype=torch.uint8)
    return list(data.numpy())


def run(pipeline: Pipeline, frames: list, scale: float = 4, **settings: Any) -> torch.Tensor:
    """All output frames of a clip, (N, 3, H, W)."""
    from fractions import Fraction

    height, width = frames[0].shape[:2]
    return torch.cat(list(pipeline.stream(frames, height, width, Fraction(scale), **settings)))
