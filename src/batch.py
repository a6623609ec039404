"""A folder of videos: one after the other with one loaded model; a failed one does not stop the rest."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from src.config import Options
from src.device import free_memory
from src.engine import Engine, make_engine
from src.errors import Cancelled, FlashVSRError, InputError, OutputExistsError
from src.hub import Progress as DownloadProgress
from src.jobs import Progress, Result, upscale_file
from src.video import is_picture, is_video_name
from src.video.pictures import natural_key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchItem:
    """One video of a batch: its result, or why there is none."""

    path: Path
    result: Result | None
    error: Exception | None


def videos_in(folder: Path) -> list[Path]:
    """The videos of a folder in natural order; empty if it holds pictures or nothing. InputError for a mixture."""
    try:
        files = sorted((item for item in folder.iterdir() if item.is_file()), key=natural_key)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}") from error
    files = [item for item in files if not item.name.startswith(".")]
    videos, pictures = [item for item in files if is_video_name(item)], [item for item in files if is_picture(item)]
    if videos and pictures:
        raise InputError(
            f"{folder} holds both videos ({videos[0].name}, ...) and pictures ({pictures[0].name}, ...); put the"
            " pictures of a clip into a folder of their own"
        )
    return videos


def upscale_folder(
    options: Options,
    progress: Callable[[Path, Progress], None] | None = None,
    cancel: threading.Event | None = None,
    engine: Engine | None = None,
    download: DownloadProgress | None = None,
    pause: threading.Event | None = None,
) -> list[BatchItem]:
    """Upscale every video of the folder ``options.input`` into the folder ``options.output``.

    ``progress`` is called with the video at work; the rest as for ``upscale_file``. Returns one item per video; those
    already there count as failed unless --overwrite. Raises InputError for a folder without videos, and Cancelled.
    """
    folder = options.input
    videos = videos_in(folder)
    if not videos:
        raise InputError(f"no videos in {folder}")
    if Path(options.output).suffix and not Path(options.output).is_dir() and not options.output.endswith(("/", "\\")):
        raise InputError(f"{options.output}: many videos need a folder as output")
    output = options.output if options.output.endswith(("/", "\\")) else f"{options.output}/"
    engine = engine or make_engine(options, download)
    items = []
    for number, path in enumerate(videos, 1):
        log.info("%d of %d: %s", number, len(videos), path)

        def report(state: Progress, path: Path = path) -> None:
            if progress is not None:
                progress(path, state)

        try:
            own = options.replace(input=path, output=output)
            items.append(BatchItem(path, upscale_file(own, report, cancel, engine, None, pause), None))
        except Cancelled:
            raise
        except OutputExistsError as error:
            log.info("%s", error)
            items.append(BatchItem(path, None, error))
        except Exception as error:
            known = isinstance(error, FlashVSRError)
            log.warning("%s failed: %s", path, error if known else f"{type(error).__name__}: {error}")
            log.debug("details:", exc_info=error)
            items.append(BatchItem(path, None, error))
            free_memory(engine.models.device)
    return items
