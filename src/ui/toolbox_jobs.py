"""Toolbox jobs: from the page into the queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from src.ui.service import Service
from src.ui.store import Job, new_id
from toolbox import TOOLS, make_steps
from toolbox.chain import output_for


def known_files(service: Service, owner: str) -> list[tuple[str, str, Path]]:
    """(title, value, path) of the results of a user's jobs and their inputs, newest first."""
    found = []
    for job in service.store.all(None if service.local else owner):
        result, source = job.result.get("path"), job.params.get("options", {}).get("input")
        if result and Path(result).is_file():
            found.append((f"{Path(result).name} (result)", f"{job.id}/path", Path(result)))
        if source and Path(source).is_file() and job.status == "done":
            found.append((f"{job.title} (input)", f"{job.id}/input", Path(source)))
    return found


def submit_tools(service: Service, source: Path, named: list[tuple[str, dict[str, Any]]], owner: str) -> Job:
    """Check the chain and queue it. Raises InputError as the toolbox does."""
    job_id = new_id()
    make_steps(named)  # before any file is copied
    kept = service.adopt(source, job_id)
    values = [(name, _adopted(service, name, settings, job_id)) for name, settings in named]
    steps = make_steps(values)
    target = None
    if steps[-1].tool.kind != "report":
        wanted = output_for(kept, f"{service.outputs(owner)}/", steps)
        target = str(service.free_name(wanted)) if wanted else None
    titles = " + ".join(TOOLS[name].title.lower() for name, _ in named)
    params = {
        "input": str(kept),
        "steps": values,
        "target": target,
        "models_dir": str(service.settings.current.models),
    }
    job = service.store.add(Job("tool", f"{kept.name}: {titles}", params, media="toolbox", owner=owner, id=job_id))
    service.supervisor.wake()
    return job


def _adopted(service: Service, name: str, settings: dict[str, Any], job_id: str) -> dict[str, Any]:
    """The same settings; files among them are kept with the job."""
    kinds = {item.name: item.kind for item in TOOLS[name].parameters}
    kept = {}
    for key, value in settings.items():
        if value and kinds[key] == "path":
            value = str(service.adopt(Path(value), job_id))
        elif value and kinds[key] == "paths":
            value = [str(service.adopt(Path(file), job_id)) for file in value]
        kept[key] = value
    return kept
