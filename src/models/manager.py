"""Loading a release: files to modules, straight to their device and dtype."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from src.config import ModelConfig
from src.errors import DeviceError
from src.hub import Progress, choose_release, fetch, verify
from src.models.dit import DiT, DiTConstants
from src.models.lq_projector import LQProjector
from src.models.tcdecoder import TCDecoder
from src.models.vae import WanVAE
from src.models.weights import assign, check_versions, read_prompt, read_tensors
from src.ops.fp8 import why_no_fp8
from src.ops.resolve import conv_ops
from src.releases import Release

log = logging.getLogger(__name__)

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
M = TypeVar("M", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class Models:
    """The loaded parts of one release, on one device, in one dtype. Read-only; shared by streams."""

    config: ModelConfig
    dit: DiT
    constants: DiTConstants
    projector: LQProjector
    decoder: TCDecoder | WanVAE
    device: torch.device
    dtype: torch.dtype


class ModelManager:
    """Chooses a release, fetches what is missing and loads it.

    models_dir: folder of the weights. device, dtype: where the models live and in which format.
    ``precision``: "full", or "fp8" for the DiT's matrix products in 8 bits; DeviceError where there are none.
    """

    def __init__(self, models_dir: Path, device: torch.device, dtype: torch.dtype, precision: str = "full") -> None:
        self.models_dir = models_dir
        self.device = device
        self.dtype = dtype
        self.precision = precision
        if precision == "fp8":
            reason = why_no_fp8(device, dtype)
            if reason is not None:
                raise DeviceError(f"--precision fp8: {reason}; leave it out")
            log.info("precision: the DiT's matrix products in 8 bits")

    def choose(self, name: str, mode: str) -> Release:
        """The release called ``name``, or for "auto" the one that fits; the reason is logged."""
        vram = torch.cuda.mem_get_info(self.device)[1] if self.device.type == "cuda" else None
        return choose_release(name, mode, self.models_dir, has_gpu=self.device.type != "cpu", vram=vram)[0]

    def load(self, release: Release, mode: str, progress: Progress | None = None) -> Models:
        """The models that ``mode`` needs. Raises WeightsError (missing, damaged, foreign) and DownloadError."""
        paths = fetch(release, mode, self.models_dir, progress)
        check_versions(release, paths, self.models_dir)
        files = {file.part: file for file in release.files}
        wrong = {part: verify(files[part], path, self.models_dir) for part, path in paths.items()}
        config = release.config

        def part(name: str, build: Callable[[], M]) -> M:
            return self.build(build, paths[name], name, wrong[name])

        dit = part("dit", lambda: DiT(config.dit))
        projector = part("projector", lambda: LQProjector(config.projector))
        decoder: TCDecoder | WanVAE
        if mode == "full":
            vae = config.vae
            if vae is None:
                raise ValueError(f"{release.name} has no VAE")
            decoder = part("vae", lambda: WanVAE(vae, encoder=False))
        else:
            decoder = part("tcdecoder", lambda: TCDecoder(config.tcdecoder))
        fold_time(projector, decoder, self.device, self.dtype)
        prompt = read_prompt(paths["prompt"], config.dit.text_dim, self.device, torch.float32, wrong["prompt"])
        with torch.no_grad():
            constants = dit.constants(prompt)
            if self.precision == "fp8":
                dit.to_fp8()
        return Models(config, dit, constants, projector, decoder, self.device, self.dtype)

    def build(self, build: Callable[[], M], path: Path, part: str, mismatch: str | None = None) -> M:
        """A module made without memory of its own, then given the file's tensors."""
        with torch.device("meta"):
            module = build()
        wanted: Mapping[str, tuple[int, ...]] = {name: tuple(t.shape) for name, t in module.state_dict().items()}
        tensors = read_tensors(path, wanted, part, self.device, self.dtype, mismatch)
        assign(module, {name: _channels_last(tensor) for name, tensor in tensors.items()})
        log.debug("%s: %s from %s", part, type(module).__name__, path)
        return module.eval().requires_grad_(False)


def _channels_last(tensor: Tensor) -> Tensor:
    """Kernels of convolutions in the layout that the fast ones of every backend want."""
    return tensor.contiguous(memory_format=LAYOUTS.get(tensor.ndim, torch.contiguous_format))


def fold_time(projector: LQProjector, decoder: TCDecoder | WanVAE, device: torch.device, dtype: torch.dtype) -> None:
    """Lay out what convolves in time for a CUDA card; elsewhere 3-D convolutions are as fast, and nothing is done."""
    if device.type != "cuda" or torch.version.hip is not None:  # AMD's convolutions do not keep channels last
        return
    ops = conv_ops(device, dtype)
    projector.fold_time(ops)
    if isinstance(decoder, WanVAE):
        decoder.fold_time(ops)
