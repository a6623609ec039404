"""What a file is: container, streams, exact rate, colours, sound; as facts, as a table, as text."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from src.errors import InputError
from src.video import MediaInfo, is_picture, open_source, probe


def analyse(path: Path) -> dict[str, Any]:
    """Facts about a video, a picture or a folder of pictures; every value can be written as JSON.

    Rates are exact fractions as text beside rounded numbers; ``None`` and "" mean that the file does not say.
    Raises InputError.
    """
    path = Path(path)
    if path.is_dir() or is_picture(path):
        with open_source(path) as source:
            kind = "picture" if source.is_picture else "folder of pictures"
            files = [path] if path.is_file() else sorted(path.iterdir())
            return {
                "file": {"path": str(path), "kind": kind, "bytes": sum(f.stat().st_size for f in files if f.is_file())},
                "video": {
                    "width": source.width,
                    "height": source.height,
                    "frames": source.frames_expected,
                    "bits": source.bit_depth,
                },
            }
    return _video(probe(path))


def _video(info: MediaInfo) -> dict[str, Any]:
    size = info.path.stat().st_size
    seconds = float(info.duration)
    return {
        "file": {
            "path": str(info.path),
            "kind": "video",
            "container": info.format,
            "bytes": size,
            "seconds": round(seconds, 6),
            "bits_per_second": round(size * 8 / seconds) if seconds else None,
            "chapters": info.has_chapters,
            "attachments": info.attachments,
            "damage": info.damage,
        },
        "video": {
            "stream": info.video_index,
            "codec": info.codec,
            "width": info.width,
            "height": info.height,
            "coded_width": info.coded_width,
            "coded_height": info.coded_height,
            "rotation": info.rotation,
            "pixel_aspect": _ratio(info.sar),
            "rate": str(info.fps),
            "fps": round(float(info.fps), 6),
            "variable_rate": info.variable_rate,
            "frames": info.frames,
            "first": round(float(info.first), 6),
            "interlaced": info.interlaced,
            "pixel_format": info.pix_fmt,
            "bits": info.bit_depth,
            "language": info.language,
            "further_video_streams": info.other_videos,
        },
        "color": {
            "matrix": info.color_matrix,
            "tagged": info.tagged,
            "range": {"tv": "limited", "pc": "full"}[info.color_range],
            "primaries": info.primaries,
            "transfer": info.transfer,
            "hdr": {"smpte2084": "PQ", "arib-std-b67": "HLG"}.get(info.transfer) if info.hdr else None,
        },
        "audio": [
            {
                "stream": track.index,
                "codec": track.codec,
                "channels": track.channels,
                "layout": track.layout,
                "rate": track.rate,
                "start": None if track.start is None else round(float(track.start), 6),
                "language": track.language,
            }
            for track in info.audio_streams
        ],
        "subtitles": [
            {"stream": track.index, "codec": track.codec, "language": track.language} for track in info.subtitle_streams
        ],
    }


def _ratio(value: Fraction) -> str:
    return f"{value.numerator}:{value.denominator}"


def rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts as lines of a table: label, value."""
    table: list[tuple[str, str]] = []
    for part, values in facts.items():
        entries = values if isinstance(values, list) else [values]
        for number, entry in enumerate(entries, 1):
            prefix = part if not isinstance(values, list) else f"{part.rstrip('s')} {number}"
            for name, value in entry.items():
                table.append((f"{prefix}: {name.replace('_', ' ')}", _words(name, value)))
        if not entries:
            table.append((part, "none"))
    return table


def _words(name: str, value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "bytes":
        return f"{value:,} ({value / 1e6:.2f} MB)"
    if name == "bits_per_second":
        return f"{value / 1000:,.0f} kbit/s"
    if name == "seconds":
        return f"{value:.3f} ({int(value // 3600)}:{int(value // 60 % 60):02d}:{value % 60:06.3f})"
    return str(value)


def text(facts: dict[str, Any]) -> str:
    """The table for a terminal."""
    table = rows(facts)
    width = max(len(label) for label, _ in table)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in table)


def report(job: Any, path: Path) -> dict[str, Any]:
    """The tool."""
    if job.output is not None:
        raise InputError(f"analyse writes no file ({job.output}); use --json and your shell's > to keep the facts")
    return analyse(path)
