"""Pipeline tiny: the TCDecoder, fast."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from src.models.manager import Models
from src.models.tcdecoder import TCDecoder
from src.ops.attention import Attention
from src.pipelines.stream import Pipeline
from src.state import ConvState


class FlashVSRTinyPipeline(Pipeline):
    """The TCDecoder, two latent frames (8 video frames) at a time: enough to fill a GPU."""

    mode = "tiny"
    latents_at_once = 2

    def __init__(self, models: Models, attention: Attention, **settings: Any) -> None:
        super().__init__(models, attention, **settings)
        if not isinstance(models.decoder, TCDecoder):
            raise TypeError(f"{self.mode} needs a TCDecoder, not a {type(models.decoder).__name__}")
        self.decoder = models.decoder
        self.constants = models.decoder.constants()

    def new_decoder_state(self) -> ConvState:
        return ConvState()

    def decode(self, latents: Tensor, condition: Tensor, state: ConvState) -> Tensor:
        return self.decoder(latents, condition, state, self.constants)
