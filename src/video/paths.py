"""Where output goes: names, temporary names, and the rename that makes a file appear complete."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from src.errors import InputError, OutputExistsError, VideoError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm")
# What is taken for a video in a folder; a single file of any name is tried.
VIDEO_NAMES = frozenset(VIDEO_SUFFIXES) | frozenset(
    {".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".ogv", ".vob", ".3gp", ".mxf", ".asf"}
)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
# Containers of the source that are kept for an output whose name is left to us.
_KEPT = {
    "video": (".mp4", ".mkv", ".mov"),
    "prores": (".mov", ".mkv"),
    "vp9": (".webm", ".mkv"),
    "picture": (".png", ".tif", ".tiff"),
    "folder": (),
}
_DEFAULT = {"video": ".mp4", "prores": ".mov", "vp9": ".webm", "picture": ".png", "folder": ""}


def output_path(input_path: Path, output: Path | str, *, kind: str, suffix: str = "") -> Path:
    """The file to write for ``input_path``. Creates nothing.

    ``output``: a file with a known extension, or a folder (an existing one, or any name without an
    extension or with a trailing slash). In a folder the name is the input's plus ``suffix``; the
    extension is the input's where that loses nothing, otherwise .mp4, .mov, .webm or .png. ``kind``: "video",
    "prores" or "vp9" (a video of that codec), "picture" or "folder" (of pictures, made inside
    ``output``). InputError for an unknown extension and when the output would be the input.
    """
    if kind == "folder":
        return _folder_path(Path(input_path), output, suffix)
    allowed = {
        "video": VIDEO_SUFFIXES,
        "prores": (".mov", ".mkv"),
        "vp9": (".webm", ".mkv", ".mp4"),
        "picture": PICTURE_SUFFIXES,
    }[kind]
    as_folder = str(output).endswith(("/", "\\"))
    input_path, output = Path(input_path), Path(output)
    if as_folder or output.is_dir() or not output.suffix:
        source = input_path if input_path.name not in ("", "..") else input_path.resolve()
        stem, extension = (source.name, "") if input_path.is_dir() else (source.stem, source.suffix.lower())
        target = output / f"{stem}{suffix}{extension if extension in _KEPT[kind] else _DEFAULT[kind]}"
    else:
        target = output
        if target.suffix.lower() not in allowed:
            what = {"video": "a video", "prores": "ProRes", "vp9": "VP9", "picture": "a picture"}[kind]
            raise InputError(f"{output}: {what} cannot be written as {output.suffix}; use one of {', '.join(allowed)}")
    if same_file(target, input_path):
        raise InputError(f"{target} is the input itself; choose another output")
    return target


def _folder_path(input_path: Path, output: Path | str, suffix: str) -> Path:
    output = Path(output)
    if output.suffix.lower() in VIDEO_SUFFIXES + PICTURE_SUFFIXES:
        raise InputError(f"{output}: a folder of pictures is written; choose a name without {output.suffix}")
    source = input_path if input_path.name not in ("", "..") else input_path.resolve()
    name = source.name if input_path.is_dir() else source.stem
    target = output / f"{name}{suffix}"
    if same_file(target, input_path):
        raise InputError(f"{target} is the input itself; choose another output")
    return target


def kind_of_video(codec: str) -> str:
    """The ``kind`` of ``output_path`` for a video of ``codec``."""
    return codec if codec in ("prores", "vp9") else "video"


def is_video_name(path: Path) -> bool:
    """True for a file name of a video."""
    return Path(path).suffix.lower() in VIDEO_NAMES


def same_file(one: Path, other: Path) -> bool:
    """True when both names mean one file, also through links and on case-blind file systems."""
    try:
        if one.exists() and other.exists():
            return one.samefile(other)
    except OSError:
        return one.absolute() == other.absolute()
    return os.path.normcase(os.path.abspath(one)) == os.path.normcase(os.path.abspath(other))  # noqa: PTH100


def temporary_path(target: Path) -> Path:
    """A free hidden name beside ``target`` with its extension. Creates the folder.

    VideoError when the folder cannot be made or written to.
    """
    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Short enough for any file system, whatever the length of the name itself.
        name = f".{target.stem[:40]}.partial-{os.getpid()}-{secrets.token_hex(4)}{target.suffix}"
        temporary = folder / name
        with temporary.open("xb"):
            pass
    except OSError as error:
        raise VideoError(f"{target} cannot be written: {error.strerror or error}") from error
    return temporary


def commit(temporary: Path, target: Path, overwrite: bool) -> None:
    """Give the complete file its name. OutputExistsError when one appeared there meanwhile."""
    if target.is_dir():
        raise InputError(f"{target} is a folder; choose another output name")
    if target.exists() and not overwrite:
        raise OutputExistsError(f"{target} exists already; choose another name or use --overwrite")
    try:
        temporary.replace(target)
    except OSError as error:
        raise VideoError(f"{target} cannot be written: {error.strerror or error}") from error
