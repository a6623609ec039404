"""Everything behind the page: settings, queue, worker, files. Knows nothing of Gradio."""

from __future__ import annotations

import glob
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from src.config import Options
from src.errors import InputError
from src.journal import discard
from src.ui.monitor import Monitor
from src.ui.security import inside, safe_name
from src.ui.settings import SettingsFile
from src.ui.store import ACTIVE, Job, Store, new_id
from src.ui.supervisor import Supervisor
from src.video import is_picture, kind_of_video, output_path

log = logging.getLogger(__name__)

VIDEO_FILES = frozenset(
    {".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv", ".ogv", ".3gp"}
    | {".mts", ".vob", ".mxf", ".gif"}
)
_OWN_FILES = {
    "thumb": "thumb.jpg",
    "preview_in": "preview_in.jpg",
    "preview_out": "preview_out.jpg",
}


class Service:
    """The state of one running page. ``local``: it serves this computer only, without a login."""

    def __init__(self, data: Path, *, local: bool = True, fixed: dict[str, str] | None = None) -> None:
        """``data``: folder for the queue, uploads and previews. ``fixed``: settings that hold whatever is saved.

        Starts nothing; see ``start``.
        """
        self.data, self.local = data.absolute(), local
        self.jobs_folder = self.data / "jobs"
        self.uploads = self.data / "uploads"
        for folder in (self.jobs_folder, self.uploads):
            folder.mkdir(parents=True, exist_ok=True)
        self.settings = SettingsFile(self.data / "settings.json", fixed)
        self.store = Store(self.data / "queue.sqlite")
        self.supervisor = Supervisor(self.store, self.jobs_folder, self._ended)
        self.monitor = Monitor()
        self.on_models: Callable[[], None] = lambda: None  # called when a model was downloaded
        self.sent_to_toolbox: dict[str, str] = {}  # by user, until the tab is opened
        self._clean_up()

    def start(self) -> None:
        for job in self.store.all():
            if job.status == "interrupted":
                self._lost(job)
        self.supervisor.start()

    def close(self) -> None:
        self.supervisor.close()
        self.store.close()

    # ------------------------------------------------------------------ new jobs

    def outputs(self, owner: str) -> Path:
        """Where a user's results go: a folder of his own where there are several users."""
        folder = self.settings.current.outputs
        return folder / safe_name(owner) if owner else folder

    def submit(
        self, files: Iterable[Path], values: dict[str, Any], media: str, owner: str = "", *, batch: bool = False
    ) -> list[Job]:
        """Queue one job per file with the same option ``values``.

        Raises InputError for bad options before anything is queued. A file that cannot be read fails when its
        turn comes, so that the others are not held up.
        """
        files = list(files)
        if not files:
            raise InputError("there is no file to work on: drop one first")
        settings = self.settings.current
        values = {key: value for key, value in values.items() if value is not None}
        values |= {"models_dir": str(settings.models)}
        Options(**values, input=files[0])  # checked once for all
        group = new_id() if batch else ""
        return [self._submit_one(file, values, media, owner, group) for file in files]

    def _submit_one(self, file: Path, values: dict[str, Any], media: str, owner: str, batch: str) -> Job:
        job_id = new_id()
        source = self.adopt(file, job_id)
        options = Options(**values, input=source)
        kind = "picture" if is_picture(source) else kind_of_video(options.codec)
        wanted = output_path(source, f"{self.outputs(owner)}/", kind=kind, suffix=_suffix(options))
        target = self.free_name(wanted)
        params = {"options": {**_plain(values), "input": str(source), "output": str(target)}}
        job = Job("upscale", source.name, params, media=media, owner=owner, batch=batch, id=job_id)
        job = self.store.add(job)
        self.supervisor.wake()
        return job

    def submit_other(self, kind: str, title: str, params: dict[str, Any], owner: str = "", media: str = "") -> Job:
        """Queue a job that is no upscaling."""
        job = self.store.add(Job(kind, title, params, owner=owner, media=media))
        self.supervisor.wake()
        return job

    def again(self, job: Job) -> Job:
        """A new job with the same input and options."""
        if job.kind != "upscale":
            return self.submit_other(job.kind, job.title, job.params, job.owner, job.media)
        values = dict(job.params["options"])
        source = Path(values.pop("input"))
        values.pop("output")
        if not source.exists():
            raise InputError(f"{source.name} is not there any more")
        return self.submit([source], values, job.media, job.owner)[0]

    def export(self, job: Job) -> Job:
        """Queue the side-by-side comparison of a finished job."""
        done = job.result
        if not done.get("before"):
            raise InputError(f"{job.title} has no comparison to export")
        result = Path(done["path"])
        suffix = ".png" if is_picture(result) else ".mp4"
        target = self.free_name(self.outputs(job.owner) / f"{result.stem}_compare{suffix}")
        params = {"before": done["before"], "after": done["path"], "target": str(target)}
        return self.submit_other("export", f"Comparison of {job.title}", params, job.owner, job.media)

    def adopt(self, file: Path, job_id: str) -> Path:
        """An upload gets a safe name in the job's own folder; a file of this computer stays where it is."""
        if not inside(file, [self.uploads, self.jobs_folder]):
            return file
        target = self.jobs_folder / job_id / safe_name(file.name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, target)  # no second copy of a large clip
            except OSError:
                shutil.copyfile(file, target)
        except OSError as error:
            shutil.rmtree(target.parent, ignore_errors=True)
            raise InputError(f"{file.name} cannot be stored in {self.data}: {error.strerror or error}") from error
        return target

    def free_name(self, wanted: Path) -> Path:
        """``wanted``, numbered until neither a file nor a waiting job has the name."""
        taken = {_target(job) for job in self.store.all() if job.status in (*ACTIVE, "interrupted")}
        path, number = wanted, 1
        while path.exists() or str(path) in taken:
            number += 1
            path = wanted.with_name(f"{wanted.stem}_{number}{wanted.suffix}")
        return path

    def plan(self, values: dict[str, Any], file: Path, owner: str = "") -> list[tuple[str, str]]:
        """Memory, disk and time of a job by the worker's plan; nothing while a job runs. Raises what the job would."""
        fixed = {
            "input": str(file),
            "output": f"{self.outputs(owner)}/",
            "models_dir": str(self.settings.current.models),
        }
        rows = self.supervisor.ask({**_plain(values), **fixed})
        return [(name, text) for name, text in rows]

    # ------------------------------------------------------------------ jobs that are there

    def job(self, job_id: str, owner: str = "") -> Job | None:
        """The job, if it is this user's."""
        job = self.store.get(job_id)
        return job if job is not None and (self.local or job.owner == owner) else None

    def act(self, job: Job, action: str) -> Job | None:
        """What a button of the queue does. The new job, if it made one. InputError if it makes no sense now."""
        if action == "cancel":
            self.supervisor.cancel(job)
        elif action in ("pause", "resume") and job.status == "running":
            self.supervisor.pause(job, action == "pause")
        elif action == "resume" and job.status in ("interrupted", "cancelled", "failed"):
            self.store.update(job.id, status="queued", error="", finished=None)
            self.supervisor.wake()
        elif action == "first":
            self.store.move_first(job.id)
        elif action == "remove":
            self.remove(job)
        elif action == "again":
            return self.again(job)
        elif action == "export":
            return self.export(job)
        elif action == "toolbox":
            self.sent_to_toolbox[job.owner if not self.local else ""] = f"{job.id}/path"
        elif action == "open" and self.local:
            open_folder(Path(_target(job)))
        else:
            raise InputError(f"{action} is not possible while the job is {job.status}")
        return None

    def remove(self, job: Job) -> None:
        """Forget a job that does not run, and everything but its result."""
        if job.status == "running":
            raise InputError("the job is running: cancel it first")
        if job.kind == "upscale" and job.status != "done":
            discard(Path(_target(job)))  # the finished segments of a job that nobody will resume
        self.store.remove(job.id)
        # "Run again" links the upload into a folder of its own, so this one is nobody else's.
        shutil.rmtree(self.jobs_folder / job.id, ignore_errors=True)

    def media(self, job: Job, name: str) -> Path | None:
        """A file of a job that the page may fetch; None if there is none or it lies outside our folders."""
        if name in _OWN_FILES:
            path = self.jobs_folder / job.id / _OWN_FILES[name]
        elif name in ("before", "after", "path"):
            path = Path(job.result.get(name) or "")
        else:
            return None
        allowed = [self.jobs_folder / job.id, self.outputs(job.owner)]
        if not path.is_file():
            return None
        if not inside(path, allowed):
            log.warning("%s was asked for, which is outside of the output and upload folders: refused", path)
            raise PermissionError(str(path))
        return path

    def _ended(self, job: Job, status: str) -> None:
        if status == "interrupted":
            self._lost(job)
        if job.kind == "download" and status == "done":
            self.on_models()

    def _lost(self, job: Job) -> None:
        """Half-written files of a worker that was killed: nobody else removes them."""
        target = Path(_target(job))
        if _target(job) and target.parent.is_dir():
            for path in target.parent.glob(f".{glob.escape(target.stem[:40])}.partial-*"):
                path.unlink(missing_ok=True)

    def _clean_up(self) -> None:
        """Folders of jobs that nobody knows any more."""
        known = {job.id for job in self.store.all(limit=1_000_000)}
        for folder in self.jobs_folder.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)


