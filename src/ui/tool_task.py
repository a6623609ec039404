"""The worker's side of the toolbox: a chain of tools as a job."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import toolbox
from src.ui import frames
from src.ui.context import Context
from src.ui.proxies import browser_copy
from src.video import open_source
from toolbox.analyse import rows


def run_tools(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """``params``: input, steps (name and values), target (None for a report), models_dir."""
    source = Path(params["input"])
    with open_source(source) as opened:
        frames.write_whole(context.folder / "thumb.jpg", frames.jpeg(next(iter(opened)), frames.THUMBNAIL_SIZE))
    steps = toolbox.make_steps([(name, values) for name, values in params["steps"]])

    def show(progress: toolbox.Progress) -> None:
        context.wait_while_paused()
        unit = {"frames": progress.done, "expected": progress.total, "unit": progress.unit}
        context.report(message=progress.stage, **unit)

    outcome = toolbox.run_chain(
        source,
        steps,
        params["target"],
        progress=show,
        cancel=context.cancel,
        models_dir=Path(params["models_dir"]),
    )
    facts: dict[str, Any] = {
        "tool_kind": outcome.kind,
        "frames": outcome.frames,
        "width": outcome.width,
        "height": outcome.height,
        "seconds": outcome.seconds,
        "bytes": outcome.bytes,
        "notes": list(outcome.notes),
    }
    if outcome.report is not None:
        facts["rows"] = _table(steps[0].tool.name, outcome.report)
    if outcome.kind == "frames" and outcome.path is not None:
        # One file to save; the folder itself stays in the output folder.
        facts["path"] = shutil.make_archive(str(context.folder / outcome.path.name), "zip", outcome.path)
    elif outcome.path is not None:
        facts["path"] = str(outcome.path)
    if outcome.kind == "video" and outcome.path is not None:
        facts["after"] = str(browser_copy(outcome.path, context))
    return facts


def _table(tool: str, report: dict[str, Any]) -> list[tuple[str, str]]:
    if tool == "analyse":
        return rows(report)
    table = []
    for measure, figures in report.get("summary", report).items():
        entries = figures.items() if isinstance(figures, dict) else [("", figures)]
        for name, value in entries:
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            table.append((f"{measure.upper()} {name}".strip(), text))
    return table
