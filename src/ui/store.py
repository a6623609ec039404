"""The job queue: one SQLite file, read and written by the server only."""

from __future__ import annotations

import dataclasses
import json
import secrets
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ACTIVE = ("queued", "running")
STATUSES = (*ACTIVE, "done", "failed", "cancelled", "interrupted")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, kind TEXT NOT NULL, media TEXT NOT NULL, title TEXT NOT NULL,
    batch TEXT NOT NULL, status TEXT NOT NULL, params TEXT NOT NULL, result TEXT NOT NULL, error TEXT NOT NULL,
    place REAL NOT NULL, created REAL NOT NULL, started REAL, finished REAL
)
"""
_STOPPED = "the program was closed in the middle of it; resume it or remove it"


@dataclass(frozen=True)
class Job:
    """One piece of work.

    ``kind``: upscale, export, download or tool. ``media``: video or image, the tab that it belongs to ("" for none).
    ``owner``: user name, "" without a login. ``batch``: shared by the jobs that were started together, or "".
    ``params``: what the task of its kind takes. ``result``: what it gave. Times are seconds since the epoch.
    """

    kind: str
    title: str
    params: dict[str, Any]
    media: str = ""
    owner: str = ""
    batch: str = ""
    status: str = "queued"
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    place: float = 0.0
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    id: str = ""


_COLUMNS = tuple(item.name for item in dataclasses.fields(Job))


class Store:
    """All jobs. Safe to use from any thread; every change raises ``version``."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file; what was running when the server ended is marked interrupted."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(_SCHEMA)
        self.version = time.time_ns()  # never one that a page of an earlier run of the server knows
        self._write(
            "UPDATE jobs SET status='interrupted', error=?, finished=? WHERE status='running'", _STOPPED, time.time()
        )

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def add(self, job: Job) -> Job:
        """Append a job to the queue; the copy returned has its id and time."""
        now = time.time()
        job = dataclasses.replace(job, id=job.id or new_id(), created=now, place=now)
        values = [getattr(job, name) for name in _COLUMNS]
        encoded = [json.dumps(value) if isinstance(value, dict) else value for value in values]
        marks = ", ".join("?" for _ in _COLUMNS)
        self._write(f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES ({marks})", *encoded)
        return job

    def get(self, job_id: str) -> Job | None:
        return next(iter(self._read("SELECT * FROM jobs WHERE id=?", job_id)), None)

    def all(self, owner: str | None = None, limit: int = 300) -> list[Job]:
        """The newest jobs, newest first; of one owner, or of everybody (None)."""
        where, values = ("", []) if owner is None else ("WHERE owner=?", [owner])
        return self._read(f"SELECT * FROM jobs {where} ORDER BY created DESC, rowid DESC LIMIT ?", *values, limit)

    def next_queued(self) -> Job | None:
        query = "SELECT * FROM jobs WHERE status='queued' ORDER BY place, rowid LIMIT 1"
        return next(iter(self._read(query)), None)

    def update(self, job_id: str, **changes: Any) -> None:
        """Change columns of one job."""
        unknown = set(changes) - set(_COLUMNS)
        if unknown:
            raise ValueError(f"no such columns: {', '.join(sorted(unknown))}")
        words = ", ".join(f"{name}=?" for name in changes)
        values = [json.dumps(value) if isinstance(value, dict) else value for value in changes.values()]
        self._write(f"UPDATE jobs SET {words} WHERE id=?", *values, job_id)

    def move_first(self, job_id: str) -> None:
        self._write(
            "UPDATE jobs SET place=(SELECT MIN(place) FROM jobs WHERE status='queued')-1"
            " WHERE id=? AND status='queued'",
            job_id,
        )

    def remove(self, job_id: str) -> None:
        self._write("DELETE FROM jobs WHERE id=?", job_id)

    def speeds(self, model: str, mode: str) -> list[float]:
        """Seconds per million output pixels of the newest finished jobs with that model and mode."""
        found = []
        for job in self._read(
            "SELECT * FROM jobs WHERE kind='upscale' AND status='done' ORDER BY finished DESC LIMIT 50"
        ):
            done = job.result
            if done.get("model") == model and done.get("mode") == mode and done.get("seconds"):
                found.append(done["seconds"] / (done["frames"] * done["width"] * done["height"] / 1e6))
        return found

    def _write(self, query: str, *values: Any) -> None:
        with self._lock:
            self._db.execute(query, values)
            self.version += 1

    def _read(self, query: str, *values: Any) -> list[Job]:
        with self._lock:
            rows = self._db.execute(query, values).fetchall()
        return [_job(row) for row in rows]


def new_id() -> str:
    return secrets.token_hex(6)


def _job(row: sqlite3.Row) -> Job:
    values = {name: row[name] for name in _COLUMNS}
    return Job(**values | {name: json.loads(values[name]) for name in ("params", "result")})
