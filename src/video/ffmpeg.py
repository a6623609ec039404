"""Running the bundled FFmpeg: where it is, how paths are handed to it, how it is started and stopped."""

from __future__ import annotations

import collections
import functools
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from src.errors import VideoError

log = logging.getLogger(__name__)

_TAIL_LINES = 40
_NICENESS = 19
# Lines that say that FFmpeg failed but never why, and chatter of the encoders.
_USELESS = re.compile(
    r"^(conversion failed!|error opening (input|output) files?:?.*|exiting normally.*|nothing was written.*"
    r"|svt\[info\].*|x26[45] \[info\].*|\s*last message repeated.*|.*terminating thread with return code.*"
    r"|.*task finished with error code.*)$",
    re.IGNORECASE,
)


@functools.cache
def exe() -> str:
    """Path of the FFmpeg binary. VideoError if there is none for this machine."""
    import imageio_ffmpeg  # here, so that importing this module stays instant

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise VideoError(f"no FFmpeg found ({_one_line(str(error))}); reinstall imageio-ffmpeg") from error


def url(path: Path) -> str:
    """``path`` as FFmpeg takes it literally, whatever its name contains.

    The absolute path keeps a leading dash from being an option, ``file:`` keeps a colon from being
    a protocol. FFmpeg expands ``%`` only in the names of picture sequences, which it never gets.
    """
    return "file:" + os.path.abspath(path)  # noqa: PTH100 - resolve() would follow links


# One decoder of FFmpeg serves these. With frame threads it now and then delivers pictures of other moments: 12 of
# 200 runs over a clip of 30 frames on a busy machine, none of 200 with one thread (FFmpeg 9.0.2).
_ONE_THREAD = frozenset({"theora", "vp3", "vp4"})
# FFmpeg's own decoders of these skip the transparency of WebM files.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def input_args(path: Path, codec: str = "", alpha: bool = False) -> list[str]:
    """Arguments that open ``path``. Playlists may name files, never network addresses.

    ``codec``: of the video stream when its frames are decoded; some are only right on one thread. ``alpha``: its
    transparency is wanted.
    """
    args = ["-threads:v", "1"] if codec in _ONE_THREAD else []
    if alpha and codec in ALPHA_DECODERS:
        args += ["-c:v", ALPHA_DECODERS[codec]]
    return [*args, "-protocol_whitelist", "file,crypto,data", "-i", url(path)]


def _popen_options() -> dict[str, Any]:
    # Ctrl-C goes to every process of the terminal's foreground group. FFmpeg must not see it: it would
    # finish a half-written file on its own and print over the message of the real program.
    if sys.platform == "win32":
        below_normal = subprocess.BELOW_NORMAL_PRIORITY_CLASS  # see _lower_priority
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW | below_normal}
    if sys.version_info >= (3, 11):
        # A group rather than a session: Linux shares the processor between sessions whatever their priorities.
        return {"process_group": 0}
    return {"start_new_session": True}


def _lower_priority(pid: int) -> None:
    """Let the model have the processor first: its threads wait for one another, so one that is held up by the
    encoder holds up all. FFmpeg still gets what it needs, for the model waits for it when its queue is full.
    """
    if os.name != "posix":  # on Windows it is a flag of the start
        return
    try:
        os.setpriority(os.PRIO_PROCESS, pid, _NICENESS)
    except OSError as error:
        log.debug("FFmpeg keeps its priority (%s)", error)


def command(args: Sequence[str]) -> list[str]:
    """The full command line for ``args``."""
    return [exe(), "-hide_banner", "-nostdin", "-nostats", *args]


