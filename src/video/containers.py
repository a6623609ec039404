"""What each container can hold, and how the other tracks of the source get into it."""

from __future__ import annotations

import logging
from pathlib import Path

from src.errors import InputError
from src.video.probe import MediaInfo
from src.video.streams import AudioInfo

log = logging.getLogger(__name__)

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
_PCM = tuple(f"pcm_{kind}" for kind in ("s16le", "s24le", "s32le", "f32le", "f64le", "u8"))
_PCM_BIG = ("pcm_s16be", "pcm_s24be", "pcm_s32be", "pcm_s8", "pcm_f32be", "pcm_f64be", "pcm_alaw", "pcm_mulaw")
_AUDIO = {
    ".mp4": frozenset({"aac", "mp3", "mp2", "ac3", "eac3", "dts", "alac", "opus", "flac"}),
    ".mov": frozenset({"aac", "mp3", "mp2", "ac3", "eac3", "alac", *_PCM, *_PCM_BIG}),
    ".webm": frozenset({"opus", "vorbis"}),
    ".mkv": frozenset(
        {"aac", "mp3", "mp2", "mp1", "ac3", "eac3", "dts", "truehd", "mlp", "alac", "opus", "vorbis", "flac", "tta"}
        | {"wavpack", "wmav1", "wmav2", "wmapro", "cook", "pcm_s16be", "pcm_s24be", "pcm_s32be", *_PCM}
    ),
}
_LOSSLESS = ("pcm_", "flac", "alac", "truehd", "mlp", "tta", "wavpack", "ape", "s302m")
_TEXT = frozenset(
    {"subrip", "srt", "ass", "ssa", "mov_text", "webvtt", "text", "ttml", "microdvd", "sami", "subviewer"}
)
_BITMAP = frozenset({"hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle"})
_SUBTITLE = {".mp4": "mov_text", ".mov": "mov_text", ".webm": "webvtt", ".mkv": "srt"}
_COPIED_SUBTITLES = {
    ".mp4": frozenset({"mov_text"}),
    ".mov": frozenset({"mov_text"}),
    ".webm": frozenset({"webvtt"}),
    ".mkv": frozenset({"subrip", "ass", "ssa", "webvtt"}) | _BITMAP,
}
# Every layout that the AAC and Opus encoders know; others (5.1 with side speakers) are brought to one of them.
_LAYOUTS = "mono|stereo|3.0|4.0|quad|5.0|5.1|7.1"


def check_container(path: Path, codec: str) -> None:
    """InputError when the extension of ``path`` is none of ours or cannot hold ``codec``."""
    extension = path.suffix.lower()
    if extension not in FORMATS:
        raise InputError(f"{path}: a video is written as {', '.join(FORMATS)}, not {extension or 'without extension'}")
    if extension == ".webm" and codec not in ("av1", "vp9"):
        raise InputError(f"{path}: webm cannot hold {codec}; webm needs --codec av1 or vp9")
    if extension == ".mov" and codec == "vp9":
        raise InputError(f"{path}: mov cannot hold vp9; use .webm, .mkv or .mp4")
    if codec == "prores" and extension not in (".mov", ".mkv"):
        raise InputError(f"{path}: ProRes is written as .mov or .mkv, not {extension}")


def holds_alpha(path: Path, codec: str) -> bool:
    """True if a video of ``codec`` in the container of ``path`` can be transparent."""
    return codec == "prores" or (codec == "vp9" and path.suffix.lower() in (".webm", ".mkv"))


def track_arguments(path: Path, source: MediaInfo, *, cut: bool = False, file_index: int = 1) -> list[str]:
    """FFmpeg arguments that take every track but the video from input ``file_index`` into ``path``.

    ``cut``: the clock of the input may start before 0; sound from before is not wanted.
    What has to be converted or left out is logged.
    """
    extension = path.suffix.lower()
    args: list[str] = []
    for number, track in enumerate(source.audio_streams):
        args += ["-map", f"{file_index}:{track.index}", *_audio(path, number, track, cut)]
    number = 0
    for subtitle in source.subtitle_streams:
        if subtitle.codec in _COPIED_SUBTITLES[extension]:
            codec = "copy"
        elif subtitle.codec in _TEXT:
            codec = _SUBTITLE[extension]
            log.info("%s: subtitles %d are converted from %s to %s", path, subtitle.index, subtitle.codec, codec)
        else:
            what = f"subtitles {subtitle.index} ({subtitle.codec})"
            log.warning("%s: %s are left out, because %s cannot hold them", path, what, extension)
            continue
        args += ["-map", f"{file_index}:{subtitle.index}", f"-c:s:{number}", codec]
        number += 1
    if source.attachments and extension == ".mkv":
        args += ["-map", f"{file_index}:t", "-c:t", "copy"]
    if source.other_videos:
        log.warning("%s: only the first of %d video streams is kept", path, source.other_videos + 1)
    return [*args, "-map_metadata", str(file_index), "-map_chapters", str(file_index)]


def _audio(path: Path, number: int, track: AudioInfo, cut: bool) -> list[str]:
    extension = path.suffix.lower()
    if track.codec in _AUDIO[extension]:
        return [f"-c:a:{number}", "copy"]
    lossless = track.codec.startswith(_LOSSLESS)
    codec, name = ("libopus", "opus") if extension == ".webm" else ("aac", "aac")
    if extension == ".mkv" and lossless:
        codec = name = "flac"
    change = f"audio track {track.index} is converted from {track.codec} to {name}"
    log.warning("%s: %s, which %s can hold", path, change, extension)
    # async fills gaps with silence instead of pulling later sound forward.
    filters = [*(["atrim=start=0"] if cut else []), "aresample=async=1"]
    args = [f"-c:a:{number}", codec, f"-filter:a:{number}"]
    if codec == "flac":
        return [*args, ",".join(filters)]
    args.append(",".join([*filters, f"aformat=channel_layouts={_LAYOUTS}"]))
    each = 96_000 if codec == "aac" else 80_000
    return [*args, f"-b:a:{number}", str(min(each * max(1, track.channels), 512_000))]
