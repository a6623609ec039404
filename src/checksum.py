"""SHA-256 of weight files, computed once and remembered.

Hashing the 5.7 GB of a release takes up to a minute, so a digest is noted in the models folder and trusted for as
long as path, size and time of change stay the same. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from src.errors import WeightsError
from src.releases import WeightFile

log = logging.getLogger(__name__)

MEMORY = ".verified.json"
MEMORY_FROM = 32 * 2**20  # smaller files are hashed anew each time: it takes milliseconds


def verify(file: WeightFile, path: Path, models_dir: Path) -> str | None:
    """How the file at ``path`` differs from the published one, in words that name both; None: it does not, as
    far as is known.

    The size is compared every time; the SHA-256 is computed once and remembered in ``models_dir`` for as long as
    path, size and time of change stay. Raises WeightsError if the file cannot be read.
    """
    known = file.named(path.name)
    if known is None:
        return None
    try:
        size = path.stat().st_size
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({first_line(error)})") from error
    if known.bytes is not None and size != known.bytes:
        return f"it has {size} bytes, the published {known.name} has {known.bytes}"
    if known.sha256 is not None and (digest := digest_of(path, models_dir)) != known.sha256:
        return f"its SHA-256 is {digest}, that of the published {known.name} is {known.sha256}"
    return None


def digest_of(path: Path, models_dir: Path) -> str:
    """The SHA-256 of ``path``, from memory if the file did not change. Raises WeightsError."""
    try:
        stat = path.stat()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({first_line(error)})") from error
    if stat.st_size < MEMORY_FROM:
        return sha256_of(path)
    entry = _memory(models_dir).get(str(path.resolve()))
    if isinstance(entry, dict) and (entry.get("bytes"), entry.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns):
        return str(entry.get("sha256"))
    log.info("checking %s (%s); this is done once", path, size_text(stat.st_size))
    digest = sha256_of(path)
    remember(path, digest, models_dir)
    return digest


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal. Raises WeightsError."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**22):
                digest.update(block)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({first_line(error)})") from error
    return digest.hexdigest()


def _memory(models_dir: Path) -> dict[str, Any]:
    path = models_dir / MEMORY
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.info("%s is unreadable (%s): hashes are computed anew", path, first_line(error))
        return {}
    return entries if isinstance(entries, dict) else {}


def remember(path: Path, digest: str, models_dir: Path) -> None:
    """Note the hash of a large file; written whole or not at all, and a folder that cannot be written is no error."""
    temporary = None
    try:
        stat = path.stat()
        if stat.st_size < MEMORY_FROM:
            return
        entries = _memory(models_dir)
        entries[str(path.resolve())] = {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}
        handle, temporary = tempfile.mkstemp(dir=models_dir, prefix=MEMORY)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(entries, file, indent=1)
        Path(temporary).replace(models_dir / MEMORY)
    except OSError as error:
        log.info("cannot note the hash of %s in %s (%s)", path, models_dir, first_line(error))
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def size_text(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
