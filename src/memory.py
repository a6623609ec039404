"""The memory plan: what a job will need at most, and what to give up when that is too much.

The cost model is arithmetic on the model's dimensions times a few measured factors (``FACTORS``), which
``python -m benchmarks.memory`` measures. Bytes everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from src.chunks import PIXELS_PER_LATENT, PIXELS_PER_TOKEN, WINDOW_PIXELS, pad_to_window
from src.config import ModelConfig
from src.errors import DeviceError, InputError
from src.tiling import plan_tiles

GIB = 2**30
MARGIN = 1.10  # the prediction's, for fragmentation
PINNED = 1.5  # PyTorch rounds page-locked memory up to powers of two: half as much again on average
LEAST_TILE = 2 * WINDOW_PIXELS
OVERLAP = WINDOW_PIXELS  # of tiles by default, in output pixels: keeps attention windows of neighbours aligned
DECODER_TILES = (1024, 512, 256)  # output pixels, without their context
CONTEXT = 20  # latents around a TCDecoder tile: what one output pixel sees, so tiles are exact (tests/test_tiles.py)


@dataclass(frozen=True)
class Placement:
    """How a job is fitted into memory. Sizes in output pixels.

    tile, overlap: of the DiT's tiles; None: the whole frame. park: tiles take turns on the device, the others wait in
    main memory. weights: see ``Residency``. decoder_tile: None: the whole frame. latents_at_once: None: the mode's own.
    """

    tile: int | None = None
    overlap: int = OVERLAP
    park: bool = False
    weights: str = "resident"
    decoder_tile: int | None = None
    latents_at_once: int | None = None

    def text(self) -> str:
        """In words, for a log line."""
        parts = ["whole frame"]
        if self.tile is not None:
            where = "waiting in main memory" if self.park else "side by side"
            parts = [f"tiles of {self.tile} pixels overlapping by {self.overlap}, their states {where}"]
        if self.decoder_tile is not None:
            parts.append(f"decoded in tiles of {self.decoder_tile}")
        if self.latents_at_once is not None:
            parts.append(f"{4 * self.latents_at_once} frames decoded at once")
        parts.append({"resident": "weights resident", "unload": "DiT unloaded for decoding"}.get(self.weights, ""))
        if self.weights == "blocks":
            parts[-1] = "DiT weights streamed block by block"
        return ", ".join(parts)


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
        base=300 << 20,
        kv_slots=0.1,
        dit=12,
        projector=2.6,
        lq=2.2,
        tcdecoder=4,
        vae=8.6,
        vae_state=12.4,
        finish=5.4,
        measured="H100, torch 2.11.0, 2026-11-23",
    ),
    "cpu": Factors(
        base=420 << 20,
        kv_slots=1,
        dit=16,
        projector=1.3,
        lq=1.2,
        tcdecoder=4,
        vae=6,
        vae_state=8,
        finish=3,
        # Checked, not fitted: whole programs of nano, seven sizes and placements, took 2 to 30 % less than was said.
        measured="AMD EPYC (Zen 4), nano in bf16, torch 2.13.0, 2026-11-23",
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


def kv_bytes(job: Job, height: int, width: int) -> int:
    """Bytes of the KV caches of one stream of height x width pixels."""
    tokens = 2 * height * width // PIXELS_PER_TOKEN**2
    # The kernels' pool has one slot more for all layers together; a plain cache holds the chunk's own beside the rest.
    slots = job.kv_len + job.factors.kv_slots if job.pooled else max(3, job.kv_len + 1)
    return int(job.config.dit.num_layers * slots * tokens * job.config.dit.dim * (job.key_element + job.element))


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
    and while frames are decoded; states: KV caches on the device; decoder_state: the TCDecoder's.
    """
    dim, latents = job.config.dit.dim, placement.latents_at_once or job.latents_at_once
    height, width, count = tile_sizes(job, placement)
    weights = weight_bytes(job.config, job.mode, job.element)
    blocks, depth = weights.pop("blocks"), job.config.dit.num_layers
    first, second = job.config.projector.hidden_dims
    frame = pad_to_window(job.out_height) * pad_to_window(job.out_width)
    per_pixel = 25 * 3 + (12 * first + 6 * second) / PIXELS_PER_TOKEN**2
    region, held = _decoder_pixels(job, placement)
    result = {
        "weights": sum(weights.values()),
        "dit_weights": blocks if placement.weights != "blocks" else 3 * blocks / depth,
        "blocks_decoding": {"resident": blocks, "unload": 0.0, "blocks": blocks / depth}[placement.weights],
        "states": kv_bytes(job, height, width) * (min(count, 3) if placement.park else count),
        "lq": 25 * 3 * job.lq_element * frame,
        "dit": 6 * height * width / PIXELS_PER_TOKEN**2 * dim * job.element,
        "projector": per_pixel * height * width * job.element,
        "finish": 3 * 4 * 4 * latents * job.out_height * job.out_width,
    }
    if job.mode == "full":
        vae = (job.config.vae.dim if job.config.vae else 0) * job.element
        return result | {"vae": 4 * vae * region, "vae_state": 2 * vae * held, "tcdecoder": 0, "decoder_state": 0}
    a, b, c, _ = job.config.tcdecoder.channels
    features = a / 64 + b / 16 + c / 4
    work, state = (features + c / 4 + 12) * region * latents, 3 * features * held
    return result | {"tcdecoder": work * job.element, "decoder_state": state * job.element, "vae": 0, "vae_state": 0}


