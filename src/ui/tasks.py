"""What the worker can do: upscale, export a comparison, download a release."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from src.config import Options
from src.engine import Engine, make_engine
from src.errors import Cancelled, FlashVSRError
from src.hub import fetch
from src.jobs import upscale_file
from src.releases import get_release
from src.reports import Progress
from src.ui import frames
from src.ui.context import Context
from src.ui.proxies import make_export, make_proxies
from src.ui.tool_task import run_tools

log = logging.getLogger(__name__)


def upscale(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """``params["options"]``: values of Options. Gives the facts of the result and the files to compare."""
    options = Options(**params["options"])
    frames.save_thumbnail(options, context.folder)
    context.report(message="loading the model")
    engine = _engine(options, context)
    context.check()
    context.report(message="reading the first frames", model=engine.release.name)
    watch = _Watch(options, context)
    result = upscale_file(
        options, progress=watch.progress, cancel=context.cancel, engine=engine, preview=watch.preview.offer
    )
    watch.preview.finish()
    context.report(message="preparing the comparison")
    facts = dataclasses.asdict(result) | {
        "path": str(result.path),
        "bytes": _size(result.path),
        "mode": options.mode,
        "device": str(engine.models.device),
    }
    try:
        facts |= make_proxies(options, result.path, context)
    except Cancelled:
        log.info("the comparison was left out: stopped by the user")
    except FlashVSRError as error:
        # The result is complete; only looking at it beside its input is not possible.
        log.warning("no comparison for %s: %s", result.path, error)
    return facts


def export(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """``params``: before, after, target. The two side by side in one file."""
    facts = make_export(Path(params["before"]), Path(params["after"]), Path(params["target"]), context)
    frames.save_thumbnail(Options(input=facts["path"]), context.folder)
    return facts


def download(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """``params``: release, mode, models_dir."""
    release = get_release(params["release"])
    paths = fetch(release, params["mode"], Path(params["models_dir"]), _download_progress(context))
    return {"files": [str(path) for path in paths.values()]}


TASKS: dict[str, Callable[[dict[str, Any], Context], dict[str, Any]]] = {
    "upscale": upscale,
    "export": export,
    "download": download,
    "tool": run_tools,
}


class _Watch:
    """Turns the engine's progress into what a page shows; waits while paused."""

    def __init__(self, options: Options, context: Context) -> None:
        self._context = context
        self.preview = frames.Preview(options, context.folder, context.report)
        self._began: float | None = None
        self._first = 0
        self._waited = 0.0

    def progress(self, progress: Progress) -> None:
        now = time.perf_counter()
        if self._began is None:  # the speed counts from the first piece: before it, the pipeline fills
            self._began, self._first = now, progress.frames
        spent = now - self._began - self._waited
        rate = left = None  # unknown until the second piece
        if spent > 0 and progress.frames > self._first:
            rate = (progress.frames - self._first) / spent
            left = max(0, progress.expected - progress.frames) / rate if progress.expected else None
        self._context.report(
            frames=progress.frames,
            expected=progress.expected,
            fps=rate,
            eta=left,
            message=progress.message,
            paused=False,
        )
        self._context.wait_while_paused()
        self._waited += time.perf_counter() - now


def _engine(options: Options, context: Context) -> Engine:
    """The engine of the last job if it was made with the same model and computation, otherwise a new one."""
    job_only = {"scale", "resolution"}
    key = tuple(
        (item.name, str(getattr(options, item.name)))
        for item in dataclasses.fields(options)
        if item.metadata["group"] in ("model", "compute") and item.name not in job_only
    )
    if context.cache.get("key") != key:
        context.cache.clear()  # the old models go before the new ones come
        context.cache["engine"] = make_engine(options, _download_progress(context))
        context.cache["key"] = key
    engine: Engine = context.cache["engine"]
    return engine


def _download_progress(context: Context) -> Callable[[str, str, int, int], None]:
    """At most five reports a second, however many blocks come in."""
    last = [0.0]

    def show(part: str, name: str, done: int, total: int) -> None:
        context.check()
        now = time.monotonic()
        if now - last[0] >= 0.2 or done >= total:
            last[0] = now
            context.report(message=f"downloading {name}", bytes=done, bytes_expected=total)

    return show


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(item.stat().st_size for item in path.iterdir())
    return path.stat().st_size
