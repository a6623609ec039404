"""Encoders with settings of their own: lossless intermediates, presets for sharing, two passes to a size.

``VideoWriter`` takes them as ``encoder``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.errors import VideoError
from src.video.encoders import Encoder, available


@dataclass(frozen=True)
class RawSound:
    """A second input of the writer: ``input`` opens it, ``output`` maps and encodes it. Empty: no sound."""

    input: tuple[str, ...] = ()
    output: tuple[str, ...] = ()


SILENT = RawSound()


@dataclass(frozen=True)
class PresetEncoder(Encoder):
    """An encoder whose settings are given instead of derived from a quality.

    ``options``: FFmpeg's options. ``pix_fmt``: its pixel format for 8 bits; ``deep_pix_fmt``: for more.
    """

    options: tuple[str, ...] = ()
    pix_fmt: str = "yuv420p"
    deep_pix_fmt: str = ""

    @property
    def hardware(self) -> bool:
        return False

    def arguments(self, quality: int, width: int, height: int, deep: bool = False, alpha: bool = False) -> list[str]:
        """Encoder options; ``quality`` and the size have no influence."""
        return ["-c:v", self.name, "-pix_fmt", self.pixel_format(width, height, deep), *self.options]

    def pixel_format(self, width: int, height: int, deep: bool = False, alpha: bool = False) -> str:
        """The fixed format, whatever the size."""
        return self.deep_pix_fmt if deep and self.deep_pix_fmt else self.pix_fmt


# Every frame stands alone, so that a part can be read from anywhere, also backwards.
LOSSLESS = PresetEncoder("ffv1", "ffv1", ("-level", "3", "-g", "1", "-slices", "4"), "gbrp", "gbrp16le")


def first_available(names: Sequence[str]) -> str:
    """The first of these encoders that this FFmpeg has. VideoError when it has none."""
    for name in names:
        if name in available():
            return name
    raise VideoError(f"this FFmpeg has none of the encoders {', '.join(names)}; use another preset")


def pass_options(name: str, number: int, log: Path) -> tuple[str, ...]:
    """Options of pass 1 or 2 of two, with its statistics in files that begin with ``log``."""
    if name == "libx265":
        # A colon ends an x265 parameter, whatever surrounds it; a backslash saves it.
        stats = str(log).replace("\\", "/").replace(":", "\\:")
        return ("-x265-params", f"log-level=error:pass={number}:stats={stats}")
    return ("-pass", str(number), "-passlogfile", str(log))
