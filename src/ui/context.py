"""What a task of the worker has at hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import Cancelled


@dataclass
class Context:
    """One job, seen from the task that does it.

    ``folder``: the job's own, for previews and proxies. ``report``: tells the server anything about the progress.
    ``cancel``, ``pause``: set by the server. ``cache``: stays from job to job (a loaded engine).
    """

    folder: Path
    report: Callable[..., None]
    cancel: threading.Event
    pause: threading.Event
    cache: dict[str, Any]

    def wait_while_paused(self) -> None:
        """Hold the job between two chunks. A cancelled job goes on, to be stopped."""
        if not self.pause.is_set():
            return
        self.report(paused=True, message="paused")
        while self.pause.is_set() and not self.cancel.is_set():
            time.sleep(0.05)
        self.report(paused=False, message="")

    def check(self) -> None:
        """Raises Cancelled if the job shall stop."""
        if self.cancel.is_set():
            raise Cancelled("stopped")
