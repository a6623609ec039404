"""Finding out what a media file is, exactly: size as displayed, rational frame rate, colours, tracks."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from src.errors import InputError, VideoError
from src.video import ffmpeg
from src.video.streams import (
    AudioInfo,
    Described,
    Picture,
    SubtitleInfo,
    bit_depth,
    describe,
    first_picture,
    first_rate_claim,
    has_alpha,
    is_rgb,
)
from src.video.timing import Timing, analyse

log = logging.getLogger(__name__)

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})
_PROBE_TIMEOUT = 120.0
_SCAN_TIMEOUT = 1800.0
# Reading every packet of a larger file just to count them takes too long before anything is seen to happen.
_SCAN_BYTES = 16 * 2**30
_SCAN_SECONDS = 300
_NO_TIME = -(2**63)  # FFmpeg's mark of an unknown timestamp
_TEXT_CODECS = frozenset({"ansi", "bintext", "xbin", "idf"})
_LOOSE_FORMATS = frozenset(
    {"mpegts", "mpegtsraw", "mpeg", "flv", "asf", "ogg", "rm", "hls", "dash", "wtv"}
    | {"h264", "hevc", "m4v", "mpegvideo", "obu"}
)
_MATRICES = {
    **dict.fromkeys(("bt470bg", "smpte170m"), "bt601"),
    "bt709": "bt709",
    **dict.fromkeys(("bt2020nc", "bt2020c"), "bt2020"),
    "fcc": "fcc",
    "smpte240m": "smpte240m",
}
_DAMAGE = re.compile(
    r"partial file|truncat|invalid data|corrupt|error (reading|during)|ended prematurely", re.IGNORECASE
)


@dataclass(frozen=True)
class MediaInfo:
    """A video file.

    ``width``, ``height``: as displayed and as delivered (rotated, square pixels). ``coded_width``,
    ``coded_height``: as stored. ``rotation``: degrees clockwise to turn the stored picture.
    ``sar``: pixel aspect ratio after rotation. ``fps``: exact constant rate of the delivered frames.
    ``frames``: how many will be delivered for the whole clip, None if unknown. ``first``,
    ``duration``: of the video stream in seconds; times count from the start of the file.
    ``color_range``: "tv" (limited) or "pc" (full). ``primaries``, ``transfer``: FFmpeg's names, ""
    if untagged. ``tagged``: the file itself names its matrix. ``hdr``: PQ or HLG transfer.
    ``alpha``: the video has transparency, in its pixels or, as in WebM, beside them.
    ``damage``: what FFmpeg complained about while the file was read through, "" if nothing.
    ``stamps``: time of every frame, for variable rates only.
    """

    path: Path
    width: int
    height: int
    coded_width: int
    coded_height: int
    rotation: int
    sar: Fraction
    fps: Fraction
    frames: int | None
    first: Fraction
    duration: Fraction
    variable_rate: bool
    format: str
    codec: str
    pix_fmt: str
    bit_depth: int
    color_matrix: str
    color_range: str
    primaries: str
    transfer: str
    tagged: bool
    interlaced: bool
    hdr: bool
    chroma_location: str
    video_index: int
    language: str | None
    other_videos: int
    audio_streams: tuple[AudioInfo, ...]
    subtitle_streams: tuple[SubtitleInfo, ...]
    attachments: int
    has_chapters: bool
    alpha: bool = False
    damage: str = ""
    stamps: tuple[Fraction, ...] = field(default=(), repr=False, compare=False)


def loose_format(name: str) -> bool:
    """True for formats without an index, or with a clock that starts at the first stream in use.

    A seek may land behind the key frame that is needed there.
    """
    return name.split(",")[0] in _LOOSE_FORMATS


def is_picture(path: Path) -> bool:
    """True for a file name of a still picture."""
    return Path(path).suffix.lower() in PICTURE_SUFFIXES


def probe(path: Path) -> MediaInfo:
    """Everything about the video file ``path``. InputError when it is none, or cannot be read."""
    path = Path(path)
    _check_file(path)
    args = [*ffmpeg.input_args(path), "-map", "0:V:0", "-vf", "showinfo", "-frames:v", "1", "-f", "framecrc", "-"]
    done = ffmpeg.run(args, _PROBE_TIMEOUT)
    log_text = ffmpeg.text(done.stderr)
    described = describe(log_text)
    picture = first_picture(log_text)
    if picture is None or described.video_index is None:
        raise _not_a_video(path, described, log_text)
    codec = described.video_line.split()[0].rstrip(",")
    if codec in _TEXT_CODECS:
        raise InputError(f"{path} is a text file, not a video")
    timing, damage, starts = _scan(path, described, picture)
    matrix, color_range, tagged = _colors(path, picture)
    width, height = square_size(picture.width, picture.height, _sane_aspect(path, picture.sar))
    coded = re.search(r", (\d+)x(\d+)\b", described.video_line)
    turned = described.rotation in (90, 270)
    size = (picture.height, picture.width) if turned else (picture.width, picture.height)
    return MediaInfo(
        path=path,
        width=width,
        height=height,
        coded_width=int(coded[1]) if coded else size[0],
        coded_height=int(coded[2]) if coded else size[1],
        rotation=described.rotation,
        sar=_sane_aspect(path, picture.sar),
        fps=timing.fps,
        frames=timing.frames or None,
        first=timing.first,
        duration=timing.duration,
        variable_rate=timing.variable,
        format=described.format,
        codec=codec,
        pix_fmt=picture.pix_fmt,
        bit_depth=bit_depth(picture.pix_fmt),
        color_matrix=matrix,
        color_range=color_range,
        primaries=picture.primaries,
        transfer=picture.transfer,
        tagged=tagged,
        # Interlaced fields of a turned picture are columns, which no deinterlacer understands.
        interlaced=picture.interlaced and not turned,
        hdr=picture.transfer in ("smpte2084", "arib-std-b67"),
        chroma_location=_chroma_location(codec, picture.chroma_location),
        video_index=described.video_index,
        language=described.video_language,
        other_videos=described.video_count - 1,
        audio_streams=tuple(dataclasses.replace(track, start=starts.get(track.index)) for track in described.audio),
        subtitle_streams=tuple(described.subtitles),
        attachments=described.attachments,
        has_chapters=described.chapters,
        alpha=has_alpha(picture.pix_fmt) or (described.alpha_mode and codec in ffmpeg.ALPHA_DECODERS),
        damage=damage,
        stamps=timing.stamps,
    )


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder, not a video file")
        if not path.exists():
            raise InputError(f"{path} does not exist")
        with path.open("rb") as file:
            if not file.read(1):
                raise InputError(f"{path} is empty (0 bytes)")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _not_a_video(path: Path, described: Described, log_text: str) -> InputError:
    why = ffmpeg.reason(log_text.splitlines())
    if "moov atom not found" in log_text and _is_mp4(path):
        return InputError(f"{path} is incomplete: its index (moov atom) is missing; copy or download it again")
    if described.video_index is None:
        if described.audio:
            return InputError(f"{path} has sound but no video")
        if described.format:
            return InputError(f"{path} has no video stream")
        return InputError(f"{path} is not a video that FFmpeg can read: {why}")
    codec = described.video_line.split()[0].rstrip(",")
    return InputError(f"{path}: no frame of its {codec} video can be decoded: {why}")


def _is_mp4(path: Path) -> bool:
    """True when the file begins as MP4 files do. FFmpeg believes the extension and then misses the index."""
    with path.open("rb") as file:
        return file.read(8)[4:] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")


def _scan(path: Path, described: Described, picture: Picture) -> tuple[Timing, str, dict[int, Fraction]]:
    """Rate and length from the packets' own times, signs of damage, and where each audio track starts."""
    try:
        whole = path.stat().st_size <= _SCAN_BYTES
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    limit = [] if whole else ["-t", str(_SCAN_SECONDS)]
    indices = [described.video_index, *(track.index for track in described.audio)]
    maps = [word for index in indices for word in ("-map", f"0:{index}")]
    args = ["-loglevel", "warning", *limit, *ffmpeg.input_args(path), *maps, "-c", "copy", "-f", "framecrc", "-"]
    done = ffmpeg.run(args, _SCAN_TIMEOUT)
    bases, packets = _parse_packets(ffmpeg.text(done.stdout))
    if not packets.get(0):
        why = ffmpeg.reason(ffmpeg.text(done.stderr).splitlines())
        raise VideoError(f"{path}: FFmpeg found no video packets: {why}")
    damage = [line for line in ffmpeg.text(done.stderr).splitlines() if _DAMAGE.search(line)]
    ticks, last, count, decoding = _video_ticks(packets[0])
    first = _first_time(path, described) if decoding and ticks else None
    if first is not None:
        # Decoding times run ahead of the presentation by a constant, which the first frame tells.
        ahead = round(first / bases[0]) - min(ticks)
        ticks = [tick + ahead for tick in ticks]
    claim = first_rate_claim(described.video_line)
    hints = [picture.rate, *([claim] if claim else [])]
    # Containers without presentation times are of constant rate, whatever jumps their times make.
    timing = analyse(ticks, last, bases[0], hints, count, 2.0 if decoding else 0.5)
    if not whole and described.duration:
        log.info("%s is large: its rate is taken from its first %d s", path, _SCAN_SECONDS)
        timing = dataclasses.replace(timing, frames=0, duration=described.duration - timing.first, stamps=())
    starts = {}
    for output, index in enumerate(indices):
        times = [pts for pts, _, _, _ in packets.get(output, ()) if pts is not None]
        if output and index is not None and times:
            starts[index] = min(times) * bases[output]
    return timing, ffmpeg.reason(damage, 1) if damage or done.returncode else "", starts


