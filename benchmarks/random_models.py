"""Full-size models with random weights, made on the device: time and memory do not depend on the values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.config import ModelConfig
from src.models.dit import DiT
from src.models.lq_projector import LQProjector
from src.models.manager import LAYOUTS, Models, fold_time
from src.models.tcdecoder import TCDecoder
from src.models.vae import WanVAE

PROMPT_TOKENS = 512


def random_models(
    mode: str, device: torch.device, dtype: torch.dtype, config: ModelConfig | None = None, precision: str = "full"
) -> Models:
    """The parts that ``mode`` needs, of the release's size unless ``config`` says otherwise."""
    config = config or ModelConfig()
    generator = torch.Generator(device).manual_seed(0)
    with torch.device("meta"):
        dit, projector = DiT(config.dit), LQProjector(config.projector)
        vae = config.vae
        decoder: TCDecoder | WanVAE
        decoder = WanVAE(vae, encoder=False) if mode == "full" and vae is not None else TCDecoder(config.tcdecoder)
    for module in (dit, projector, decoder):
        _fill(module, generator, device, dtype)
    fold_time(projector, decoder, device, dtype)
    prompt = torch.randn(1, PROMPT_TOKENS, config.dit.text_dim, generator=generator, device=device).to(dtype)
    with torch.no_grad():
        constants = dit.constants(prompt)
        if precision == "fp8":
            dit.to_fp8()
    return Models(config, dit, constants, projector, decoder, device, dtype)


def _fill(module: nn.Module, generator: torch.Generator, device: torch.device, dtype: torch.dtype) -> None:
    """Matrices and kernels that keep the size of what passes through, norms near 1, small biases."""
    module.to_empty(device=device)
    for name, parameter in module.named_parameters():
        shape = parameter.shape
        values: Tensor = torch.randn(shape, generator=generator, device=device)
        if parameter.ndim > 1 and "gamma" not in name and "modulation" not in name:
            values /= parameter[0].numel() ** 0.5
        elif name.endswith("weight") or "gamma" in name:
            values = 1 + 0.1 * values
        else:
            values *= 0.1
        layout = LAYOUTS.get(parameter.ndim, torch.contiguous_format)
        parameter.data = values.to(dtype).contiguous(memory_format=layout)
    module.eval().requires_grad_(False)
