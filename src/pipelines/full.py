"""Pipeline full: the Wan VAE decoder, the best picture."""

from __future__ import annotations

from torch import Tensor

from src.models.vae import VAEState
from src.pipelines.stream import Pipeline


class FlashVSRFullPipeline(Pipeline):
    """The Wan VAE decoder, one latent frame at a time. The LQ frames only guide the DiT."""

    mode = "full"
    latents_at_once = 1

    def new_decoder_state(self) -> VAEState:
        return self.models.decoder.new_state()

    def decode(self, latents: Tensor, condition: Tensor, state: VAEState) -> Tensor:
        frames = self.models.decoder.decode(latents, state)  # (1, 3, F, H, W)
        return frames[0].transpose(0, 1)