def run(args: Sequence[str], timeout: float, *, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run FFmpeg to its end and return the process, whatever its exit status.

    ``timeout``: seconds. ``data``: bytes for its standard input. Raises VideoError when it cannot be
    started, crashes, or takes longer than ``timeout``.
    """
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    options.update(_popen_options())
    try:
        done = subprocess.run(command(args), capture_output=True, timeout=timeout, check=False, **options)
    except subprocess.TimeoutExpired as error:
        raise VideoError(f"FFmpeg took longer than {timeout:g} s and was stopped") from error
    except OSError as error:
        raise VideoError(f"FFmpeg cannot be started ({error})") from error
    if done.returncode < 0 or done.returncode >= 0xC0000000:  # a signal, or an exception code of Windows
        name = next((word for word in args if word.startswith("file:")), "the data").removeprefix("file:")
        raise VideoError(f"FFmpeg crashed on {name} (status {done.returncode}); try another version of imageio-ffmpeg")
    return done


def run_checked(args: Sequence[str], timeout: float, what: str, *, data: bytes | None = None) -> bytes:
    """Standard output of a run that must succeed. VideoError ``what`` with FFmpeg's reason otherwise."""
    done = run(args, timeout, data=data)
    if done.returncode:
        raise VideoError(f"{what}: {reason(text(done.stderr).splitlines())}")
    return done.stdout


def text(data: bytes) -> str:
    """FFmpeg's output as text."""
    return data.decode("utf-8", errors="replace")


@functools.cache
def _names_chroma_locations() -> bool:
    """True when this FFmpeg's scale filter takes chroma locations by name; earlier ones take coordinates."""
    return b"in_chroma_loc" in run(["-h", "filter=scale"], 30).stdout


_CHROMA_POSITIONS = {"left": (0, 128), "center": (128, 128), "topleft": (0, 0)}


def chroma_location(side: str, location: str, pix_fmt: str) -> str:
    """Options of the scale filter that say where chroma samples lie, for subsampled formats.

    ``side``: "in" or "out". ``location``: "left", "center" or "topleft".
    """
    if not re.search(r"42[02]|nv1[26]|nv21|[py]0(10|12|16)|p21|uyvy|yuyv", pix_fmt):
        return ""
    if _names_chroma_locations():
        return f":{side}_chroma_loc={location}"
    x, y = _CHROMA_POSITIONS[location]
    return f":{side}_h_chr_pos={x}" + (f":{side}_v_chr_pos={y}" if re.search(r"420|nv12|nv21|p01", pix_fmt) else "")


def keep_clock(streams: str, wanted: object) -> list[str]:
    """A second output that takes nothing of ``streams``. Empty when ``wanted`` is.

    In some formats FFmpeg counts time from the first stream in use; this keeps the clock the same
    whether the sound, the picture or both are read.
    """
    return ["-map", streams, "-c", "copy", "-t", "0", "-f", "null", "-"] if wanted else []


def _one_line(words: str) -> str:
    return " ".join(words.split())


def reason(lines: Sequence[str], count: int = 3) -> str:
    """The last telling lines of FFmpeg's log as one line."""
    telling = [_one_line(re.sub(r" @ 0x[0-9a-f]+", "", line)) for line in lines]
    telling = [line for line in telling if line and not _USELESS.match(line)]
    return " | ".join(telling[-count:]) or "it gave no reason"


class Process:
    """A running FFmpeg whose log is drained by a thread, so that it can never block on a full pipe."""

    def __init__(self, args: Sequence[str], *, feed: bool, both: bool = False) -> None:
        """Start it. ``feed``: its standard input is a pipe, otherwise its standard output; ``both``: both are."""
        try:
            self._popen: subprocess.Popen[bytes] = subprocess.Popen(
                command(args),
                stdin=subprocess.PIPE if feed or both else subprocess.DEVNULL,
                stdout=subprocess.PIPE if both or not feed else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,
                **_popen_options(),
            )
        except OSError as error:
            raise VideoError(f"FFmpeg cannot be started ({error})") from error
        self.pid: int = self._popen.pid
        _lower_priority(self.pid)
        self._log = self._open(self._popen.stderr)
        self._tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self._drain = threading.Thread(target=self._read_log, name="ffmpeg-log", daemon=True)
        self._drain.start()

    @staticmethod
    def _open(pipe: IO[bytes] | None) -> IO[bytes]:
        if pipe is None:
            raise VideoError("this FFmpeg process has no such pipe")
        return pipe

    def _read_log(self) -> None:
        try:
            for raw in self._log:
                line = text(raw).rstrip()
                if line:
                    self._tail.append(line)
                    log.debug("ffmpeg %d: %s", self.pid, line)
        except (OSError, ValueError) as error:  # closed under our hands by stop()
            log.debug("ffmpeg %d: log closed (%s)", self.pid, error)

    @property
    def stdin(self) -> IO[bytes]:
        return self._open(self._popen.stdin)

    @property
    def stdout(self) -> IO[bytes]:
        return self._open(self._popen.stdout)

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def wait(self) -> int:
        """Exit status, once it has ended and its whole log has been read."""
        status: int = self._popen.wait()
        self._drain.join(timeout=5)
        return status

    def wait_briefly(self) -> None:
        """Give a process that has broken its pipe a moment to end and to say why."""
        try:
            self._popen.wait(timeout=5)
        except subprocess.TimeoutExpired:
            log.debug("ffmpeg %d: broke its pipe, but still runs", self.pid)
        self._drain.join(timeout=5)

    def why(self) -> str:
        """Why it failed, in one line: its last words, or what ended it."""
        status = self._popen.poll()
        lines = list(self._tail)
        if status is not None and status < 0:
            return f"it was killed by signal {-status}; its last words: {reason(lines)}"
        return reason(lines)

    def kill(self) -> None:
        """End it now; its pipes stay to be read to their end. Safe from another thread."""
        self._popen.kill()

    def stop(self) -> None:
        """End it now, whatever it is doing, and free its pipes. Does nothing when it has ended."""
        if self.running:
            # Not asked politely: it would wait for a pipe that nobody reads, or finish a file nobody wants.
            self._popen.kill()
            self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError as error:  # unsent bytes of a dead process
                    log.debug("ffmpeg %d: pipe closed (%s)", self.pid, error)
        self._drain.join(timeout=5)
        self._log.close()
