"""Pipeline full: the Wan VAE decoder, the best picture."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from src.models.manager import Models
from src.models.vae import PIXELS, VAEState, VAETiling, WanVAE
from src.ops.attention import Attention
from src.pipelines.stream import Pipeline


class FlashVSRFullPipeline(Pipeline):
    """The Wan VAE decoder, one latent frame at a time. The LQ frames only guide the DiT."""

    mode = "full"
    latents_at_once = 1

    def __init__(self, models: Models, attention: Attention, **settings: Any) -> None:
        super().__init__(models, attention, **settings)
        if not isinstance(models.decoder, WanVAE):
            raise TypeError(f"full needs the Wan VAE, not a {type(models.decoder).__name__}")
        self.decoder = models.decoder

    def new_decoder_state(self) -> VAEState:
        """Tiles overlap by a quarter: the network looks too far for tiles with exact context."""
        size = self.placement.decoder_tile
        if size is None:
            return self.decoder.new_state()
        latents = size // PIXELS
        stride = latents * 3 // 4
        return self.decoder.new_state(VAETiling((latents, latents), (stride, stride), park=self.placement.park))

    def decode(self, latents: Tensor, condition: Tensor, state: VAEState) -> Tensor:
        frames = self.decoder.decode(latents, state)  # (1, 3, F, H, W)
        # The original clamps here, before the colour fix, whose statistics depend on it.
        return frames[0].transpose(0, 1).clamp(-1, 1)
