"""Find, choose and fetch weight files.

Environment, read at the time of the call: HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN.
Standard library only at import.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from src.checksum import digest_of, size_text, verify
from src.download import Progress, check_space, download, endpoint, look_up
from src.errors import DownloadError, InputError, WeightsError
from src.releases import RELEASES, Release, WeightFile, get_release, needed

__all__ = [
    "Progress",
    "WeightFile",
    "by_hand",
    "choose_release",
    "digest_of",
    "fetch",
    "fetch_file",
    "find",
    "home",
    "verify",
]

log = logging.getLogger(__name__)

PROBE_SECONDS = 5.0  # "is the hub there?" must not hold up a start that can go on without it
LOOKUP_SECONDS = 15.0
MIN_VRAM = 6 * 2**30  # 1.1 in 16 bits holds about 4 GB of weights; below this "auto" does not download it


def cache_folder() -> Path:
    """The Hugging Face cache, by the same rules as huggingface_hub (which reads them only at import)."""
    if direct := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(os.path.expandvars(direct)).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    root = os.environ.get("HF_HOME") or f"{base}/huggingface"
    return Path(os.path.expandvars(root)).expanduser() / "hub"


def home(release: Release, models_dir: Path) -> Path:
    """The folder of ``release``; ``models_dir`` itself where a person named that very folder."""
    inner = models_dir / release.folder
    return models_dir if models_dir.absolute().name == release.folder and not inner.is_dir() else inner


def find(release: Release, mode: str, models_dir: Path) -> tuple[dict[str, Path], list[WeightFile]]:
    """The files of ``release`` for ``mode`` that are here, by part, and those that are missing. No network.

    Looks in the release's folder, in ``models_dir``, then in the Hugging Face cache; never in the folder of
    another release. Raises InputError if the release cannot run in that mode.
    """
    folders = [folder for folder in (release.embedded, home(release, models_dir)) if folder is not None]
    others = {other.folder for other in RELEASES.values() if other.folder != release.folder}
    if release.embedded is None and models_dir.absolute().name not in others:
        folders.append(models_dir)
    found: dict[str, Path] = {}
    missing = []
    for file in needed(release, mode):
        path = _locate(file, folders)
        if path is None:
            missing.append(file)
        else:
            found[file.part] = path
    return found, missing


def _locate(file: WeightFile, folders: Iterable[Path]) -> Path | None:
    for folder in folders:
        for candidate in file.candidates():
            if (folder / candidate.name).is_file():
                return folder / candidate.name
    return next((path for one in file.candidates() if (path := _cached(one)) is not None), None)


def _cached(file: WeightFile) -> Path | None:
    cache = cache_folder()
    # Looked at first so that huggingface_hub is imported only where there is something to find.
    if file.repo is None or not (cache / f"models--{file.repo.replace('/', '--')}").is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(file.repo, file.name, cache_dir=cache)
    return Path(path) if isinstance(path, str) else None


def choose_release(
    name: str, mode: str, models_dir: Path, has_gpu: bool, vram: int | None = None
) -> tuple[Release, str]:
    """The release to use and why; logs one line that says both.

    ``auto`` is 1.1 if its files are here or can be downloaded for a GPU, otherwise nano. A release asked for
    by name is never replaced. ``vram``: bytes of the GPU's memory, if known.
    Raises InputError for an unknown name, or if the release cannot run in ``mode``.
    """
    if name != "auto":
        release, reason = get_release(name), "asked for by name"
        needed(release, mode)
        log.info("weights: %s (%s)", release.name, reason)
        return release, reason
    big, small = get_release("1.1"), get_release("nano")
    found, missing = find(big, mode, models_dir)
    if not missing:
        release, reason = big, f"its files are in {models_dir} or in the Hugging Face cache"
    elif (obstacle := _obstacle(missing, has_gpu, vram)) is None:
        release, reason = big, f"there is a GPU and {endpoint()} can be reached"
    else:
        lacking = f"lacks {', '.join(file.name for file in missing)}" if found else "is not"
        release, reason = small, f"1.1 {lacking} in {models_dir}, and {obstacle}"
        if "vae" not in {file.part for file in small.files} and mode == "full":
            raise InputError(f"--mode full: nano has no VAE decoder; {reason}: use --mode tiny or --model 1.1")
    # A GPU that runs nano is a step down from what its owner expects: that is worth a warning.
    level = logging.WARNING if has_gpu and release is small else logging.INFO
    log.log(level, "weights: %s (%s)", release.name, reason)
    return release, reason


def _obstacle(missing: Sequence[WeightFile], has_gpu: bool, vram: int | None) -> str | None:
    """Why 1.1 should not be downloaded here, None if nothing speaks against it."""
    if not has_gpu:
        return "there is no GPU to run it on"
    if vram is not None and vram < MIN_VRAM:
        return f"the GPU has {size_text(vram)} of memory, less than {size_text(MIN_VRAM)}"
    try:
        for file in {file.repo: file for file in missing}.values():
            look_up(file, PROBE_SECONDS)
    except DownloadError as error:
        return f"it cannot be downloaded: {error}"
    return None


def fetch(release: Release, mode: str, models_dir: Path, progress: Progress | None = None) -> dict[str, Path]:
    """All files of ``release`` for ``mode``, by part; what is missing is downloaded into its folder.

    ``progress`` replaces the progress bar; an exception it raises ends the download, which can be resumed.
    No network is used where nothing is missing. Raises DownloadError (offline, unreachable, not there,
    disk full, damaged), WeightsError (an embedded file is gone), InputError (mode).
    """
    paths, missing = find(release, mode, models_dir)
    if missing and release.embedded is not None:
        names = ", ".join(file.name for file in missing)
        raise WeightsError(f"{release.embedded}: {names} of the embedded {release.name} missing: reinstall the project")
    if missing:
        paths.update(_fetch_all(missing, home(release, models_dir), models_dir, progress))
    return paths


def fetch_file(file: WeightFile, folder: Path, progress: Progress | None = None) -> Path:
    """The path of ``file`` in ``folder``, downloaded if it is neither there nor in the cache. Errors as in fetch."""
    return _locate(file, [folder]) or _fetch_all([file], folder, folder, progress)[file.part]


def _fetch_all(files: Sequence[WeightFile], folder: Path, memory: Path, progress: Progress | None) -> dict[str, Path]:
    try:
        remotes = [look_up(file, LOOKUP_SECONDS) for file in files]
    except DownloadError as error:
        raise DownloadError(f"{error}; or {by_hand(files, folder)}") from error
    check_space(remotes, folder)
    return {remote.file.part: download(remote, folder, memory, progress) for remote in remotes}


def by_hand(files: Iterable[WeightFile], folder: Path) -> str:
    """What to tell somebody who has to place the files without us."""
    lines = []
    for file in files:
        sources = [f"https://huggingface.co/{file.repo}"] if file.repo else []
        sources += [file.by_hand] if file.by_hand else []
        lines.append(f"{file.name} (from {' or '.join(sources) or 'its authors'})")
    return f"put into {folder}: {', '.join(lines)}"
