"""The one loop: LQ frames in, upscaled frames out, chunk by chunk, whatever the pipeline.

A pipeline is policy only: which decoder it uses and how much it decodes at once.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src import chunks
from src.errors import RangeError
from src.memory import Placement
from src.models.dit_graph import velocity
from src.models.manager import Models
from src.models.residency import Residency
from src.ops.attention import Attention
from src.ops.plan import AttentionPlan
from src.parking import Parking
from src.pipelines.geometry import Geometry, to_float, upscale_lq
from src.pipelines.tiles import denoise_tiles, tiles_of
from src.state import ConvState, StreamState
from toolbox.color import color_fix

FINISH_NUMBERS = 32 << 20  # colour-fixed at once: eight frames of 1280 x 720


class Pipeline(ABC):
    """Frames to upscaled frames with the models it is given; holds nothing of a stream.

    ``color``: none, adain or wavelet. ``reference_quirks``: the original's cut-outs, frame counts and
    attention budget, for parity tests only (the Attention handed in must say the same). ``placement``: tiles and
    what waits in main memory; ``residency`` moves the DiT's weights as the placement says.
    """

    mode: str
    latents_at_once: int  # latent frames decoded in one go: bounds the decoder's memory

    def __init__(
        self, models: Models, attention: Attention, color: str = "none", seed: int = 0, reference_quirks: bool = False
    ) -> None:
        self.models = models
        self.attention = attention
        self.color = color
        self.seed = seed
        self.reference_quirks = reference_quirks
        self.placement = Placement()
        self.residency = Residency(models.dit, models.device)
        # Residual and colour fix rest on the LQ frames: the 8 mantissa bits of bf16 would show as banding.
        keep = models.device.type == "cpu" or models.dtype == torch.float32
        self.lq_dtype = torch.float32 if keep else torch.float16

    def placed(self, placement: Placement, color: str | None = None, seed: int | None = None) -> Pipeline:
        """The same models under another placement, colour fix or seed."""
        other = copy.copy(self)
        other.placement = placement
        other.latents_at_once = placement.latents_at_once or type(self).latents_at_once
        other.attention = replace(self.attention, int8_values=placement.int8_values)
        other.color, other.seed = color or self.color, self.seed if seed is None else seed
        return other

    @abstractmethod
    def new_decoder_state(self) -> Any:
        """The memory of a decoder that has decoded nothing yet."""

    @abstractmethod
    def decode(self, latents: Tensor, condition: Tensor, state: Any) -> Tensor:
        """latents (1, 16, T, H/8, W/8), condition (F, 3, H, W) in [-1, 1] -> (F, 3, H, W), about [-1, 1]."""

    def new_state(self) -> StreamState:
        """The memory of a stream that has not begun."""
        first, later = (n // chunks.WINDOW_FRAMES for n in (chunks.FIRST_LATENTS, chunks.NEXT_LATENTS))
        layers, park = len(self.models.dit.blocks), self.placement.park
        caches = self.attention.new_caches(layers, first, later, together=not park)
        return StreamState(
            projector=ConvState(),
            caches=Parking(caches, self.models.device, park) if park else caches,
            decoder=self.new_decoder_state(),
        )

    def stream(
        self,
        frames: Iterable[np.ndarray | Tensor],
        height: int,
        width: int,
        scale: Fraction | int = 4,
        noise: Tensor | None = None,
        state: StreamState | None = None,
        geometry: Geometry | None = None,
    ) -> Iterator[Tensor]:
        """Upscale a stream of frames of any length from 1 on.

        frames: (height, width, 3) uint8 or uint16, RGB. noise: (1, 16, T, H/8, W/8) in place of the drawn one
        (for parity). state: a fresh ``new_state()``, if the caller wants to watch it. geometry: sizes, in place of
        those that ``scale`` gives.
        Yields (F, 3, scale * height, scale * width) float32 in [0, 1]: in all as many frames as came in.
        """
        geometry = geometry or Geometry.of(height, width, Fraction(scale), self.reference_quirks)
        antialias = self.models.config.sampling.antialias

        def prepared() -> Iterator[Tensor]:
            for frame in frames:
                pixels = to_float(frame, self.models.device)
                yield upscale_lq(pixels, geometry, antialias, self.reference_quirks).to(self.lq_dtype)

        yield from self.stream_lq(prepared(), geometry, noise, state or self.new_state())

    def stream_lq(
        self, lq: Iterable[Tensor], geometry: Geometry, noise: Tensor | None, state: StreamState
    ) -> Iterator[Tensor]:
        """The loop itself, on frames already upscaled and padded: (1, 3, H, W) in [-1, 1], channels last."""
        source = _Source(iter(lq))
        tiles = tiles_of(geometry, self.placement)
        side = chunks.WINDOW_TOKENS
        plan = self.attention.for_size(tiles[0].height // side, tiles[0].width // side, self.models.device)
        window: Tensor | None = None
        shown = 0
        while shown < source.read or not source.ended:
            count = chunks.frames_out(state.chunk)
            fresh = source.take(count + (chunks.LOOK_AHEAD if state.chunk == 0 else 0))
            if fresh is None:  # an empty input
                return
            window = fresh if window is None else torch.cat([window, fresh])
            wanted = count if self.reference_quirks else min(count, source.read - shown)
            with self.residency.at_hand():
                if len(tiles) == 1:
                    latents = self._denoise(fresh, state, plan, geometry, noise)
                else:
                    latents = denoise_tiles(self, fresh, state, plan, geometry, tiles, noise)
            yield from self._decode_chunk(latents, window[:wanted], state, geometry)
            window = window[count:].clone()  # the look-ahead: its frames are shown by the next chunk
            shown += wanted
            state.chunk += 1

    # no_grad stands on what computes, not on the generators: a mode must not leak to whoever iterates.

    @torch.no_grad()
    def _denoise(
        self, lq: Tensor, state: StreamState, plan: AttentionPlan, geometry: Geometry, noise: Tensor | None
    ) -> Tensor:
        """LQ frames (F, 3, H, W) of one chunk -> its clean latents (1, 16, T, H/8, W/8)."""
        return self.clean(lq, self.starting_latents(state, geometry, noise), state, plan)

    def clean(self, lq: Tensor, start: Tensor, state: StreamState, plan: AttentionPlan) -> Tensor:
        """Frames of a chunk and the latents it starts from, both of the whole frame or of one tile -> clean latents."""
        models, first = self.models, chunks.first_latent(state.chunk) + state.origin
        # The first chunk in parts as large as the later ones, which is all the memory it then needs.
        sizes = [lq.shape[0] % chunks.NEXT_FRAMES + chunks.NEXT_FRAMES] if state.chunk == 0 else []
        sizes += [chunks.NEXT_FRAMES] * ((lq.shape[0] - sum(sizes)) // chunks.NEXT_FRAMES)
        tokens = torch.cat([models.projector(part.to(models.dtype), state.projector) for part in lq.split(sizes)])
        # One Euler step of flow matching from sigma 1 to 0.
        # A recorded graph knows the places of all it reads: not for what wanders between the device and main memory.
        # Nor one for every tile: each graph would hold work space of its own, where memory is short.
        placement = self.placement
        still = placement.weights == "resident" and placement.tile is None and not placement.park
        latents = start - velocity(models.dit, start, tokens, models.constants, plan, state, first, still)
        return self._in_range(latents)

    def _in_range(self, values: Tensor) -> Tensor:
        """``values``, if fp16 could hold all that led to them. RangeError otherwise."""
        # Looking costs a wait for the device, so only where the range of numbers is small.
        if self.models.dtype == torch.float16 and not bool(values.isfinite().all()):
            raise RangeError("the model's numbers are too large for fp16 here; use --dtype bf16 or fp32")
        return values

    def starting_latents(self, state: StreamState, geometry: Geometry, noise: Tensor | None) -> Tensor:
        """The noise of the next chunk, of the whole frame: (1, 16, T, H/8, W/8).

        Drawn on the CPU, each two latent frames from a seed of their own: the same on every device and for every
        tile, memory stays constant, and a stream can begin anywhere in a clip.
        """
        models, scale = self.models, self.models.config.sampling.noise_scale
        first, count = chunks.first_latent(state.chunk), chunks.latents_out(state.chunk)
        if noise is not None:
            return noise[:, :, first : first + count].to(models.device, models.dtype)
        side, group = chunks.PIXELS_PER_LATENT, chunks.WINDOW_FRAMES
        rows, columns = geometry.padded_height // side, geometry.padded_width // side
        if scale == 0:
            shape = (1, models.config.dit.in_dim, count, rows, columns)
            return torch.zeros(shape, device=models.device, dtype=models.dtype)
        parts = []
        for position in range(first + state.origin, first + state.origin + count, group):
            # The generator only takes 32 bits of its seed, so they are mixed well.
            digest = hashlib.blake2b(f"{self.seed}:{position}".encode(), digest_size=4).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
            shape = (1, models.config.dit.in_dim, group, rows, columns)
            parts.append(torch.randn(shape, generator=generator))
        drawn = torch.cat(parts, dim=2).mul_(scale).to(models.dtype)
        if models.device.type == "cuda":
            drawn = drawn.pin_memory()  # so that the copy waits for nothing
        return drawn.to(models.device, non_blocking=models.device.type == "cuda")

    def _decode_chunk(
        self, latents: Tensor, condition: Tensor, state: StreamState, geometry: Geometry
    ) -> Iterator[Tensor]:
        """Decoded, cropped, colour-fixed frames (F, 3, H, W) in [0, 1], as many as the condition has."""
        done, first = 0, state.chunk == 0
        total = condition.shape[0]
        # Only the picture is decoded: the padding was for the windows of the DiT. The decoder sees the picture's
        # edge as an edge, as in training.
        rows, columns = (-(-side // chunks.PIXELS_PER_LATENT) for side in (geometry.out_height, geometry.out_width))
        latents = latents[..., :rows, :columns]
        condition = condition[..., : rows * chunks.PIXELS_PER_LATENT, : columns * chunks.PIXELS_PER_LATENT]
        needed = chunks.latents_for_frames(state.chunk, total)
        for begin in range(0, needed, self.latents_at_once):
            part = latents[:, :, begin : min(begin + self.latents_at_once, needed)]
            frames = part.shape[2] * chunks.LATENT_FRAMES - (3 if first and begin == 0 else 0)
            lq = condition[done : done + frames]
            yield self._finish(self._decode_part(part, lq, frames, state), lq, geometry)
            done += frames

    @torch.no_grad()
    def _decode_part(self, latents: Tensor, condition: Tensor, frames: int, state: StreamState) -> Tensor:
        shown = condition.shape[0]
        full = condition
        if shown < frames:  # the clip ends inside a latent frame: decode all of it, show what was asked for
            full = torch.cat([condition, condition[-1:].expand(frames - shown, -1, -1, -1)])
        return self._in_range(self.decode(latents, full, state.decoder)[:shown])

    @torch.no_grad()
    def _finish(self, frames: Tensor, lq: Tensor, geometry: Geometry) -> Tensor:
        """Crop the padding, fix the colours against the LQ frames: (F, 3, H, W) in [-1, 1] -> [0, 1], float32."""
        # Cropped first: the padding is no part of the picture and must not weigh in its colours.
        where = (..., slice(geometry.out_height), slice(geometry.out_width))
        frames, lq = frames[where], lq[where]
        out = torch.empty(frames.shape, dtype=torch.float32, device=frames.device)
        # Every frame for itself, so few at once: in float32 they are large.
        count = max(1, FINISH_NUMBERS // frames[0].numel())
        for one, reference, into in zip(frames.split(count), lq.split(count), out.split(count), strict=True):
            fixed = one.float()
            if self.color != "none":
                fixed = color_fix(self.color, fixed, reference.float())
            torch.add(fixed, 1, out=into).mul_(0.5).clamp_(0, 1)
        return out


class _Source:
    """Counts the frames of an iterator and repeats its last one when it ends inside a chunk."""

    def __init__(self, frames: Iterator[Tensor]) -> None:
        self.frames = frames
        self.read = 0
        self.ended = False
        self.last: Tensor | None = None

    def take(self, count: int) -> Tensor | None:
        """The next frames as (count, 3, H, W), channels last; None if there never was one."""
        taken: Tensor | None = None
        for index in range(count):
            frame = None if self.ended else next(self.frames, None)
            if frame is None:
                self.ended = True
            else:
                self.last = frame
                self.read += 1
            if self.last is None:
                return None
            if taken is None:
                # Filled frame by frame: joining a list would hold every frame twice.
                size = (count, *self.last.shape[1:])
                like = self.last
                taken = torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
            taken[index : index + 1] = self.last
        return taken
