"""Download one file from a Hugging Face hub: resumable, checked, never half there under its final name.

The bytes go to ``<folder>/.incomplete/<name>.<tag>.part``, which survives an interruption of the connection or of the
program (huggingface_hub itself starts anew after the latter). The complete file is checked and only then moved.
A second process waits for the lock and finds the file. Standard library only at import.

Environment, read at the time of the call: HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from src.checksum import first_line, remember, sha256_of, size_text
from src.config import VERSION
from src.errors import DownloadError, FlashVSRError
from src.releases import WeightFile

log = logging.getLogger(__name__)

Progress = Callable[[str, str, int, int], None]  # part, file name, bytes done, bytes in all

SPACE_MARGIN = 512 * 2**20  # left free beside the downloads: outputs and temporary files need room too
ATTEMPTS = 5  # failures in a row, each after less than PROGRESS_BYTES, that end a download
PROGRESS_BYTES = 16 * 2**20
RETRY_SECONDS = 15.0
RETRY_PAUSE = 1.0  # doubles with every failure in a row
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # trying again does not help


def offline() -> bool:
    """Whether the user forbade the network."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def endpoint() -> str:
    """The hub's address, without a slash at the end."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


@dataclass(frozen=True)
class Remote:
    """What the hub says about a file. ``sha256`` None: it is kept outside the large-file storage."""

    file: WeightFile
    location: str
    headers: dict[str, str]
    size: int
    etag: str
    sha256: str | None


def look_up(file: WeightFile, timeout: float) -> Remote:
    """Ask the hub for a file's size and hash. Raises DownloadError."""
    if file.repo is None:
        raise DownloadError(f"{file.name} cannot be downloaded")
    if offline():
        raise DownloadError("HF_HUB_OFFLINE forbids the network: unset it")
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.utils import build_hf_headers

    url = f"{endpoint()}/{file.repo}/resolve/main/{quote(file.name)}"
    try:
        meta = get_hf_file_metadata(url, timeout=timeout)
        headers = build_hf_headers(library_name="flashvsr-plus", library_version=VERSION)
    except Exception as error:
        raise DownloadError(_explain(error, file)) from error
    if not meta.etag or not meta.size or not meta.commit_hash:
        raise DownloadError(f"{url} answers, but not as a Hugging Face hub does: check HF_ENDPOINT and the proxy")
    if urlsplit(meta.location).netloc != urlsplit(url).netloc:
        # The storage behind the hub gets a signed address; the token is the hub's alone.
        headers.pop("authorization", None)
    is_hash = len(meta.etag) == 64 and all(c in "0123456789abcdef" for c in meta.etag)
    return Remote(file, meta.location, headers, meta.size, meta.etag, meta.etag if is_hash else None)


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _explain(error: Exception, file: WeightFile) -> str:
    status = _status(error)
    where = f"{file.name} of {file.repo} at {endpoint()}"
    if status in (401, 403):
        return f"{where}: access denied ({status}): set HF_TOKEN, or HF_ENDPOINT to a mirror"
    if status == 404:
        return f"{where}: not found (404): it was moved or renamed, or HF_ENDPOINT is wrong"
    if status is not None:
        return f"{where}: the server answers {status}: try again later"
    return f"{where}: cannot be fetched ({first_line(error)}): check the connection"


def check_space(remotes: Sequence[Remote], folder: Path) -> None:
    """Raises DownloadError if the files do not fit. What an interrupted download left counts as there."""
    wanted = sum(remote.size - _bytes(_part_path(remote, folder)) for remote in remotes)
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < wanted + SPACE_MARGIN:
        raise DownloadError(
            f"{folder}: {size_text(free)} free, but the download needs {size_text(wanted)} and"
            f" {size_text(SPACE_MARGIN)} to spare: make room, choose another --models-dir, or use --model nano"
        )


