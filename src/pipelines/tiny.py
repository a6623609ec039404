"""Pipeline tiny: the TCDecoder, fast."""

from __future__ import annotations

from torch import Tensor

from src.pipelines.stream import Pipeline
from src.state import ConvState


class FlashVSRTinyPipeline(Pipeline):
    """The TCDecoder, two latent frames (8 video frames) at a time: enough to fill a GPU."""

    mode = "tiny"
    latents_at_once = 2

    def new_decoder_state(self) -> ConvState:
        return ConvState()

    def decode(self, latents: Tensor, condition: Tensor, state: ConvState) -> Tensor:
        return self.models.decoder(latents, condition, state)
