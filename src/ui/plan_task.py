"""The worker's plan of a job, as rows for the page."""

from __future__ import annotations

from typing import Any

from src.config import Options
from src.plan import plan_job
from src.ui.facts import bytes_text, time_text


def plan_rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Memory, disk, and the time where a speed was measured. Raises what the job would."""
    plan = plan_job(Options(**values))
    rows = [("Computed on", f"{plan.device}, {plan.dtype}"), ("Memory", plan.memory_text)]
    if plan.seconds is not None:
        rows.append(("Time by plan", f"about {time_text(plan.seconds)} ({plan.speed_text})"))
    rows.append(("Disk", f"about {bytes_text(plan.disk_bytes)} while it runs"))
    if plan.resumes_at:
        rows.append(("Goes on", f"after frame {plan.resumes_at} of an unfinished job"))
    return rows