def folder_files(folder: Path, media: str) -> list[Path]:
    """The videos or the pictures of a folder, sorted by name. InputError where there are none."""
    try:
        found = sorted(item for item in folder.expanduser().iterdir() if item.is_file())
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}") from error
    wanted = is_picture if media == "image" else lambda path: path.suffix.lower() in VIDEO_FILES
    files = [item for item in found if wanted(item) and not item.name.startswith(".")]
    if not files:
        raise InputError(f"there are no {'pictures' if media == 'image' else 'videos'} in {folder}")
    return files


def open_folder(path: Path) -> None:
    """Show the folder of ``path`` in the file manager of this computer."""
    import subprocess
    import sys

    folder = str(path.parent)
    if not path.parent.is_dir():
        raise InputError(f"{folder} is not there any more")
    try:
        if sys.platform == "win32":
            os.startfile(folder)
        else:
            program = "open" if sys.platform == "darwin" else "xdg-open"
            subprocess.Popen([program, folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError as error:
        raise InputError(f"no file manager could be started ({error}); the folder is {folder}") from error


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values as JSON holds them."""
    return {key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in values.items()}


def _suffix(options: Options) -> str:
    return f"_{options.resolution}" if options.resolution else f"_{float(options.scale):g}x"


def _target(job: Job) -> str:
    """The file that a job writes or wrote, "" if none."""
    target = job.params.get("target") or job.params.get("options", {}).get("output") or ""
    return str(job.result.get("path") or target)
