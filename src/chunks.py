"""How frames become chunks: the integers of the stream.

One latent frame is 4 video frames; the LQ projector runs 4 frames ahead of the output.
The first chunk reads 25 LQ frames and gives 21; every later one reads 8 more and gives 8.
"""

from __future__ import annotations

LATENT_FRAMES = 4  # video frames of one latent frame
PIXELS_PER_LATENT = 8
PIXELS_PER_TOKEN = 16
WINDOW_TOKENS = 8  # an attention window is (2, 8, 8) tokens
WINDOW_FRAMES = 2  # latent frames of one attention window
WINDOW_PIXELS = PIXELS_PER_TOKEN * WINDOW_TOKENS  # 128: height and width must be multiples of it
LOOK_AHEAD = 4  # LQ frames the projector needs beyond the output

FIRST_LATENTS = 6
NEXT_LATENTS = 2
FIRST_FRAMES = FIRST_LATENTS * LATENT_FRAMES - 3  # 21: the very first latent frame gives one frame
NEXT_FRAMES = NEXT_LATENTS * LATENT_FRAMES


def chunk_count(frames: int) -> int:
    """Chunks needed for ``frames`` >= 1 output frames."""
    if frames < 1:
        raise ValueError(f"{frames} frames: at least one is needed")
    return max(1, -(-(frames - FIRST_FRAMES) // NEXT_FRAMES) + 1)


def frames_out(chunk: int) -> int:
    """Frames that chunk number ``chunk`` (0, 1, ...) gives."""
    return FIRST_FRAMES if chunk == 0 else NEXT_FRAMES


def latents_out(chunk: int) -> int:
    """Latent frames of chunk number ``chunk``."""
    return FIRST_LATENTS if chunk == 0 else NEXT_LATENTS


def first_latent(chunk: int) -> int:
    """Time position of the chunk's first latent frame: 0, 6, 8, 10, ..."""
    return 0 if chunk == 0 else FIRST_LATENTS + (chunk - 1) * NEXT_LATENTS


def latents_for_frames(chunk: int, frames: int) -> int:
    """Latent frames that must be decoded to get the chunk's first ``frames`` frames."""
    offset = 3 if chunk == 0 else 0
    return -(-(frames + offset) // LATENT_FRAMES)


def pad_to_window(pixels: int) -> int:
    """The next multiple of 128."""
    return -(-pixels // WINDOW_PIXELS) * WINDOW_PIXELS
