"""Pipeline tiny: the TCDecoder, fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from src.chunks import PIXELS_PER_LATENT
from src.memory import CONTEXT
from src.models.manager import Models
from src.models.tcdecoder import TCDecoder
from src.ops.attention import Attention
from src.parking import Parking
from src.pipelines.stream import Pipeline
from src.state import ConvState
from src.tiling import Tile, plan_context


@dataclass
class DecoderTiles:
    """Memory of a decoder that works in tiles of ``size`` latents: (inner, outer) tiles and a ConvState for each.

    ``park``: the states take turns on the device.
    """

    size: int
    park: bool = False
    tiles: list[tuple[Tile, Tile]] = field(default_factory=list)
    streams: Parking[ConvState] | None = None

    def begin(self, height: int, width: int, device: torch.device) -> Parking[ConvState]:
        """The states for a picture of height x width latents."""
        if self.streams is None:
            self.tiles = plan_context(height, width, self.size, CONTEXT)
            self.streams = Parking([ConvState() for _ in self.tiles], device, self.park)
        return self.streams


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

    def new_decoder_state(self) -> ConvState | DecoderTiles:
        size = self.placement.decoder_tile
        return ConvState() if size is None else DecoderTiles(size // PIXELS_PER_LATENT, self.placement.park)

    def decode(self, latents: Tensor, condition: Tensor, state: ConvState | DecoderTiles) -> Tensor:
        if isinstance(state, ConvState):
            return self.decoder(latents, condition, state, self.constants)
        streams = state.begin(latents.shape[-2], latents.shape[-1], latents.device)
        out = torch.empty_like(condition)
        for index, (inner, outer) in enumerate(state.tiles):
            pixels = outer.scaled(PIXELS_PER_LATENT)
            own = outer.crop(latents).contiguous(), pixels.crop(condition).contiguous()
            with streams.visit(index) as stream:
                part = self.decoder(*own, stream, self.constants)
            into = inner.scaled(PIXELS_PER_LATENT)
            top, left = into.top - pixels.top, into.left - pixels.left
            into.crop(out).copy_(part[..., top : top + into.height, left : left + into.width])
        return out