def _first_time(path: Path, described: Described) -> Fraction | None:
    """When the first decoded frame is shown, on the clock of the file. None if unknown."""
    args = [*ffmpeg.input_args(path), "-map", "0:V:0", "-vf", "showinfo", "-frames:v", "1", "-f", "null", "-"]
    clock = ffmpeg.keep_clock("0:a?", described.audio and loose_format(described.format))
    picture = first_picture(ffmpeg.text(ffmpeg.run([*args, *clock], _PROBE_TIMEOUT).stderr))
    return None if picture is None else picture.time


_Packet = tuple[int | None, int | None, int, int]  # pts, dts, duration, flags


def _parse_packets(crc_text: str) -> tuple[dict[int, Fraction], dict[int, list[_Packet]]]:
    """Time bases and packets per output stream of a framecrc listing."""
    bases: dict[int, Fraction] = {}
    packets: dict[int, list[_Packet]] = {}
    for line in crc_text.splitlines():
        if line.startswith("#tb "):
            number, base = line[4:].split(": ")
            bases[int(number)] = Fraction(base)
        elif line and not line.startswith("#"):
            words = [word.strip() for word in line.split(",")]
            if len(words) < 6 or not words[0].isdigit():
                continue
            flags = next((int(word[2:], 16) for word in words[6:] if word.startswith("F=0x")), 1)
            packet = (_int(words[2]), _int(words[1]), _int(words[3]) or 0, flags)
            packets.setdefault(int(words[0]), []).append(packet)
    return bases, packets


