"""Flow-matching schedule: noise levels sigma from 1 (pure noise) to 0 (clean), and the Euler step between them.

The releases were distilled to a single step at sigma 1, where the clean latent is simply
noise - velocity; more steps are only of use with an undistilled checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor

from src.errors import InputError


class FlowMatchScheduler:
    """Shifted linear noise levels and the straight-line (Euler) step between them.

    ``shift`` s bends the levels x towards the noisy end: s * x / (1 + (s - 1) * x).
    ``extra_one_step``: the levels stop one step short of ``sigma_min``, so that the last step ends
    there instead of starting there. A timestep is ``num_train_timesteps`` * sigma.

    Attributes: ``sigmas`` and ``timesteps``, float32 of shape (steps,), from noisy to clean.
    """

    def __init__(
        self,
        num_inference_steps: int = 100,
        num_train_timesteps: int = 1000,
        shift: float = 5.0,
        sigma_max: float = 1.0,
        sigma_min: float = 0.0,
        extra_one_step: bool = True,
    ) -> None:
        self.num_train_timesteps = num_train_timesteps
        self.shift = shift
        self.sigma_max = sigma_max
        self.sigma_min = sigma_min
        self.extra_one_step = extra_one_step
        self.sigmas = torch.empty(0)
        self.timesteps = torch.empty(0)
        self.set_timesteps(num_inference_steps)

    def set_timesteps(
        self, num_inference_steps: int = 100, denoising_strength: float = 1.0, shift: float | None = None
    ) -> None:
        """Lay out ``num_inference_steps`` levels.

        denoising_strength: 0..1, where between ``sigma_min`` and ``sigma_max`` to start. shift:
        replaces the scheduler's shift from now on. Raises InputError for values out of range.
        """
        if num_inference_steps < 1:
            raise InputError(f"{num_inference_steps} inference steps: at least 1 is needed")
        if not 0 < denoising_strength <= 1:
            raise InputError(f"denoising strength {denoising_strength} is outside 0..1 (0 excluded)")
        if shift is not None:
            self.shift = shift
        start = self.sigma_min + (self.sigma_max - self.sigma_min) * denoising_strength
        levels = torch.linspace(start, self.sigma_min, num_inference_steps + self.extra_one_step)
        levels = levels[:num_inference_steps]
        self.sigmas = self.shift * levels / (1 + (self.shift - 1) * levels)
        self.timesteps = self.sigmas * self.num_train_timesteps

    def step(self, model_output: Tensor, timestep: Tensor | float, sample: Tensor) -> Tensor:
        """One Euler step from ``timestep`` to the next level; the last step ends at sigma 0.

        model_output: predicted velocity, and sample: noisy latent, both of one shape; so is the result.
        """
        index = self._index(timestep)
        following = self.sigmas[index + 1].item() if index + 1 < len(self.sigmas) else 0.0
        return sample + model_output * (following - self.sigmas[index].item())

    def add_noise(self, original: Tensor, noise: Tensor, timestep: Tensor | float) -> Tensor:
        """The clean latent mixed with noise at ``timestep``: (1 - sigma) * original + sigma * noise."""
        sigma = self.sigmas[self._index(timestep)].item()
        return (1 - sigma) * original + sigma * noise

    def _index(self, timestep: Tensor | float) -> int:
        """Position of the level nearest to ``timestep``: half precision may have rounded it."""
        return int((self.timesteps - float(timestep)).abs().argmin())
