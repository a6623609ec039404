"""Which encoder writes a codec on this machine, and with which settings."""

from __future__ import annotations

import functools
import logging
import sys
from dataclasses import dataclass

from src.errors import InputError, VideoError
from src.video import ffmpeg

log = logging.getLogger(__name__)

# Constant-quality value for quality 1..10, per encoder family. 7 looks like the source at normal
# viewing distance, 10 is close to lossless.
_CRF = {
    "libx264": (36, 33, 30, 27, 24, 21, 18, 15, 12, 8),
    "libx265": (38, 35, 32, 29, 26, 23, 20, 17, 14, 9),
    "libsvtav1": (60, 54, 48, 42, 36, 30, 24, 18, 13, 7),
    "libaom-av1": (60, 54, 48, 42, 36, 30, 24, 18, 13, 7),
    "libvpx-vp9": (58, 53, 47, 42, 36, 30, 24, 18, 13, 7),
}
# The network that makes the frames wants the processor too, so these are the presets after which
# more time brings little: the quality comes from the constant-quality value above.
_SPEED = {
    "libx264": ("-preset", "veryfast"),
    "libx265": ("-preset", "superfast", "-x265-params", "log-level=error"),
    "libsvtav1": ("-preset", "8"),
    "libaom-av1": ("-cpu-used", "6", "-row-mt", "1", "-b:v", "0"),
    "libvpx-vp9": ("-deadline", "good", "-cpu-used", "5", "-row-mt", "1", "-b:v", "0"),
}
_SOFTWARE = {
    "h264": ("libx264",),
    "hevc": ("libx265",),
    "av1": ("libsvtav1", "libaom-av1"),
    "vp9": ("libvpx-vp9",),
    "prores": ("prores_ks",),
}
_HARDWARE_KINDS = ("nvenc", "videotoolbox") if sys.platform == "darwin" else ("nvenc", "qsv", "amf")
# Below this the encoder refuses to start, or crashes.
_LEAST_SIDE = {"libx265": 16, "libsvtav1": 64}
_TRIAL_TIMEOUT = 60.0


@dataclass(frozen=True)
class Encoder:
    """An FFmpeg video encoder that exists here."""

    name: str
    codec: str

    @property
    def hardware(self) -> bool:
        return self.name not in _CRF and self.codec != "prores"

    def arguments(self, quality: int, width: int, height: int, deep: bool = False, alpha: bool = False) -> list[str]:
        """Encoder options for frames of this size. ``quality``: 1..10. ``deep``: 10 bits. ``alpha``: RGBA."""
        pixel_format = self.pixel_format(width, height, deep, alpha)
        args = ["-c:v", self.name, "-pix_fmt", pixel_format]
        if self.codec == "prores":
            # Profiles: 1 LT, 2 standard, 3 HQ, 4 4444.
            profile = 4 if "444" in pixel_format else 1 if quality <= 3 else 2 if quality <= 6 else 3
            return [*args, "-profile:v", str(profile), "-vendor", "apl0", "-alpha_bits", "16" if alpha else "0"]
        if alpha and self.codec == "vp9":
            args += ["-auto-alt-ref", "0"]  # hidden frames have no place for their transparency
        if not self.hardware:
            return [*args, *_SPEED[self.name], "-crf", str(_CRF[self.name][quality - 1])]
        level = _CRF["libx265" if self.codec == "hevc" else "libx264"][quality - 1]
        if self.name.endswith("nvenc"):
            # AV1 quantisers of NVENC run to 255 where the others' run to 51.
            level = level * 4 if self.codec == "av1" else level
            return [*args, "-preset", "p5", "-rc", "vbr", "-cq", str(level), "-b:v", "0"]
        if self.name.endswith("videotoolbox"):
            return [*args, "-q:v", str(30 + 6 * quality)]
        if self.name.endswith("qsv"):
            return [*args, "-global_quality", str(level)]
        return [*args, "-rc", "cqp", "-qp_i", str(level), "-qp_p", str(level)]

    def pixel_format(self, width: int, height: int, deep: bool = False, alpha: bool = False) -> str:
        """4:2:0 where the codec can hold this size in it, 4:4:4 where only that keeps an odd size."""
        if self.codec == "prores":
            return "yuva444p10le" if alpha else "yuv444p10le" if width % 2 else "yuv422p10le"
        # AV1 and VP9 round their chroma planes up; only a picture one pixel wide loses its colour in them.
        odd = min(width, height) == 1 if self.codec in ("av1", "vp9") else bool(width % 2 or height % 2)
        if alpha and self.codec == "vp9":
            return "yuva420p"
        if self.hardware:
            return "p010le" if deep else "yuv420p"
        return ("yuv444p" if odd else "yuv420p") + ("10le" if deep else "")


