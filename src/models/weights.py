"""The weights of a release: its prompt, and the refusal of files that belong to another release."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from src.errors import WeightsError
from src.hub import digest_of
from src.releases import RELEASES, Release
from src.tensor_files import REPLACE, assign, check_dtype, open_tensors, place, read_tensors

__all__ = ["assign", "check_versions", "read_prompt", "read_tensors"]

log = logging.getLogger(__name__)

PROMPT_NAMES = ("context", "prompt", "posi_prompt")
VERSIONED = ("dit", "projector")  # the parts known to differ between 1.0 and 1.1


def read_prompt(
    path: Path,
    text_dim: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    mismatch: str | None = None,
) -> Tensor:
    """The prompt embedding (1, L, text_dim), stored under any name as that or as (L, text_dim).

    Of several tensors the one called context, prompt or posi_prompt counts. ``mismatch`` and errors as in
    read_tensors.
    """
    path = Path(path)
    note = f" ({mismatch})" if mismatch else ""
    with open_tensors(path) as source:
        known = [name for name in PROMPT_NAMES if name in source.shapes]
        name = (known or list(source.shapes) or [""])[0]
        if len(source.shapes) != 1 and not known:
            raise WeightsError(f"{path}: {len(source.shapes)} tensors, expected one prompt{note}: {REPLACE}")
        shape = source.shapes[name]
        if len(shape) not in (2, 3) or shape[-1] != text_dim or shape[-2] < 1 or shape[:-2] not in ((), (1,)):
            raise WeightsError(
                f"{path}: the prompt {name!r} has the shape {shape}, expected (1, L, {text_dim}){note}: {REPLACE}"
            )
        check_dtype(path, source, name)
        tensor = place(path, source, name, device, dtype)
    if mismatch:
        log.warning("%s: the shape fits, but %s", path, mismatch)
    return tensor.reshape(1, *shape[-2:])


def check_versions(release: Release, paths: Mapping[str, Path], models_dir: Path | None = None) -> None:
    """Refuse DiT and projector of another version than ``release``. Raises WeightsError.

    1.0 and 1.1 have the same file names and shapes, and a mix of them runs and gives ghosting. What can be
    detected: a file whose size and SHA-256 are those registered for another release (1.1's files in 1.0's folder;
    nothing is registered for 1.0 yet); and a file outside the release's own folder whose hash does not prove
    where it belongs. What cannot: a file of 1.0, or any converted or re-saved file, put by hand into 1.1's folder; for
    1.1 ``hub.verify`` then warns that the hash is not the published one. TCDecoder, VAE and prompt are not checked,
    for it is not known that the versions' files differ.
    ``models_dir``: where hashes are remembered (default: beside the file).
    """
    for part in VERSIONED:
        path = paths.get(part)
        if path is None or release.embedded is not None:
            continue
        owner = _owner(path, part, models_dir or path.parent)
        if owner is not None and owner != release.name:
            raise WeightsError(
                f"{path} belongs to release {owner}, but {release.name} was asked for: use --model {owner}, or put"
                f" the file of {release.name} there"
            )
        # The cache of the hub keeps each repository apart, as our folders do.
        at_home = path.absolute().parent.name == release.folder or "snapshots" in path.parts
        if owner is None and not at_home:
            raise WeightsError(
                f"{path}: nothing tells which release it belongs to: move it into the folder {release.folder} if it is"
                f" from {release.name}"
            )


def _owner(path: Path, part: str, models_dir: Path) -> str | None:
    """The release that registered this very file."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    for release in RELEASES.values():
        for file in release.files:
            # The size is compared first: most files need no hashing at all.
            if file.part == part and file.sha256 and file.bytes == size and digest_of(path, models_dir) == file.sha256:
                return release.name
    return None
