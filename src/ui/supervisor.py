"""Feeds the queue to the worker process, keeps what it reports, and survives its death."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from src.errors import InputError
from src.ui import worker
from src.ui.store import Job, Store

log = logging.getLogger(__name__)

PLAN_SECONDS = 60.0  # the first plan waits for the worker to start
IDLE_SECONDS = 300.0  # an unused worker is ended after this, which gives its memory back
CANCEL_SECONDS = 180.0  # one chunk takes less even on a slow CPU; a worker that is silent for longer is killed


class Supervisor:
    """One thread that runs one job at a time in one worker process."""

    def __init__(self, store: Store, jobs_folder: Path, on_ended: Callable[[Job, str], None] | None = None) -> None:
        """``jobs_folder``: every job has its own folder there. ``on_ended``: called with a job and its new status."""
        self._store, self._folder, self._on_ended = store, jobs_folder, on_ended
        self._wake, self._stop = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._questions: Connection | None = None
        self._asking = threading.Lock()
        self._asked = False
        self._starting = threading.RLock()
        self._current: Job | None = None
        self._cancel_at: float | None = None
        self._progress: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)

    # ------------------------------------------------------------------ for the page

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and the worker; a running job becomes interrupted."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)
        self._end_worker()

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def progress(self) -> dict[str, Any]:
        """What the worker last said about the running job; empty when none runs."""
        return dict(self._progress)

    @property
    def worker_pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.is_alive() else None

    def cancel(self, job: Job) -> None:
        """Stop a job: at once if it waits, within one chunk if it runs."""
        with self._lock:
            running = self._current is not None and self._current.id == job.id
            if running:
                self._cancel_at = self._cancel_at or time.monotonic()
                self._progress["message"] = "stopping after this chunk"
                self._say(("cancel", job.id))
                return
        if job.status == "queued":
            self._store.update(job.id, status="cancelled", finished=time.time())

    def pause(self, job: Job, on: bool) -> None:
        """Let a running job wait between two chunks, or go on."""
        with self._lock:
            if self._current is not None and self._current.id == job.id:
                self._say(("pause" if on else "resume", job.id))

    def ask(self, values: dict[str, Any]) -> list[Any]:
        """The worker's plan of a job with these options: rows of name and text; none while a job runs.

        Raises InputError with what is wrong with them.
        """
        if self._current is not None:
            return []  # its memory is taken by the running job: a plan would be about something else
        with self._asking:
            self._asked = True
            try:
                self._ensure_worker()
                questions = self._questions
                if questions is None:
                    return []
                questions.send(values)
                if not questions.poll(PLAN_SECONDS):
                    log.warning("the worker gave no plan within %g s", PLAN_SECONDS)
                    self._end_worker()  # a late answer must not be taken for that of the next question
                    return []
                word, payload = questions.recv()
            except (EOFError, OSError) as error:
                log.warning("the worker gave no plan: %r", error)
                return []
        if word == "error":
            raise InputError(payload)
        return list(payload)

    # ------------------------------------------------------------------ the thread

    def _loop(self) -> None:
        idle_since = time.monotonic()
        while not self._stop.is_set():
            job = self._store.next_queued()
            if self._asked:
                self._asked, idle_since = False, time.monotonic()
            if job is not None:
                self._run(job)
                idle_since = time.monotonic()
                continue
            if self._process is not None and time.monotonic() - idle_since > IDLE_SECONDS:
                log.info("the worker had nothing to do for %g s: it is ended", IDLE_SECONDS)
                self._end_worker()
            self._wake.wait(5)
            self._wake.clear()

    def _run(self, job: Job) -> None:
        began = time.time()
        self._store.update(job.id, status="running", started=began, finished=None, error="", result={})
        with self._lock:
            self._current, self._cancel_at = job, None
            self._progress = {"job": job.id, "message": "starting"}
        try:
            self._ensure_worker()
            with self._lock:
                self._say(("run", {"id": job.id, "kind": job.kind, "params": job.params}))
            status, payload = self._follow(job)
        except OSError as error:
            status, payload = "failed", f"the worker process cannot be started: {error}"
        if self._on_ended is not None:
            self._on_ended(job, status)
        result = payload if isinstance(payload, dict) else {}
        error_text = payload if isinstance(payload, str) else ""
        self._store.update(job.id, status=status, result=result, error=error_text, finished=time.time())
        with self._lock:
            self._current, self._progress = None, {}

    def _follow(self, job: Job) -> tuple[str, Any]:
        """Wait for the end of the running job: its status and its result or its error."""
        assert self._pipe is not None
        while True:
            try:
                if self._pipe.poll(0.2):
                    word, payload = self._pipe.recv()
                    if word == "progress":
                        with self._lock:
                            stopping = self._cancel_at is not None
                            self._progress |= payload
                            if stopping:
                                self._progress["message"] = "stopping after this chunk"
                        continue
                    return word, payload
            except (EOFError, OSError) as error:
                log.debug("the worker's pipe ended: %r", error)
                return self._bury(job)
            if self._stop.is_set():
                return "interrupted", "the program was closed in the middle of it; resume it or remove it"
            if self._cancel_at is not None and time.monotonic() - self._cancel_at > CANCEL_SECONDS:
                log.warning("the worker did not stop within %g s: it is killed", CANCEL_SECONDS)
                self._end_worker()
                return "cancelled", f"the worker did not answer for {CANCEL_SECONDS:g} s and was ended"

    def _bury(self, job: Job) -> tuple[str, str]:
        """The worker vanished in the middle of ``job``."""
        process = self._process
        if process is not None:
            process.join(5)
        code = process.exitcode if process is not None else None
        self._end_worker()
        log.error("the worker process ended in the middle of %s (exit code %s)", job.title, code)
        if self._cancel_at is not None:
            return "cancelled", ""
        if code == -9:
            why = "it was killed (signal 9), perhaps because memory ran out"
        elif code is not None and code < 0:
            why = f"it crashed (signal {-code})"
        else:
            why = f"exit code {code}"
        return "interrupted", f"the worker process ended in the middle: {why}; resume the job or remove it"

    # ------------------------------------------------------------------ the process

    def _ensure_worker(self) -> None:
        with self._starting:
            if self._process is not None and self._process.is_alive():
                return
            self._end_worker()
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._questions, answers = context.Pipe()
            arguments = (theirs, answers, str(self._folder))
            self._process = context.Process(target=worker.main, args=arguments, name="flashvsr-worker", daemon=True)
            self._process.start()
            for end in (theirs, answers):
                end.close()  # ours would keep the pipe open after the worker's death

    def _end_worker(self) -> None:
        with self._starting:
            process, self._process = self._process, None
            for pipe in (self._pipe, self._questions):
                if pipe is not None:
                    pipe.close()  # the worker ends by itself when it sees this
            self._pipe = self._questions = None
            if process is None:
                return
            process.join(2)
            if process.is_alive():
                process.kill()
                process.join(10)

    def _say(self, message: tuple[str, Any]) -> None:
        """To the worker; a dead one is noticed where its answers are read."""
        if self._pipe is not None:
            with contextlib.suppress(OSError):
                self._pipe.send(message)
