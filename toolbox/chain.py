"""Running tools: one or several in order on one file, frames flowing through without an encoding in between."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from src.errors import Cancelled, FlashVSRError, InputError
from src.video.paths import same_file
from toolbox.clip import Job, Progress, open_clip
from toolbox.export import check as check_export
from toolbox.export import choose_preset
from toolbox.parameters import Tool
from toolbox.registry import TOOLS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """A tool and its checked parameters."""

    tool: Tool
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What one run has made.

    ``path``: the file or folder, None for a report without one. ``kind``: video, animation, frames or report.
    ``duration``: seconds of the result; ``seconds``: the time it took. ``notes``: what a person should know.
    """

    path: Path | None
    kind: str
    frames: int = 0
    width: int = 0
    height: int = 0
    rate: Fraction = Fraction(0)
    bytes: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    report: dict[str, Any] | None = None
    files: tuple[Path, ...] = ()

    @property
    def duration(self) -> Fraction:
        return self.frames / self.rate if self.rate else Fraction(0)


@dataclass(frozen=True)
class BatchItem:
    """One file of a batch: its outcome, or why there is none."""

    path: Path
    outcome: Outcome | None = None
    error: FlashVSRError | None = field(default=None)


def make_steps(steps: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[Step, ...]:
    """Checked steps from (tool name, values), the values as text or in their own types.

    Without an output at the end, export with its defaults is added. Raises InputError for an unknown tool or
    parameter, a value that is wrong, and steps that contradict each other.
    """
    made: list[Step] = []
    for name, values in steps:
        if name not in TOOLS:
            raise InputError(f"there is no tool {name!r}; there are {', '.join(TOOLS)}")
        made.append(Step(TOOLS[name], TOOLS[name].parse(values)))
    if not made:
        raise InputError(f"no tool is named; there are {', '.join(TOOLS)}")
    for number, step in enumerate(made):
        if step.tool.kind == "report" and len(made) > 1:
            raise InputError(f"{step.tool.name} reports on a file and stands alone; it is no step of a chain")
        if step.tool.kind == "output" and number < len(made) - 1:
            raise InputError(f"{step.tool.name} writes the result, so {made[number + 1].tool.name} cannot follow it")
        _check_values(step)
    if made[-1].tool.kind == "filter":
        made.append(Step(TOOLS["export"], TOOLS["export"].parse({})))
    return tuple(made)


def _check_values(step: Step) -> None:
    """Parameters of one tool that contradict each other."""
    name, values = step.tool.name, step.values
    if name in ("loop", "ping-pong") and values["times"] is not None and values["duration"] is not None:
        raise InputError("--times and --duration contradict each other: give one of them")
    if name == "trim":
        start, end = values["start"], values["end"]
        if start is None and end is None:
            raise InputError("trim needs --start, --end or both")
        if end is not None and end <= (start or 0):
            raise InputError(f"--end {float(end):g} is not after --start {float(start or 0):g}")
    if name == "resize" and values["width"] is None and values["height"] is None:
        raise InputError("resize needs --width, --height or both")
    if name == "export":
        check_export(dict(values), None)


def output_for(source: Path, output: Path | str | None, steps: Sequence[Step]) -> Path | None:
    """The file or folder to write. A folder gets a file named after the input and the tools. Creates nothing."""
    last = steps[-1]
    if last.tool.kind == "report" and output is None:
        return None
    text = "outputs/" if output is None else str(output)
    target = Path(text)
    into = text.endswith(("/", "\\")) or target.is_dir()
    stem = source.resolve().name if source.is_dir() else source.stem
    words = "_".join([stem, *(step.tool.name for step in steps if step.tool.name != "export")])
    if last.tool.name == "frames":
        # A folder of pictures is what is asked for, so a plain name is that folder.
        return target / words if text.endswith(("/", "\\")) or output is None else target
    if not into and target.suffix:
        if last.tool.name == "export":
            check_export(dict(last.values), target)
        return target
    extension = ".svg" if last.tool.kind == "report" else choose_preset(last.values["preset"], None).extensions[0]
    words = words if words != stem else f"{stem}_export"
    return target / f"{words}{extension}"


def run_chain(
    source: Path | str,
    steps: Sequence[Step],
    output: Path | str | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    models_dir: Path = Path("models"),
) -> Outcome:
    """Run checked ``steps`` on one file (or folder of pictures).

    ``output``: a file, or a folder (None: "outputs"; a report then writes nothing). ``cancel``: when set, Cancelled
    is raised within about a frame and nothing is left behind. Raises the errors of src.errors.
    """
    source, began = Path(source), time.monotonic()
    target = output_for(source, output, steps)
    if target is not None:
        paths = [source, *(path for step in steps for path in _paths(step))]
        if any(same_file(target, path) for path in paths):
            raise InputError(f"{target} is one of the inputs; choose another output")
    job = Job(target, overwrite, progress, cancel, models_dir)
    try:
        job.check()
        if steps[0].tool.kind == "report":
            report = steps[0].tool.function(job, source, **steps[0].values)
            path = target if target is not None and target.exists() else None
            seconds = time.monotonic() - began
            return Outcome(path, "report", seconds=seconds, report=report, files=(path,) if path else ())
        clip = open_clip(source)
        for step in steps:
            clip = step.tool.function(job, clip, **step.values)
        if target is None:
            raise ValueError("a chain ends in an output")
        files: tuple[Path, ...] = tuple(sorted(target.iterdir())) if target.is_dir() else (target,)
        kind = "frames" if target.is_dir() else "animation" if target.suffix in (".gif", ".webp") else "video"
        size = sum(file.stat().st_size for file in files)
        seconds = time.monotonic() - began
        notes = tuple(job.notes)
        return Outcome(target, kind, clip.count, clip.width, clip.height, clip.rate, size, seconds, notes, None, files)
    finally:
        job.close()


def _paths(step: Step) -> list[Path]:
    """Files that a step reads besides the input."""
    found: list[Path] = []
    for parameter in step.tool.parameters:
        value = step.values[parameter.name]
        if parameter.kind == "path" and value is not None:
            found.append(value)
        elif parameter.kind == "paths":
            found += value or ()
    return found


def run_batch(
    sources: Iterable[Path | str], steps: Sequence[Step], output: Path | str | None = None, **keywords: Any
) -> list[BatchItem]:
    """``run_chain`` on many files; a failure does not stop the rest, but Cancelled does. ``output``: a folder."""
    items: list[BatchItem] = []
    paths = [Path(source) for source in sources]
    folder = f"{output or 'outputs'}".rstrip("/") + "/"
    for path in paths:
        try:
            items.append(BatchItem(path, run_chain(path, steps, folder, **keywords)))
        except Cancelled:
            raise
        except FlashVSRError as error:
            log.error("%s: %s", path, error)
            items.append(BatchItem(path, error=error))
    return items
