"""FFmpeg as a filter in the middle: frames in, frames out, neither encoded; and runs from file to file."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

from src.errors import Cancelled, FlashVSRError, VideoError
from src.video import ffmpeg

log = logging.getLogger(__name__)


def filter_frames(
    frames: Iterator[np.ndarray],
    width: int,
    height: int,
    rate: Fraction,
    graph: str,
    out_width: int,
    out_height: int,
    *,
    deep: bool = False,
) -> Iterator[np.ndarray]:
    """``frames`` (height, width, 3) RGB through an FFmpeg filter graph with one input and one output.

    ``deep``: uint16 frames (0..65535) instead of uint8. ``graph`` gets rgb24 or rgb48le; what comes out is
    brought back to it at ``out_width`` x ``out_height``. The number of frames is the graph's own affair.
    Memory: a few frames. Raises VideoError, and whatever ``frames`` raises.
    """
    pix_fmt = "rgb48le" if deep else "rgb24"
    args = ["-loglevel", "warning", "-f", "rawvideo", "-pix_fmt", pix_fmt, "-s", f"{width}x{height}"]
    args += ["-framerate", str(rate), "-i", "pipe:0", "-vf", f"{graph},format={pix_fmt}", "-sws_dither", "none"]
    args += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", pix_fmt, "pipe:1"]
    process = ffmpeg.Process(args, feed=True, both=True)
    feeder = _Feeder(process, frames, np.dtype("<u2") if deep else np.dtype(np.uint8))
    feeder.start()
    size = out_width * out_height * 3 * (2 if deep else 1)
    try:
        while len(data := _read(process, size)) == size:
            frame = np.frombuffer(data, "<u2" if deep else np.uint8)
            yield frame.reshape(out_height, out_width, 3)
        feeder.join()
        if feeder.error is not None:
            raise feeder.error
        if process.wait() or data:
            raise VideoError(f"FFmpeg's filter {graph.split('=')[0]} failed: {process.why()}")
    finally:
        process.kill()
        feeder.join()
        process.stop()


def _read(process: ffmpeg.Process, size: int) -> bytearray:
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        try:
            got = process.stdout.readinto(view[done:])  # type: ignore[attr-defined]
        except (OSError, ValueError) as error:
            raise VideoError(f"reading from FFmpeg failed ({error}): {process.why()}") from error
        if not got:
            view.release()
            del data[done:]
            break
        done += got
    return data


class _Feeder(threading.Thread):
    """Writes frames into the process. Feeding and reading in one thread would wait for each other."""

    def __init__(self, process: ffmpeg.Process, frames: Iterator[np.ndarray], dtype: np.dtype) -> None:
        super().__init__(name="ffmpeg-feeder", daemon=True)
        self._process, self._frames, self._dtype = process, frames, dtype
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for frame in self._frames:
                view = np.ascontiguousarray(frame, self._dtype).reshape(-1).view(np.uint8).data
                while view:
                    view = view[self._process.stdin.write(view) :]
        except (OSError, ValueError) as error:  # the process is gone; why, the reader finds out
            log.debug("feeding FFmpeg ended early: %s", error)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that reads
            self.error = error
        finally:
            if hasattr(self._frames, "close"):
                self._frames.close()
            try:
                self._process.stdin.close()
            except (OSError, FlashVSRError) as error:
                log.debug("feeding FFmpeg: pipe closed (%s)", error)


def run_job(
    args: list[str],
    what: str,
    progress: Callable[[int], None] | None = None,
    cancel: threading.Event | None = None,
) -> None:
    """Run FFmpeg from file to file.

    ``progress``: called with the number of video frames written so far. Raises VideoError ``what`` with
    FFmpeg's reason, and Cancelled when ``cancel`` is set meanwhile.
    """
    process = ffmpeg.Process(["-loglevel", "warning", "-progress", "pipe:1", "-stats_period", "0.2", *args], feed=False)
    stopped = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process, cancel, stopped), daemon=True)
    watcher.start()
    rest = b""
    try:
        while chunk := process.stdout.read(4096):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if progress is not None and line.startswith(b"frame="):
                    progress(int(line[6:]))
        status = process.wait()
    except (OSError, ValueError) as error:
        raise VideoError(f"{what}: {error}") from error
    finally:
        stopped.set()
        watcher.join()
        process.stop()
    if cancel is not None and cancel.is_set():
        raise Cancelled(f"{what}: cancelled")
    if status:
        raise VideoError(f"{what}: {process.why()}")


def _watch(process: ffmpeg.Process, cancel: threading.Event | None, stopped: threading.Event) -> None:
    """Kill the process as soon as the caller wants to stop: it may not say anything for minutes."""
    while not stopped.wait(0.1):
        if cancel is not None and cancel.is_set():
            process.kill()
            return


def filter_value(value: str) -> str:
    """``value`` as one option of a filter inside a graph: escaped for both levels of FFmpeg's syntax."""
    inner = "".join("\\" + c if c in "\\':" else c for c in value)
    return "".join("\\" + c if c in "\\'[],;" else c for c in inner)
