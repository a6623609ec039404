"""The memory of a long job on disk: what it is, and which of its segments are finished.

A hidden folder beside the output holds the segments and ``journal.json``, which is written anew, whole or not at all,
after every segment. It outlives kill -9 and loss of power; the lock beside it does not, because the system releases it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from src.config import VERSION, Options, option_name
from src.errors import InputError, VideoError

log = logging.getLogger(__name__)

NAME = "journal.json"
FORMAT = 1
_SAMPLE = 1 << 20  # bytes at both ends of an input that are hashed
# Options that do not change what is written; all others must be the same for a job to go on.
_FREE = frozenset(
    {"input", "output", "overwrite", "no_resume", "dry_run", "models_dir", "device", "dtype", "vram", "tiled_dit"}
    | {"tile_size", "overlap", "tiled_vae", "offload", "unload_dit", "attention"}
)


@dataclass(frozen=True)
class Segment:
    """A finished file in the job's folder: ``frames`` frames in ``bytes`` bytes."""

    name: str
    frames: int
    bytes: int


@dataclass
class Journal:
    """``identity``: what the job is, in comparable words. ``cuts``: first frames of the scenes seen so far."""

    identity: dict[str, Any]
    segments: list[Segment] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """Frames in finished segments."""
        return sum(segment.frames for segment in self.segments)


def folder_of(target: Path) -> Path:
    """The hidden folder of the job that writes ``target``."""
    return target.parent / f".{target.name[:80]}.unfinished"


def identity(options: Options, release: str) -> dict[str, Any]:
    """What must not change while a job is unfinished: the input, the options that shape the output, the version."""
    words: dict[str, Any] = {"version": VERSION, "input": fingerprint(options.input), "weights": release}
    for item in dataclasses.fields(options):
        if item.name not in _FREE and item.name != "model":
            words[option_name(item)] = str(getattr(options, item.name))
    return words


def fingerprint(path: Path) -> str:
    """Size, time of change and both ends of a file; names, sizes and times of a folder's files."""
    digest = hashlib.sha256()
    try:
        files = sorted(item for item in path.iterdir() if item.is_file()) if path.is_dir() else [path]
        for item in files:
            stat = item.stat()
            digest.update(f"{item.name if path.is_dir() else ''}:{stat.st_size}:{stat.st_mtime_ns};".encode())
        if not path.is_dir():
            with path.open("rb") as file:
                digest.update(file.read(_SAMPLE))
                file.seek(max(0, path.stat().st_size - _SAMPLE))
                digest.update(file.read(_SAMPLE))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def load(folder: Path) -> Journal | None:
    """The journal in ``folder``, with the segments that are really there; None if there is none to go on from."""
    try:
        data = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s is unreadable (%s): the job starts over", folder / NAME, error)
        return None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        log.warning("%s was written by another version: the job starts over", folder / NAME)
        return None
    journal = Journal(data["identity"], [Segment(**item) for item in data["segments"]], data["cuts"])
    for number, segment in enumerate(journal.segments):
        path = folder / segment.name
        if not path.exists() or (path.is_file() and path.stat().st_size != segment.bytes):
            log.warning("%s is missing or damaged: it and what follows is made again", path)
            journal.segments = journal.segments[:number]
            break
    journal.cuts = [cut for cut in journal.cuts if cut <= journal.frames]
    return journal


def frames_done(target: Path, options: Options) -> int:
    """Frames that an unfinished job for ``target`` has already; 0 if there is none or it will not be continued."""
    journal = None if options.no_resume else load(folder_of(target))
    return 0 if journal is None else journal.frames


def discard(target: Path) -> bool:
    """Delete the unfinished job for ``target``. False if there is none; InputError while it is running."""
    folder = folder_of(target)
    if not folder.is_dir():
        return False
    JobFolder(target).remove()
    return True


class JobFolder:
    """The folder of a running job, locked against a second one. Made by the first ``commit`` or ``path``."""

    def __init__(self, target: Path) -> None:
        """InputError when another job is writing the same output, VideoError when the folder cannot be made."""
        self.target, self.folder = target, folder_of(target)
        self.journal = Journal({})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / "lock")
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(f"another job is writing {target}; wait for it, or choose another output") from error
        except OSError as error:
            raise VideoError(f"{target} cannot be written: {error.strerror or error}") from error

    def begin(self, words: dict[str, Any], resume: bool) -> Journal:
        """The journal to go on from, or an empty one. InputError if the unfinished job there is a different one."""
        found = load(self.folder)
        if found is not None and found.segments and resume:
            self.journal = found  # first: what is refused must not be deleted
            _compare(self.target, found.identity, words)
            log.info("%s: going on after %d frames of an unfinished job", self.target, found.frames)
        else:
            if found is not None and found.segments:
                log.info("%s: an unfinished job of %d frames is thrown away", self.target, found.frames)
            self.journal = Journal(words)
        keep = {segment.name for segment in self.journal.segments} | {"lock", NAME}
        for left in self.folder.iterdir():
            if left.name not in keep and not (left.is_dir() and self.journal.segments):
                _delete(left)
        return self.journal

    def keep(self, frames: int) -> Journal:
        """Forget segments that reach beyond ``frames``."""
        while self.journal.frames > frames:
            self.journal.segments.pop()
        return self.journal

    def commit(self, segment: Segment, cuts: list[int]) -> None:
        """Note a finished segment, so that it survives whatever happens next."""
        self.journal.segments.append(segment)
        self.journal.cuts = [cut for cut in cuts if cut <= self.journal.frames]
        journal = self.journal
        data = {
            "format": FORMAT,
            "identity": journal.identity,
            "segments": [dataclasses.asdict(item) for item in journal.segments],
            "cuts": journal.cuts,
        }
        try:
            path = self.folder / segment.name
            if path.is_file():
                _to_disk(path)
            new = self.folder / (NAME + ".new")
            with new.open("w", encoding="utf-8") as file:
                json.dump(data, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.folder / NAME)
        except OSError as error:
            journal.segments.pop()
            raise VideoError(f"{self.target}: its journal cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Release the lock; delete the folder if it holds nothing worth keeping."""
        if self.journal.segments:
            self._lock.release()
        else:
            self.remove()

    def remove(self) -> None:
        """Delete the folder with all that is in it."""
        self._lock.release()
        _delete(self.folder)


def _to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _delete(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s could not be removed: %s", path, error)


def _compare(target: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    changed = [
        "the input changed" if name == "input" else f"{name} was {old.get(name)}, now {value}"
        for name, value in new.items()
        if old.get(name) != value
    ]
    if changed:
        raise InputError(
            f"an unfinished job for {target} does not match: {'; '.join(changed)}; use the same input and options, or"
            " start over with --no-resume"
        )
