"""The worker process: loads models, runs one job after the other, reports. Nothing of the page is imported here."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from src.errors import Cancelled, FlashVSRError
from src.ui.context import Context

log = logging.getLogger(__name__)

GRACE_SECONDS = 20.0  # how long a job may still take after the server has gone


@dataclass
class Link:
    """The two ends of the conversation with the server."""

    pipe: Connection
    inbox: queue.Queue[dict[str, Any] | None] = field(default_factory=queue.Queue)
    cancel: threading.Event = field(default_factory=threading.Event)
    pause: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    job: str = ""

    def listen(self) -> None:
        """Until the server closes the pipe, or is gone."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                word, payload = self.pipe.recv()
                if word == "run":
                    # Cleared here, not when the job starts: a cancel that follows at once must count.
                    self.cancel.clear()
                    self.pause.clear()
                    self.job = payload["id"]
                    self.inbox.put(payload)
                elif payload == self.job:
                    {"cancel": self.cancel.set, "pause": self.pause.set, "resume": self.pause.clear}[word]()
        self.cancel.set()
        self.inbox.put(None)
        # A job that hangs in a driver must not outlive the server.
        timer = threading.Timer(GRACE_SECONDS, os._exit, (1,))
        timer.daemon = True
        timer.start()

    def say(self, word: str, payload: Any) -> None:
        with self.lock, contextlib.suppress(OSError):  # a server that is gone is noticed by listen()
            self.pipe.send((word, payload))


def main(pipe: Connection, questions: Connection, jobs_folder: str) -> None:
    """Run jobs from ``pipe`` until it closes. ``questions``: options of jobs whose plan is asked for."""
    _be_quiet_about_ctrl_c()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="worker: %(message)s")
    link = Link(pipe)
    threading.Thread(target=link.listen, name="listener", daemon=True).start()
    threading.Thread(target=_answer, args=(questions,), name="planner", daemon=True).start()
    cache: dict[str, Any] = {}
    while (job := link.inbox.get()) is not None:
        link.say(*_run(job, link, Path(jobs_folder), cache))


def _answer(questions: Connection) -> None:
    """Plans of jobs, as rows for the page."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            values = questions.recv()
            try:
                from src.ui.plan_task import plan_rows  # torch comes with it, while the person still chooses

                answer: tuple[str, Any] = ("rows", plan_rows(values))
            except FlashVSRError as error:
                answer = ("error", str(error))
            except Exception as error:
                log.exception("no plan for %s", values)
                answer = ("error", f"no plan could be made: {error}")
            questions.send(answer)


def _run(job: dict[str, Any], link: Link, jobs_folder: Path, cache: dict[str, Any]) -> tuple[str, Any]:
    """One job: its status and its result or error."""
    from src.ui import tasks  # torch comes with the first job that needs it

    def report(**changes: Any) -> None:
        link.say("progress", changes)

    folder = jobs_folder / job["id"]
    context = Context(folder, report, link.cancel, link.pause, cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return "done", tasks.TASKS[job["kind"]](job["params"], context)
    except Cancelled as error:
        _let_go(cache)
        return "cancelled", str(error)
    except FlashVSRError as error:
        _let_go(cache)
        return "failed", str(error)
    except Exception as error:
        log.exception("job %s failed", job["id"])
        _let_go(cache)
        first = (str(error).strip().splitlines() or [""])[0]
        return "failed", f"{type(error).__name__}: {first} (this is a bug; the terminal shows where)"


def _let_go(cache: dict[str, Any]) -> None:
    """Free the models and the device's memory."""
    cache.clear()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _be_quiet_about_ctrl_c() -> None:
    """Ctrl-C reaches the whole terminal group; the server ends the worker in order."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
