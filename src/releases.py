"""The registry of releases: which files each one consists of, where they come from, how to know them.

Standard library only. Two released versions have the same file names and tensor shapes but need another
projector (``ProjectorConfig.kind``), so each has a folder of its own and parts are never shared between folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from src.config import NANO_CONFIG, ModelConfig, ProjectorConfig
from src.errors import InputError

PARTS = {
    "tiny": ("dit", "projector", "tcdecoder", "prompt"),
    "tiny-long": ("dit", "projector", "tcdecoder", "prompt"),
    "full": ("dit", "projector", "vae", "prompt"),
}


@dataclass(frozen=True)
class WeightFile:
    """One file of weights.

    ``part``: dit, projector, tcdecoder, vae or prompt (tools may use names of their own).
    ``repo``: Hugging Face repository to download it from (None: it is only ever placed by hand).
    ``bytes``, ``sha256``: what the published file has (None: not known).
    ``alternatives``: other files that do as well, accepted where somebody put them, never downloaded.
    ``by_hand``: a second place to get it from, for the instructions to people without the hub.
    """

    part: str
    name: str
    repo: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    alternatives: tuple[WeightFile, ...] = ()
    by_hand: str = ""

    def candidates(self) -> Iterator[WeightFile]:
        """The file itself, then its alternatives, in the order of preference."""
        yield self
        yield from self.alternatives

    def named(self, name: str) -> WeightFile | None:
        """The candidate of that file name (its size and hash are those to check), None for a foreign name."""
        return next((file for file in self.candidates() if file.name == name), None)


@dataclass(frozen=True)
class Release:
    """One set of weights that belong together.

    ``folder``: its folder under the models folder. ``embedded``: where it lies in this project's own
    tree (None: it is downloaded).
    """

    name: str
    folder: str
    files: tuple[WeightFile, ...]
    config: ModelConfig = field(default_factory=ModelConfig)
    embedded: Path | None = None


def needed(release: Release, mode: str) -> tuple[WeightFile, ...]:
    """The files that ``release`` needs in ``mode``. Raises InputError if it cannot run in that mode."""
    if mode not in PARTS:
        raise InputError(f"--mode {mode!r} is not one of {', '.join(PARTS)}")
    files = {file.part: file for file in release.files}
    if "vae" in PARTS[mode] and "vae" not in files:
        raise InputError(f"{release.name} has no VAE decoder: use --mode tiny or --model 1.1")
    return tuple(files[part] for part in PARTS[mode])


def get_release(name: str) -> Release:
    """The release called ``name``. Raises InputError for an unknown one."""
    if name not in RELEASES:
        raise InputError(f"--model {name!r} is not one of auto, {', '.join(RELEASES)}")
    return RELEASES[name]


# --------------------------------------------------------------------------- the releases

DIT = "diffusion_pytorch_model_streaming_dmd.safetensors"

# Neither repository of the authors holds the prompt. The repack on the hub is the one that can be
# downloaded; the authors' own file lies beside their code and is accepted under its own name.
PROMPT = WeightFile(
    "prompt",
    "Prompt.safetensors",
    repo="1038lab/FlashVSR",
    alternatives=(
        WeightFile(
            "prompt", "posi_prompt.pth", sha256="4601107a11e4e11a936a6b79df579e54dbc99872132bf542151f0ffd65b4b1ef"
        ),
        WeightFile("prompt", "posi_prompt.safetensors"),
    ),
    by_hand="https://github.com/OpenImagingLab/FlashVSR/tree/main/examples/WanVSR/prompt_tensor/posi_prompt.pth",
)


def _part(part: str, name: str, repo: str, bytes: int | None = None, sha256: str | None = None) -> WeightFile:
    """A part of a release; a safetensors repack under the same stem does as well."""
    repack = f"{name.rsplit('.', 1)[0]}.safetensors"
    return WeightFile(part, name, repo, bytes, sha256, () if repack == name else (WeightFile(part, repack),))


# Sizes and hashes of 1.0 are not known; the hub's own are used when it is downloaded.
V1_0 = Release(
    name="1.0",
    folder="FlashVSR",
    files=(
        _part("dit", DIT, "JunhaoZhuang/FlashVSR"),
        _part("projector", "LQ_proj_in.ckpt", "JunhaoZhuang/FlashVSR"),
        _part("tcdecoder", "TCDecoder.ckpt", "JunhaoZhuang/FlashVSR"),
        _part("vae", "Wan2.1_VAE.pth", "JunhaoZhuang/FlashVSR"),
        PROMPT,
    ),
    config=ModelConfig(projector=ProjectorConfig(kind="buffer")),
)

V1_1 = Release(
    name="1.1",
    folder="FlashVSR-v1.1",
    files=(
        _part(
            "dit",
            DIT,
            "JunhaoZhuang/FlashVSR-v1.1",
            5_676_070_392,
            "bd28180edcf3446c028e32fc6b731a80bf7e4da2ab4caac3186b9499964d37be",
        ),
        _part(
            "projector",
            "LQ_proj_in.ckpt",
            "JunhaoZhuang/FlashVSR-v1.1",
            575_694_948,
            "d6d011cdaaba6a52645086caa08fa04124e746f6ca568140a24007591142bfd2",
        ),
        _part(
            "tcdecoder",
            "TCDecoder.ckpt",
            "JunhaoZhuang/FlashVSR-v1.1",
            189_018_333,
            "e224bdcf2f52745cbf4d393ff5374c2ba09e90285d5d19062d2bf63b915b6161",
        ),
        _part(
            "vae",
            "Wan2.1_VAE.pth",
            "JunhaoZhuang/FlashVSR-v1.1",
            507_609_880,
            "38071ab59bd94681c686fa51d75a1968f64e470262043be31f7a094e442fd981",
        ),
        PROMPT,
    ),
    config=ModelConfig(projector=ProjectorConfig(kind="causal")),
)

NANO = Release(
    name="nano",
    folder="nano",
    files=(
        WeightFile(
            "dit",
            DIT,
            bytes=3_531_624,
            sha256="18e6332b09f958daa5fe4594ac23f587cb0de53139df9ffbf2cd1731fa091408",
        ),
        WeightFile(
            "projector",
            "LQ_proj_in.safetensors",
            bytes=4_163_256,
            sha256="e9beb016d9fdef09c1fe77ae55ccc303cddefeecb892de1ca8bc094b8b3f0f7b",
        ),
        WeightFile(
            "tcdecoder",
            "TCDecoder.safetensors",
            bytes=4_288_630,
            sha256="0c39ca706e713c0cc1fb3cff975c9d18cc5356bac1811b64bed0aab28e3a943d",
        ),
        WeightFile(
            "prompt",
            "Prompt.safetensors",
            bytes=624,
            sha256="3f7d5292aae2183bf45edb74e3fcd87ba9bb0c55aef65b79f757eb8398e0643a",
        ),
    ),
    config=NANO_CONFIG,
    embedded=Path(__file__).resolve().parent.parent / "models" / "nano",
)

RELEASES: dict[str, Release] = {release.name: release for release in (NANO, V1_0, V1_1)}
