"""Pipeline tiny-long: the arithmetic of tiny, with the least memory."""

from __future__ import annotations

from src.pipelines.tiny import FlashVSRTinyPipeline


class FlashVSRTinyLongPipeline(FlashVSRTinyPipeline):
    """As tiny, one latent frame at a time: the decoder needs half the memory."""

    mode = "tiny-long"
    latents_at_once = 1