def download(remote: Remote, folder: Path, memory: Path, progress: Progress | None = None) -> Path:
    """Fetch one file under its lock, check it, and move it to its final name in ``folder``.

    ``memory``: the folder that remembers its hash. Raises DownloadError.
    """
    from huggingface_hub.utils import WeakFileLock

    file, part = remote.file, _part_path(remote, folder)
    target = folder / file.name
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(part.parent / f"{file.name}.lock"):
            if target.is_file():  # another process was faster
                return target
            for old in part.parent.glob(f"{file.name}.*.part"):
                if old != part:
                    old.unlink()
            log.info("downloading %s (%s) from %s to %s", file.name, size_text(remote.size), file.repo, folder)
            _transfer(remote, part, progress)
            digest = _check_download(remote, part)
            with part.open("rb") as file_object:
                os.fsync(file_object.fileno())  # or a power cut could leave the final name with other bytes
            part.replace(target)
    except OSError as error:
        raise DownloadError(f"{target}: cannot be written ({first_line(error)}): check the folder and disk") from error
    remember(target, digest, memory)
    return target


def _transfer(remote: Remote, part: Path, progress: Progress | None) -> None:
    """Append to ``part`` until it has the full size. Raises DownloadError; OSError of the disk passes."""
    from huggingface_hub.file_download import http_get

    if _bytes(part) > remote.size:
        part.unlink()
    failures = 0
    with _bar(remote, _bytes(part), progress) as bar:
        while (before := _bytes(part)) < remote.size:
            try:
                with part.open("ab") as out:
                    http_get(
                        remote.location,
                        out,
                        resume_size=before,
                        headers=dict(remote.headers),
                        expected_size=remote.size,
                        _tqdm_bar=bar,
                    )
            except FlashVSRError:
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno in FULL_DISK:
                    raise
                failures = 1 if _bytes(part) - before >= PROGRESS_BYTES else failures + 1
                refused = 400 <= (_status(error) or 0) < 500 and _bytes(part) <= before
                if refused or failures >= ATTEMPTS:
                    kept = f"{size_text(_bytes(part))} of {size_text(remote.size)} are kept"
                    raise DownloadError(f"{_explain(error, remote.file)} ({kept}): run again to resume") from error
                log.warning("%s: interrupted (%s); resuming", remote.file.name, first_line(error))
                time.sleep(RETRY_PAUSE * 2**failures)
                remote = _look_up_again(remote)


def _look_up_again(remote: Remote) -> Remote:
    """``remote`` with a fresh address, for a signed one may have expired; unchanged while the hub is away."""
    try:
        return look_up(remote.file, RETRY_SECONDS)
    except DownloadError as error:
        log.warning("%s", error)
        return remote


def _bar(remote: Remote, done: int, progress: Progress | None) -> Any:
    """A tqdm bar (hidden where the output is no terminal), or one that only reports to ``progress``."""
    from tqdm import tqdm

    class Bar(tqdm):
        received = done

        def update(self, n: float | None = 1) -> bool | None:
            self.received += int(n or 0)
            if progress is not None:
                progress(remote.file.part, remote.file.name, self.received, remote.size)
            return super().update(n)

    hidden = True if progress is not None else None
    return Bar(total=remote.size, initial=done, desc=remote.file.name, unit="B", unit_scale=True, disable=hidden)


def _check_download(remote: Remote, part: Path) -> str:
    """The SHA-256 of a finished download; a damaged one is removed. Raises DownloadError.

    The hub's own hash tells damage. Where the hub agrees with the file and the registry does not, the authors
    have published another file: that is a warning here, and reading it will tell whether it fits.
    """
    file, size, digest = remote.file, _bytes(part), sha256_of(part)
    expected = remote.sha256 or file.sha256
    if size != remote.size or (expected is not None and digest != expected):
        part.unlink()
        raise DownloadError(
            f"{file.name} from {file.repo} arrived damaged and was removed: {size} bytes, SHA-256 {digest}; expected"
            f" {remote.size} bytes, SHA-256 {expected or 'unknown'}: run again, or set HF_ENDPOINT to another mirror"
        )
    if file.sha256 is not None and digest != file.sha256:
        log.warning("%s from %s: SHA-256 %s, registered %s", file.name, file.repo, digest, file.sha256)
    return digest


def _part_path(remote: Remote, folder: Path) -> Path:
    # The etag in the name: a file that changed on the hub is never continued with other bytes.
    tag = hashlib.sha256(remote.etag.encode()).hexdigest()[:16]
    return folder / ".incomplete" / f"{remote.file.name}.{tag}.part"


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
