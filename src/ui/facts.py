"""What an input is, in words; sizes and times as a person writes them. No markup."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from src.errors import InputError
from src.video import MediaInfo, PictureFolder, PictureReader, is_picture, probe


@dataclass(frozen=True)
class Facts:
    """An input. ``duration`` in seconds (0: a picture), ``frames`` None if unknown, ``fps`` 0 for a picture."""

    path: Path
    width: int
    height: int
    frames: int | None
    duration: Fraction
    fps: Fraction
    rows: tuple[tuple[str, str], ...]
    info: MediaInfo | None


def facts_of(path: Path, media: str) -> Facts:
    """Look into the file. ``media``: "video" or "image", what it is expected to be. InputError says what is wrong."""
    size = ("File size", bytes_text(path.stat().st_size)) if path.is_file() else None
    if media == "image":
        if not is_picture(path):
            raise InputError(f"{path.name} is not a picture: PNG, JPEG, WebP, TIFF and BMP are read")
        with PictureReader(path) as picture:
            rows = [("Resolution", f"{picture.width} × {picture.height}"), ("Colour depth", f"{picture.bit_depth} bit")]
            shape = (picture.width, picture.height)
        return Facts(path, *shape, 1, Fraction(0), Fraction(0), tuple(rows + [size] * bool(size)), None)  # type: ignore[list-item]
    if path.is_dir():
        with PictureFolder(path) as folder:
            shape, count, fps = (folder.width, folder.height), folder.frames_expected or 0, folder.fps
        rows = [("Resolution", f"{shape[0]} × {shape[1]}"), ("Pictures", str(count)), ("Frame rate", f"{float(fps):g}")]
        return Facts(path, *shape, count, count / fps, fps, tuple(rows), None)
    if is_picture(path):
        raise InputError(f"{path.name} is a picture: use the Image tab")
    info = probe(path)
    rows = _video_rows(info) + ([size] if size else [])
    return Facts(path, info.width, info.height, info.frames, info.duration, info.fps, tuple(rows), info)


def _video_rows(info: MediaInfo) -> list[tuple[str, str]]:
    rate = f"{float(info.fps):.6g} per second" + (" (variable)" if info.variable_rate else "")
    colour = f"{info.bit_depth} bit" + (", HDR" if info.hdr else "") + (", interlaced" if info.interlaced else "")
    sound = ", ".join(track.codec for track in info.audio_streams) or "none"
    rows = [
        ("Resolution", f"{info.width} × {info.height}" + (f", turned {info.rotation}°" if info.rotation else "")),
        ("Duration", time_text(float(info.duration))),
        ("Frames", "unknown" if info.frames is None else f"{info.frames:,}".replace(",", " ")),
        ("Frame rate", rate),
        ("Codec", f"{info.codec}, {colour}"),
        ("Audio", sound),
    ]
    if info.damage:
        rows.append(("Damaged", info.damage))
    return rows


def bytes_text(count: float) -> str:
    """1536 -> 1.5 KB (thousands, as file managers count)."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def time_text(seconds: float) -> str:
    """75.3 -> 1:15.3; 3 -> 3.0 s."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02} min"
