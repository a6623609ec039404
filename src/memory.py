"""The cost model of memory: what a job will need at most, under a placement.

It is arithmetic on the model's dimensions times a few measured factors (``FACTORS``), which
``python -m benchmarks.memory`` measures. Bytes everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from src.chunks import PIXELS_PER_LATENT, PIXELS_PER_TOKEN, WINDOW_PIXELS, pad_to_window
from src.config import ModelConfig
from src.parking import AHEAD
from src.tiling import plan_context, plan_tiles

GIB = 2**30
MARGIN = 1.10  # the prediction's, for fragmentation
LEAST_TILE = 2 * WINDOW_PIXELS
OVERLAP = WINDOW_PIXELS  # of tiles by default, in output pixels: keeps attention windows of neighbours aligned
DECODER_TILES = (1024, 512, 256)  # output pixels, without their context
CONTEXT = 20  # latents around a TCDecoder tile: what one output pixel sees, so tiles are exact (tests/test_tiles.py)


@dataclass(frozen=True)
class Placement:
    """How a job is fitted into memory. Sizes in output pixels.

    tile, overlap: of the DiT's tiles; None: the whole frame. park: the KV cache waits in main memory and comes to the
    device layer by layer, and so do the states of decoder tiles, one by one. weights: see ``Residency``.
    decoder_tile: None: the whole frame. latents_at_once: None: the mode's own. int8_values: the values of the KV cache
    as 8-bit integers, beside the keys that are such already.
    """

    tile: int | None = None
    overlap: int = OVERLAP
    park: bool = False
    weights: str = "resident"
    decoder_tile: int | None = None
    latents_at_once: int | None = None
    int8_values: bool = False

    def text(self) -> str:
        """In words, for a log line."""
        parts = ["whole frame"]
        if self.tile is not None:
            parts = [f"tiles of {self.tile} pixels overlapping by {self.overlap}"]
        if self.park:
            parts.append("KV cache in main memory")
        if self.int8_values:
            parts.append("values in INT8")
        if self.decoder_tile is not None:
            parts.append(f"decoded in tiles of {self.decoder_tile}")
        if self.latents_at_once is not None:
            parts.append(f"{4 * self.latents_at_once} frames decoded at once")
        parts.append({"resident": "weights resident", "unload": "DiT unloaded for decoding"}.get(self.weights, ""))
        if self.weights == "blocks":
            parts[-1] = "DiT weights streamed block by block"
        return ", ".join(parts)


PLAIN = Placement()


@dataclass(frozen=True)
class Factors:
    """Measured factors: how many times its plain size each part of the work takes at its peak.

    ``base``: bytes of the process or of libraries' work spaces. ``kv_slots``: slots of the KV cache per layer beyond
    kv_ratio. ``measured``: on what and when; "" if it is an estimate.
    """

    base: int
    kv_slots: float
    dit: float
    projector: float
    lq: float
    tcdecoder: float
    vae: float
    vae_state: float
    finish: float
    measured: str


FACTORS = {
    "cuda": Factors(
        base=600 << 20,
        kv_slots=0.1,
        dit=6.5,
        projector=1.5,
        lq=1.5,
        tcdecoder=1.2,
        vae=2.3,
        vae_state=12.4,
        finish=5.4,
        measured="H100, torch 2.11.0, 2026-11-24",
    ),
    "cpu": Factors(
        base=420 << 20,
        kv_slots=1,
        dit=16,
        projector=1.3,
        lq=1.5,
        tcdecoder=4,
        vae=6,
        vae_state=8,
        finish=3,
        # Checked, not fitted stage by stage: whole programs of nano, seven sizes and placements.
        measured="AMD EPYC (Zen 4), nano in bf16, torch 2.13.0, 2026-11-24",
    ),
}


@dataclass(frozen=True)
class Job:
    """What the cost model must know. Sizes in pixels; ``element``, ``key_element``: bytes of the model's numbers and of
    cached keys; ``pooled``: the kernels run, with their KV pool; ``lq_element``: of upscaled input frames; ``kind``: a
    key of FACTORS.
    """

    config: ModelConfig
    mode: str
    out_height: int
    out_width: int
    element: int
    key_element: int
    pooled: bool
    lq_element: int
    kv_len: int
    latents_at_once: int
    kind: str

    @property
    def quantises(self) -> bool:
        """Whether the kernels with INT8 keys run, which can have INT8 values too."""
        return self.pooled and self.key_element == 1

    @property
    def factors(self) -> Factors:
        return FACTORS[self.kind]


@dataclass(frozen=True)
class Estimate:
    """Bytes at the worst moment: on the device, and in main memory beside the usual."""

    device: int
    ram: int


def weight_bytes(config: ModelConfig, mode: str, element: int) -> dict[str, int]:
    """Bytes of the weights, by part: "blocks" (of the DiT), "dit" (its rest), "projector", "decoder"."""
    dit, projector, channels = config.dit, config.projector, config.tcdecoder.channels
    block = 8 * dit.dim**2 + 2 * dit.dim * dit.ffn_dim + 24 * dit.dim
    rest = dit.dim * (dit.text_dim + 9 * dit.dim + dit.freq_dim + 8 * dit.in_dim)
    first, second = projector.hidden_dims
    lq = 36 * first * (768 + second) + second * projector.out_dim
    if mode == "full":
        decoder = 73_300_000 * (config.vae.dim if config.vae else 0) ** 2 // 96**2
    else:
        decoder = 9 * channels[0] * (config.tcdecoder.latent_channels + channels[0])
        # Memory blocks: 4 convolutions' worth; their upsampling kernels are kept twice.
        decoder += sum(36 * 3 * c * c + 9 * c * n * 3 for c, n in pairwise(channels))
    parts = {"blocks": block * dit.num_layers, "dit": rest, "projector": lq, "decoder": decoder}
    return {name: count * element for name, count in parts.items()}


def kv_bytes(job: Job, height: int, width: int, placement: Placement = PLAIN) -> int:
    """Bytes of the KV caches of one stream of height x width pixels, all layers."""
    tokens, dim = 2 * height * width // PIXELS_PER_TOKEN**2, job.config.dit.dim
    # The kernels' pool has one slot more for all layers together, or each layer its own where it must travel alone; a
    # plain cache holds the chunk's own beside the rest.
    together = job.pooled and not placement.park
    slots = job.kv_len + job.factors.kv_slots if together else max(3, job.kv_len + 1)
    means = 4 * dim / 64 if job.pooled else 0  # of every key block of 64 tokens
    value = 1 + 4 / job.config.dit.head_dim if placement.int8_values else job.element  # a scale for every token
    return int(job.config.dit.num_layers * slots * tokens * (dim * (job.key_element + value) + means))


def parked_bytes(job: Job, placement: Placement) -> int:
    """Bytes of main memory that waiting KV caches and decoder states take."""
    if not placement.park:
        return 0
    height, width, count = tile_sizes(job, placement)
    total = count * kv_bytes(job, height, width, placement)
    if placement.decoder_tile is None:
        return total
    return int(total + _decoder_pixels(job, placement)[2] * _state_per_pixel(job))


def tile_sizes(job: Job, placement: Placement) -> tuple[int, int, int]:
    """Rows and columns of a tile in pixels, and the number of tiles."""
    height, width = pad_to_window(job.out_height), pad_to_window(job.out_width)
    if placement.tile is None or placement.tile >= max(height, width):
        return height, width, 1
    unit = PIXELS_PER_TOKEN
    tiles = plan_tiles(height // unit, width // unit, placement.tile // unit, placement.overlap // unit)
    return tiles[0].height * unit, tiles[0].width * unit, len(tiles)


def units(job: Job, placement: Placement) -> dict[str, float]:
    """Plain sizes in bytes of what ``FACTORS`` multiplies, by the factor's name, and of what needs none.

    weights: all but the DiT's blocks; dit_weights, blocks_decoding: of these what is on the device while the DiT runs
    and while frames are decoded; states: KV caches on the device, with ``park`` only while the DiT runs; tails: of
    the projector; decoder_state: with ``park`` and tiles only while frames are decoded.
    """
    dim, latents = job.config.dit.dim, placement.latents_at_once or job.latents_at_once
    height, width, count = tile_sizes(job, placement)
    weights = weight_bytes(job.config, job.mode, job.element)
    blocks, depth = weights.pop("blocks"), job.config.dit.num_layers
    first, second = job.config.projector.hidden_dims
    frame, tile = pad_to_window(job.out_height) * pad_to_window(job.out_width), height * width / PIXELS_PER_TOKEN**2
    share = min(1.0, AHEAD / depth) if placement.park else count
    region, held, _ = _decoder_pixels(job, placement)
    result = {
        "weights": sum(weights.values()),
        "dit_weights": blocks if placement.weights != "blocks" else 2 * blocks / depth,
        "blocks_decoding": {"resident": blocks, "unload": 0.0, "blocks": blocks / depth}[placement.weights],
        "states": kv_bytes(job, height, width, placement) * share,
        "tails": 2 * (3 * PIXELS_PER_TOKEN**2 + first + second) * tile * count * job.element,
        "lq": 25 * 3 * job.lq_element * frame,
        "dit": 6 * tile * dim * job.element,
        # A part of 9 frames: pixels and the frames of both convolutions.
        "projector": (9 * 3 * PIXELS_PER_TOKEN**2 + 6 * first + 4 * second + 6 * dim) * tile * job.element,
        "finish": 3 * 4 * 4 * latents * job.out_height * job.out_width,
        "decoder_state": 0.0 if job.mode == "full" else held * _state_per_pixel(job),
        "vae_state": held * _state_per_pixel(job) / job.factors.vae_state if job.mode == "full" else 0.0,
        "vae": 0.0,
        "tcdecoder": 0.0,
    }
    if job.mode == "full":
        return result | {"vae": 4 * (job.config.vae.dim if job.config.vae else 0) * job.element * region}
    return result | {
        "tcdecoder": (_features(job) + job.config.tcdecoder.channels[2] / 4 + 12) * region * latents * job.element
    }


def estimate(job: Job, placement: Placement) -> Estimate:
    """What a job needs under a placement, margin included."""
    f, size = job.factors, units(job, placement)
    decoder = f.vae_state * size["vae_state"] + size["decoder_state"]
    denoise = size["dit_weights"] + max(f.dit * size["dit"], f.projector * size["projector"])
    decode = max(f.tcdecoder * size["tcdecoder"] + f.vae * size["vae"], f.finish * size["finish"])
    decode += size["blocks_decoding"]
    steady = f.base + size["weights"] + size["tails"] + f.lq * size["lq"]
    # What is parked comes while it is needed only.
    steady, denoise = (steady, denoise + size["states"]) if placement.park else (steady + size["states"], denoise)
    moving = placement.park and placement.decoder_tile is not None
    steady, decode = (steady, decode + decoder) if moving else (steady + decoder, decode)
    device = MARGIN * (steady + max(denoise, decode))
    ram = parked_bytes(job, placement)
    if placement.weights != "resident":
        ram += weight_bytes(job.config, job.mode, job.element)["blocks"]
    return Estimate(int(device), ram)


def _features(job: Job) -> float:
    """Numbers per output pixel of all the TCDecoder's feature maps of one frame."""
    a, b, c, _ = job.config.tcdecoder.channels
    return a / 64 + b / 16 + c / 4


def _state_per_pixel(job: Job) -> float:
    """Bytes of a decoder's state per output pixel."""
    if job.mode == "full":
        return job.factors.vae_state * 2 * (job.config.vae.dim if job.config.vae else 0) * job.element
    return 3 * _features(job) * job.element


def _decoder_pixels(job: Job, placement: Placement) -> tuple[float, float, float]:
    """Pixels: decoded at once, of which the decoder's state is on the device, and of all states together."""
    shown = job.out_height * job.out_width
    side = placement.decoder_tile
    if side is None:
        return shown, shown, shown
    if job.mode == "full":
        region = min(side, job.out_height) * min(side, job.out_width)
        total = max(region, shown / 0.75**2)
        return region, region if placement.park else total, total
    unit = PIXELS_PER_LATENT
    tiles = plan_context(-(-job.out_height // unit), -(-job.out_width // unit), side // unit, CONTEXT)
    areas = [outer.height * outer.width * unit**2 for _, outer in tiles]
    once = max(sum(areas[first : first + AHEAD]) for first in range(len(areas)))
    return max(areas), once if placement.park else sum(areas), sum(areas)