def estimate(job: Job, placement: Placement) -> Estimate:
    """What a job needs under a placement, margin included."""
    f, size = job.factors, units(job, placement)
    height, width, count = tile_sizes(job, placement)
    steady = f.base + size["weights"] + size["states"] + f.lq * size["lq"]
    steady += f.vae_state * size["vae_state"] + size["decoder_state"]
    denoise = size["dit_weights"] + max(f.dit * size["dit"], f.projector * size["projector"])
    decode = size["blocks_decoding"] + f.tcdecoder * size["tcdecoder"] + f.vae * size["vae"]
    device = MARGIN * (steady + max(denoise, decode + f.finish * size["finish"]))
    ram = kv_bytes(job, height, width) * count if placement.park else 0
    if placement.weights != "resident":
        ram += weight_bytes(job.config, job.mode, job.element)["blocks"]
    return Estimate(int(device), int(ram * PINNED))


def _decoder_pixels(job: Job, placement: Placement) -> tuple[float, float]:
    """Pixels that are decoded at once, and pixels of which the decoder's state is on the device."""
    shown = job.out_height * job.out_width
    side = placement.decoder_tile
    if side is None:
        return shown, shown
    if job.mode == "full":
        region = min(side, job.out_height) * min(side, job.out_width)
        return region, region if placement.park else shown / 0.75**2
    outer = side + 2 * CONTEXT * PIXELS_PER_LATENT
    region = min(outer, job.out_height) * min(outer, job.out_width)
    count = -(-job.out_height // side) * -(-job.out_width // side)
    return region, region * (min(count, 3) if placement.park else count)


def ladder(job: Job, wish: Placement, fixed: frozenset[str]) -> Iterator[Placement]:
    """Placements from the fastest to the one that needs least. ``fixed``: fields of ``wish`` that a person chose."""

    def rung(**changes: Any) -> Placement:
        free = {name: value for name, value in changes.items() if name not in fixed}
        placement = dataclasses.replace(wish, **free)
        if placement.tile is not None and 2 * placement.overlap >= placement.tile and "overlap" not in fixed:
            placement = dataclasses.replace(placement, overlap=placement.tile // 4)
        return placement

    single = {"latents_at_once": 1}
    small = {**single, "decoder_tile": DECODER_TILES[0]}
    yield rung()
    yield rung(**single)
    yield rung(**small)
    yield rung(**small, weights="blocks")
    least_tile = LEAST_TILE
    if "overlap" in fixed:
        least_tile = max(LEAST_TILE, pad_to_window(2 * wish.overlap + 1))
    largest = max(pad_to_window(job.out_height), pad_to_window(job.out_width))
    for park in (False, True):
        for tile in range(min(largest - WINDOW_PIXELS, 4096), least_tile - 1, -WINDOW_PIXELS):
            for weights in ("resident", "blocks"):
                yield rung(**small, tile=tile, park=park, weights=weights)
    for decoder_tile in DECODER_TILES[1:]:
        for tile in (max(least_tile, 3 * WINDOW_PIXELS), least_tile):
            yield rung(**single, decoder_tile=decoder_tile, tile=tile, park=True, weights="blocks")


def choose(job: Job, wish: Placement, fixed: frozenset[str], budget: int, ram: int) -> tuple[Placement, Estimate]:
    """The first placement of the ladder that fits ``budget`` bytes on the device and ``ram`` bytes of main memory.

    Raises DeviceError with the numbers if none does.
    """
    least: tuple[Estimate, Placement] | None = None
    for placement in ladder(job, wish, fixed):
        need = estimate(job, placement)
        if need.device <= budget and need.ram <= ram:
            return placement, need
        if least is None or need.device < least[0].device:
            least = need, placement
    if least is None:  # the ladder always has a first rung
        raise ValueError("an empty ladder")
    need, placement = least
    where = f"{budget / GIB:.1f} GiB on the device and {ram / GIB:.1f} GiB of main memory"
    raise DeviceError(
        f"{job.out_width}x{job.out_height} does not fit: the least is {need.device / GIB:.1f} GiB on the device"
        f" and {need.ram / GIB:.1f} GiB of main memory ({placement.text()}), there are {where};"
        " use a lower --scale, --kv-ratio 1 or --model nano, or give more with --vram"
    )


def next_lower(job: Job, now: Placement, wish: Placement, fixed: frozenset[str], ram: int) -> Placement | None:
    """The first placement that needs at least a tenth less on the device than ``now``; None at the bottom.

    The libraries' own part, which nothing can lower, does not count.
    """
    base = MARGIN * job.factors.base
    limit = base + 0.9 * (estimate(job, now).device - base)
    for placement in ladder(job, wish, fixed):
        need = estimate(job, placement)
        if need.device < limit and need.ram <= ram:
            return placement
    return None


def wished(
    tiled_dit: bool, tile: int | None, overlap: int | None, tiled_vae: bool, weights: str, scale: float
) -> tuple[Placement, frozenset[str]]:
    """What a person asked for, in output pixels, and which fields are therefore fixed.

    tile, overlap: in input pixels; a tile is rounded up to a multiple of 128 output pixels, an overlap to one of
    16. Raises InputError if two overlaps do not fit into a tile.
    """
    fixed = set()
    wish: dict[str, Any] = {}
    if tile is not None:
        wish["tile"] = pad_to_window(max(1, round(tile * scale)))
        fixed.add("tile")
    elif tiled_dit:
        wish["tile"] = 8 * WINDOW_PIXELS
        fixed.add("tile")
    if overlap is not None:
        wish["overlap"] = -(-round(overlap * scale) // PIXELS_PER_TOKEN) * PIXELS_PER_TOKEN
        fixed.add("overlap")
    placement = Placement(**wish)
    if placement.tile is not None and 2 * placement.overlap >= placement.tile:
        if overlap is not None or tile is None:
            raise InputError(
                f"--tile-size {tile or '(default)'} makes tiles of {placement.tile} output pixels, not more than twice"
                f" the overlap of {placement.overlap}; use larger tiles or a smaller --overlap"
            )
        placement = dataclasses.replace(placement, overlap=placement.tile // 4)
    if tiled_vae:
        placement = dataclasses.replace(placement, decoder_tile=DECODER_TILES[1])
        fixed.add("decoder_tile")
    if weights != "auto":
        placement = dataclasses.replace(placement, weights=weights)
        fixed.add("weights")
    return placement, frozenset(fixed)
