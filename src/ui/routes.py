"""The few addresses that the script of the page uses: state of the jobs, actions, media, static files."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from src.errors import FlashVSRError
from src.ui.security import HEADER, user_of
from src.ui.service import Service
from src.ui.store import Job

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
_STATIC_FILES = frozenset({"app.js", "compare.js", "jobs.js", "app.css"})
_HIDDEN_OPTIONS = frozenset({"input", "output", "models_dir"})


def make_routes(service: Service) -> list[Route]:
    """The routes, bound to ``service``. Login and foreign sites are the guard's business, see ``security``."""

    def owner_of(request: Request) -> str:
        return "" if service.local else user_of(request.headers)[0]

    async def state(request: Request) -> Response:
        """Jobs (only when they changed since ``?since=VERSION``), progress of the running one, load of the machine."""
        return JSONResponse(await asyncio.to_thread(_state, service, owner_of(request), request.query_params))

    async def action(request: Request) -> Response:
        if request.headers.get(HEADER) != "1":
            return JSONResponse({"error": "refused"}, 403)
        job = service.job(request.path_params["job"], owner_of(request))
        if job is None:
            return JSONResponse({"error": "this job is not there any more"}, 404)
        try:
            made = await asyncio.to_thread(service.act, job, request.path_params["action"])
        except FlashVSRError as error:
            return JSONResponse({"error": str(error)}, 409)
        return JSONResponse({"ok": True, "job": made.id if made else None})

    async def media(request: Request) -> Response:
        """A file of a job, with ranges so that a video can be sought; ``?download`` names it as a file to save."""
        job = service.job(request.path_params["job"], owner_of(request))
        if job is None:
            return JSONResponse({"error": "no such job"}, 404)
        try:
            path = service.media(job, request.path_params["name"])
        except PermissionError:
            return JSONResponse({"error": "this file is outside of the output and upload folders"}, 403)
        if path is None:
            return JSONResponse({"error": "no such file"}, 404)
        disposition = "attachment" if "download" in request.query_params else "inline"
        headers = {"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}
        return FileResponse(path, filename=path.name, content_disposition_type=disposition, headers=headers)

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC_FILES:
            return JSONResponse({"error": "no such file"}, 404)
        kind = "text/javascript" if name.endswith(".js") else "text/css"
        return FileResponse(STATIC / name, media_type=kind, headers={"Cache-Control": "no-cache"})

    return [
        Route("/app/state", state),
        Route("/app/jobs/{job}/{action}", action, methods=["POST"]),
        Route("/app/media/{job}/{name}", media),
        Route("/app/static/{name}", static),
    ]


def _state(service: Service, owner: str, query: Any) -> dict[str, Any]:
    version = service.store.version
    answer: dict[str, Any] = {"version": str(version), "monitor": service.monitor.read(), "local": service.local}
    answer["theme"] = service.settings.current.theme
    jobs = service.store.all(None if service.local else owner)
    if query.get("since") != answer["version"]:
        answer["jobs"] = [_shown(service, job) for job in jobs]
    progress = service.supervisor.progress()
    if progress and any(job.id == progress.get("job") for job in jobs):
        answer["progress"] = progress
    return answer


def _shown(service: Service, job: Job) -> dict[str, Any]:
    """What the page needs of a job; folders of the server stay here."""
    result = {key: value for key, value in job.result.items() if key not in ("before", "after", "path")}
    if job.result.get("path"):
        result["name"] = Path(job.result["path"]).name
        result["compare"] = bool(job.result.get("before"))
        result["playable"] = bool(job.result.get("after"))
    options = {k: v for k, v in job.params.get("options", {}).items() if k not in _HIDDEN_OPTIONS}
    return {
        "id": job.id,
        "kind": job.kind,
        "media": job.media,
        "title": job.title,
        "batch": job.batch,
        "status": job.status,
        "error": job.error,
        "created": job.created,
        "seconds": (job.finished - job.started) if job.finished and job.started else None,
        "options": options,
        "result": result,
        "thumb": (service.jobs_folder / job.id / "thumb.jpg").is_file(),
    }