def _int(word: str) -> int | None:
    return int(word) if re.fullmatch(r"-?\d+", word) and int(word) != _NO_TIME else None


def _video_ticks(packets: Sequence[_Packet]) -> tuple[list[int], int, int, bool]:
    """Presentation times of the frames that will be shown, the last one's duration, their number.

    And True when only decoding times are known, as in old containers.
    """
    shown = [packet for packet in packets if not packet[3] & 4]  # 4: outside the edit list, decoded but dropped
    shown = shown or list(packets)
    times = [packet[0] for packet in shown]
    decoding = None in times
    if decoding:
        times = [packet[1] for packet in shown]
    known = [time for time in times if time is not None]
    if len(known) != len(shown):
        return [], 0, len(shown), decoding
    last = max(range(len(known)), key=known.__getitem__)
    return known, shown[last][2], len(shown), decoding


def _colors(path: Path, picture: Picture) -> tuple[str, str, bool]:
    """Matrix, range and whether the file names the matrix itself."""
    full = picture.pix_fmt.startswith(("yuvj", "gray")) or is_rgb(picture.pix_fmt)
    color_range = picture.color_range if picture.color_range in ("tv", "pc") else "pc" if full else "tv"
    if is_rgb(picture.pix_fmt):
        return "rgb", "pc", True
    guess = "bt709" if picture.width >= 1280 or picture.height >= 720 else "bt601"
    if picture.matrix and picture.matrix not in _MATRICES:
        log.warning("%s: colour matrix %s is not supported; %s is assumed", path, picture.matrix, guess)
    matrix = _MATRICES.get(picture.matrix)
    return matrix or guess, color_range, matrix is not None


def _chroma_location(codec: str, tag: str) -> str:
    if tag in ("left", "center", "topleft"):
        return tag
    return "center" if codec in ("mjpeg", "mpeg1video") else "left"


def _sane_aspect(path: Path, sar: Fraction) -> Fraction:
    if Fraction(1, 8) <= sar <= 8:
        return sar
    log.warning("%s: its pixel aspect ratio %s is absurd; square pixels are assumed", path, sar)
    return Fraction(1)


def square_size(width: int, height: int, sar: Fraction) -> tuple[int, int]:
    """Size with square pixels. The narrower side grows, to an even number, so that no detail is lost."""
    if sar > 1:
        return max(2, round(width * sar / 2) * 2), height
    if sar < 1:
        return width, max(2, round(height / sar / 2) * 2)
    return width, height
