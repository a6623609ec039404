"""Writing a video: one FFmpeg process fed with raw frames, the rest taken from the source."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np

from src.errors import InputError, OutputExistsError, VideoError
from src.video import ffmpeg
from src.video.containers import check_container, holds_alpha
from src.video.encoders import Encoder, pick_encoder
from src.video.muxing import around_the_video, output_arguments, with_sound
from src.video.paths import commit, same_file, temporary_path
from src.video.pictures import check_frame, to_8bit
from src.video.presets import RawSound
from src.video.probe import MediaInfo
from src.video.reader import SCALE_FLAGS
from src.video.streams import is_rgb

log = logging.getLogger(__name__)

# Names that FFmpeg reports for a source and also accepts for an output.
_PRIMARIES = frozenset(
    {"bt709", "bt470m", "bt470bg", "smpte170m", "smpte240m", "film", "bt2020", "smpte428", "smpte431", "smpte432"}
)
_TRANSFERS = frozenset(
    {"bt709", "bt470m", "bt470bg", "smpte170m", "smpte240m", "linear", "iec61966-2-4", "iec61966-2-1"}
    | {"bt2020-10", "bt2020-12", "smpte2084", "arib-std-b67"}
)
_MATRIX_NAMES = {"bt709": "bt709", "bt2020": "bt2020nc"}


_TO_SWSCALE = ((np.arange(65536) * 65280 + 32767) // 65535).astype(np.uint16)


class VideoWriter:
    """Frames into a video file that appears complete or not at all.

    A context manager: leaving it normally commits, leaving it by an exception aborts. The picture is
    written as BT.709, limited range, and tagged so. Sound, subtitles, chapters, metadata, primaries
    and transfer come from ``source``, cut to ``start``..``end``.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        fps: Fraction,
        *,
        codec: str = "h264",
        quality: int = 7,
        source: MediaInfo | None = None,
        start: Fraction | None = None,
        end: Fraction | None = None,
        overwrite: bool = False,
        hardware: str = "off",
        bit_depth: int = 8,
        encoder: Encoder | None = None,
        sound: RawSound | None = None,
        alpha: bool = False,
        colors: MediaInfo | None = None,
        ticks: int | None = None,
    ) -> None:
        """``width``, ``height``: pixels of a frame. ``fps``: its exact rate. ``quality``: 1..10.

        ``hardware``: "auto" uses a hardware encoder if a trial with it succeeds, "off" never.
        ``bit_depth``: 8, or 10 (hevc, av1, vp9, prores; for uint16 frames). ``alpha``: frames are RGBA (prores,
        and vp9 in WebM or Matroska).
        ``colors``: whose primaries and transfer the picture has (default: those of ``source``). ``ticks`` per second of
        the video track, for MP4 and MOV (default: FFmpeg's choice).
        ``encoder``: used instead of one picked for ``codec``. ``sound``: taken instead of the tracks of ``source``.
        Raises InputError for what cannot be written so, OutputExistsError, VideoError when the
        folder is not writable.
        """
        self.path = Path(path)
        self.width, self.height, self.fps = width, height, Fraction(fps)
        self._source, self._start, self._end = source, start, end
        self._overwrite = overwrite
        self._deep = bit_depth > 8 or codec == "prores"
        self._alpha, self._ticks = alpha, ticks
        self._colors = colors or source
        self.frames_written = 0
        self._sound = sound
        self._check(codec if encoder is None else encoder.codec, quality, hardware)
        if encoder is None:
            encoder = pick_encoder(codec, hardware == "auto", width, height)
        self.encoder = encoder.name
        if encoder.codec in ("h264", "hevc", "av1", "vp9") and "444" in encoder.pixel_format(width, height):
            log.warning("%s: %dx%d is odd and so kept as 4:4:4, which some players cannot show", path, width, height)
        self._rgb = is_rgb(encoder.pixel_format(width, height, self._deep))
        self.process: ffmpeg.Process | None = None
        self._temporary: Path | None = temporary_path(self.path)
        try:
            self.process = ffmpeg.Process(self._command(encoder, quality, self._temporary), feed=True)
        except BaseException:
            self.abort()
            raise

    def _check(self, codec: str, quality: int, hardware: str) -> None:
        check_container(self.path, codec)
        if not 1 <= quality <= 10:
            raise InputError(f"--quality {quality} is outside 1..10")
        if hardware not in ("auto", "off"):
            raise InputError(f"hardware {hardware!r} is neither 'auto' nor 'off'")
        if self.width < 1 or self.height < 1 or self.fps <= 0:
            raise InputError(f"a video of {self.width}x{self.height} at {self.fps} frames per second cannot be written")
        if self._deep and codec == "h264":
            log.info("%s: h264 is written with 8 bits, which every player can show", self.path)
            self._deep = False
        if self._alpha and not holds_alpha(self.path, codec):
            what = f"{codec} in {self.path.suffix.lower()}"
            raise InputError(
                f"{self.path}: {what} cannot hold transparency; use --codec prores or vp9, or --output-format png"
            )
        if self._source is not None and same_file(self.path, self._source.path):
            raise InputError(f"{self.path} is the input itself; choose another output")
        if self.path.is_dir():
            raise InputError(f"{self.path} is a folder; choose another output name")
        if self.path.exists() and not self._overwrite:
            raise OutputExistsError(f"{self.path} exists already; choose another name or use --overwrite")

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, frame: np.ndarray) -> None:
        """Append one (height, width, 3) RGB frame (4: with alpha), uint8 0..255 or uint16 0..65535.

        ValueError for another shape or type, VideoError when FFmpeg fails or vanishes (nothing is
        left behind then).
        """
        if self.process is None:
            raise VideoError(f"{self.path} is closed already; no more frames can be written")
        check_frame(frame, self.width, self.height, 4 if self._alpha else 3)
        if not self._deep:
            frame = to_8bit(frame)
        elif self._rgb:
            frame = frame.astype(np.uint16) * 257 if frame.dtype == np.uint8 else frame
        else:
            frame = _for_swscale(frame)
        samples = np.ascontiguousarray(frame, "<u2" if self._deep else np.uint8)
        view = samples.reshape(-1).view(np.uint8).data
        try:
            while view:
                view = view[self.process.stdin.write(view) :]
        except (OSError, ValueError) as error:  # the pipe broke: FFmpeg is gone
            raise self._failure(f"after {self.frames_written} frames") from error
        self.frames_written += 1

    def close(self) -> Path:
        """Finish the file and give it its name. VideoError when that fails; nothing is left then."""
        process, temporary = self.process, self._temporary
        if process is None or temporary is None:
            raise VideoError(f"{self.path} is closed already")
        if not self.frames_written:
            self.abort()
            raise VideoError(f"{self.path}: no frame was written")
        try:
            try:
                process.stdin.close()
            except OSError as error:
                raise self._failure("at the end") from error
            if process.wait():
                raise self._failure("at the end")
            if temporary.stat().st_size == 0:
                raise VideoError(f"writing {self.path} failed: FFmpeg left an empty file")
            commit(temporary, self.path, self._overwrite)
        finally:
            self.abort()
        return self.path

    def abort(self) -> None:
        """Stop and remove what was written so far. Safe to call more than once."""
        process, self.process = self.process, None
        if process is not None:
            process.stop()
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            try:
                temporary.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s could not be removed: %s", temporary, error)

    def _failure(self, when: str) -> VideoError:
        """Abort, and say what FFmpeg said."""
        process = self.process
        why = "FFmpeg is gone"
        if process is not None:
            process.wait_briefly()
            why = process.why()
        if "No space left" in why:
            why = f"no space left on the disk ({why})"
        self.abort()
        return VideoError(f"writing {self.path} failed {when}: {why}")

    def _command(self, encoder: Encoder, quality: int, temporary: Path) -> list[str]:
        pipe_format = "rgb48le" if self._deep else "rgb24"
        if self._alpha:
            pipe_format = "rgba64le" if self._deep else "rgba"
        size = f"{self.width}x{self.height}"
        if self._sound is not None:
            around = with_sound(self.path, self._sound)
        else:
            around = around_the_video(self.path, self._source, self._start, self._end, self.fps)
        args = ["-loglevel", "warning", "-y", *around.before]
        args += ["-f", "rawvideo", "-pix_fmt", pipe_format, "-s", size, "-framerate", str(self.fps), "-i", "pipe:0"]
        args += [*around.source, "-map", "0:v:0", "-vf", self._filters(encoder)]
        primaries, transfer = self._tags()
        matrix = self._matrix()
        if not self._rgb:
            args += ["-colorspace", _MATRIX_NAMES[matrix], "-color_range", "tv"]
        args += ["-color_primaries", primaries, "-color_trc", transfer]
        args += encoder.arguments(quality, self.width, self.height, self._deep, self._alpha)
        if self._ticks is not None:
            args += ["-video_track_timescale", str(self._ticks)]
        args += [*around.tracks, *output_arguments(self.path, encoder.codec)]
        return [*args, "-fps_mode", "passthrough", *around.output, ffmpeg.url(temporary), *around.clock]

    def _filters(self, encoder: Encoder) -> str:
        pix_fmt = encoder.pixel_format(self.width, self.height, self._deep, self._alpha)
        if self._rgb:
            return f"format={pix_fmt}"
        matrix = self._matrix()
        scale = f"scale=flags={SCALE_FLAGS}:in_range=pc:out_color_matrix={matrix}:out_range=tv"
        scale += ffmpeg.chroma_location("out", "left", pix_fmt)
        primaries, transfer = self._tags()
        tags = f"setparams=range=tv:colorspace={_MATRIX_NAMES[matrix]}"
        return f"{scale},format={pix_fmt},{tags}:color_primaries={primaries}:color_trc={transfer}"

    def _matrix(self) -> str:
        """BT.709, but an HDR picture stays what it is."""
        return "bt2020" if self._colors is not None and self._colors.hdr else "bt709"

    def _tags(self) -> tuple[str, str]:
        """Primaries and transfer: the conversion leaves both as they are in the source."""
        primaries = transfer = "bt709"
        if self._colors is not None:
            primaries = self._colors.primaries if self._colors.primaries in _PRIMARIES else primaries
            transfer = self._colors.transfer if self._colors.transfer in _TRANSFERS else transfer
        return primaries, transfer


def _for_swscale(frame: np.ndarray) -> np.ndarray:
    """16-bit samples as swscale takes them: 255 << 8 is white, but full alpha is 65535."""
    colors = frame.astype(np.uint16) << 8 if frame.dtype == np.uint8 else np.take(_TO_SWSCALE, frame)
    if frame.shape[2] == 4:
        colors[..., 3] = frame[..., 3].astype(np.uint16) * 257 if frame.dtype == np.uint8 else frame[..., 3]
    return colors