@functools.cache
def available() -> frozenset[str]:
    """Names of the video encoders in this FFmpeg."""
    listing = ffmpeg.text(ffmpeg.run_checked(["-encoders"], 30, "FFmpeg's encoders cannot be listed"))
    rows = (line.split() for line in listing.splitlines())
    return frozenset(row[1] for row in rows if len(row) > 2 and row[0].startswith("V") and row[1] != "=")


@functools.cache
def trial(name: str, width: int, height: int) -> str:
    """Encode a few frames of this size for real. Returns "" when it works, otherwise the reason."""
    codec = next((codec for codec, names in _SOFTWARE.items() if name in names), name.split("_")[0])
    source = ["-f", "lavfi", "-i", f"color=c=gray:s={width}x{height}:r=25", "-frames:v", "3"]
    args = ["-loglevel", "warning", *source, *Encoder(name, codec).arguments(7, width, height), "-f", "null", "-"]
    try:
        done = ffmpeg.run(args, _TRIAL_TIMEOUT)
    except VideoError as error:
        return str(error)
    return ffmpeg.reason(ffmpeg.text(done.stderr).splitlines()) if done.returncode else ""


def pick_encoder(codec: str, hardware: bool, width: int, height: int) -> Encoder:
    """The encoder to use for ``codec`` ("h264", "hevc", "av1", "vp9", "prores") at this frame size.

    ``hardware``: prefer one of the graphics card if a trial run at this size succeeds. InputError
    when the frame is too small for the codec, VideoError when this FFmpeg has no encoder for it.
    """
    if codec not in _SOFTWARE:
        raise InputError(f"--codec {codec!r} is not one of {', '.join(_SOFTWARE)}")
    if hardware and (width % 2 or height % 2):
        log.info("hardware encoders cannot hold the odd size %dx%d; a software encoder is used", width, height)
    elif hardware and codec not in ("prores", "vp9"):
        for name in (f"{codec}_{kind}" for kind in _HARDWARE_KINDS):
            if name not in available():
                continue
            failure = trial(name, width, height)
            if not failure:
                log.info("encoding with %s", name)
                return Encoder(name, codec)
            log.info("%s does not work here: %s", name, failure)
        log.info("no hardware encoder works for %s; a software encoder is used", codec)
    for name in _SOFTWARE[codec]:
        if name in available():
            least = _LEAST_SIDE.get(name, 1)
            if min(width, height) < least:
                if name != _SOFTWARE[codec][-1]:
                    continue
                size = f"{width}x{height}"
                raise InputError(f"{codec} needs at least {least} pixels a side, not {size}; use --codec h264")
            odd = width % 2 or height % 2
            if odd and name == "libsvtav1" and (failure := trial(name, width, height)):
                log.info("%s cannot hold the odd size %dx%d: %s", name, width, height, failure)
                continue
            return Encoder(name, codec)
    raise VideoError(f"this FFmpeg has none of the encoders {', '.join(_SOFTWARE[codec])}; use another --codec")
