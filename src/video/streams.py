"""Reading what FFmpeg writes about a file: its streams, and the properties of a decoded frame."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction

_STREAM = re.compile(r"^\s{2,}Stream #0:(\d+)(?:\[0x[0-9a-f]+\])?(?:\(([^)]*)\))?: (\w+): (.*)$")
_DURATION = re.compile(r"^\s*Duration: (?:(\d+):(\d+):(\d+(?:\.\d+)?)|N/A)(?:, start: (-?\d+(?:\.\d+)?))?")
_ROTATION = re.compile(r"display ?matrix: rotation of (-?\d+(?:\.\d+)?|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class AudioInfo:
    """One audio track. ``index``: its number in the file. ``start``: seconds, None if unknown."""

    index: int
    codec: str
    channels: int
    rate: int
    start: Fraction | None = None
    language: str | None = None
    layout: str = ""


@dataclass(frozen=True)
class SubtitleInfo:
    """One subtitle track. ``index``: its number in the file."""

    index: int
    codec: str
    language: str | None = None


@dataclass
class Described:
    """What FFmpeg says about a file before it decodes anything."""

    format: str = ""
    duration: Fraction | None = None
    chapters: bool = False
    video_index: int | None = None
    video_line: str = ""
    video_count: int = 0
    video_language: str | None = None
    alpha_mode: bool = False  # WebM's tag: the packets of the video carry transparency beside the picture
    rotation: int = 0
    audio: list[AudioInfo] = field(default_factory=list)
    subtitles: list[SubtitleInfo] = field(default_factory=list)
    attachments: int = 0
    pictures: int = 0


_LAYOUTS = {"mono": 1, "stereo": 2, "downmix": 2, "quad": 4, "hexagonal": 6, "octagonal": 8, "cube": 8}


def channel_count(layout: str) -> int:
    """Channels of a layout as FFmpeg names it: ``stereo``, ``5.1(side)``, ``6 channels``."""
    name = re.sub(r"\(.*\)", "", layout).strip()
    if name in _LAYOUTS:
        return _LAYOUTS[name]
    if match := re.match(r"(\d+) channels", name):
        return int(match[1])
    if re.fullmatch(r"\d+(\.\d+)*", name):
        return sum(int(part) for part in name.split("."))
    return 2


def describe(log_text: str) -> Described:
    """Parse the ``Input #0`` part of FFmpeg's log."""
    found = Described()
    in_input = False
    current = None
    for line in log_text.splitlines():
        if line.startswith("Input #0, "):
            in_input = True
            found.format = line.split(", from ")[0].removeprefix("Input #0, ")
        elif line.startswith(("Stream mapping:", "Output #0", "At least one output")):
            in_input = False
        if not in_input:
            continue
        if match := _STREAM.match(line):
            current = int(match[1])
            _add_stream(found, current, match[2], match[3], match[4])
        elif (match := _DURATION.match(line)) and match[1] and found.duration is None:
            found.duration = (int(match[1]) * 60 + int(match[2])) * 60 + Fraction(match[3])
        elif re.match(r"\s+alpha_mode\s*: 1$", line, re.IGNORECASE) and current == found.video_index:
            found.alpha_mode = current is not None
        elif re.match(r"\s+Chapter #0:\d+: start ", line):
            found.chapters = True
        elif (match := _ROTATION.search(line)) and current is not None and current == found.video_index:
            # FFmpeg counts anticlockwise.
            found.rotation = round(-float(match[1]) / 90) * 90 % 360 if match[1] != "nan" else 0
    return found


def _add_stream(found: Described, index: int, language: str | None, kind: str, rest: str) -> None:
    language = None if language in (None, "und") else language
    words = rest.split(",")
    codec = words[0].split()[0] if words[0].split() else ""
    known = {found.video_index, *(track.index for track in found.audio), *(track.index for track in found.subtitles)}
    if index in known:  # programs of a transport stream list their streams again
        return
    if kind == "Video":
        if "(attached pic)" in rest or "(timed thumbnails)" in rest:
            found.pictures += 1
            return
        found.video_count += 1
        if found.video_index is None:
            found.video_index, found.video_line, found.video_language = index, rest, language
    elif kind == "Audio":
        rate = re.search(r", (\d+) Hz, ([^,]+)", rest)
        layout = rate[2].strip() if rate else ""
        track = AudioInfo(index, codec, channel_count(layout), int(rate[1]) if rate else 0, None, language, layout)
        found.audio.append(track)
    elif kind == "Subtitle":
        found.subtitles.append(SubtitleInfo(index, codec, language))
    elif kind == "Attachment":
        found.attachments += 1


@dataclass(frozen=True)
class Picture:
    """Properties of the first decoded frame, after rotation. ``time``: seconds from the start of the file."""

    width: int
    height: int
    sar: Fraction
    pix_fmt: str
    interlaced: bool
    rate: Fraction
    color_range: str
    matrix: str
    primaries: str
    transfer: str
    chroma_location: str
    time: Fraction | None


def first_picture(log_text: str) -> Picture | None:
    """Parse the showinfo filter's report of the first frame. None when no frame was decoded."""
    frame = re.search(r"\] n: *0 .* fmt:(\w+) .*?sar:(\d+)/(\d+) s:(\d+)x(\d+) i:(.) ", log_text)
    if not frame:
        return None
    location = re.search(r" cl:(\w+) ", frame[0])
    rate = re.search(r"config in time_base: (\d+)/(\d+), frame_rate: (\d+)/(\d+)", log_text)
    pts = re.search(r" pts: *(-?\d+) ", frame[0])
    color = re.search(
        r"color_range:(\S+) color_space:(\S+) color_primaries:(\S+) color_trc:(\S+)", log_text[frame.start() :]
    )
    names = color.groups() if color else ("",) * 4
    values = ["" if name in ("unknown", "reserved", "unspecified") else name for name in names]
    return Picture(
        width=int(frame[4]),
        height=int(frame[5]),
        sar=Fraction(int(frame[2]), int(frame[3])) if int(frame[2]) and int(frame[3]) else Fraction(1),
        pix_fmt=frame[1],
        interlaced=frame[6] in "TB",
        rate=Fraction(int(rate[3]), int(rate[4])) if rate and int(rate[4]) else Fraction(0),
        color_range=values[0],
        matrix=values[1],
        primaries=values[2],
        transfer=values[3],
        chroma_location=location[1] if location else "",
        time=int(pts[1]) * Fraction(int(rate[1]), int(rate[2])) if pts and rate else None,
    )


def bit_depth(pix_fmt: str) -> int:
    """Bits per channel of an FFmpeg pixel format: yuv420p10le -> 10, p010le -> 10, rgb48le -> 16."""
    name = re.sub(r"(le|be)$", "", pix_fmt)
    if "f32" in name or "f16" in name:
        return 16
    if re.match(r"(rgb|bgr)48|(rgba|bgra|ayuv)64", name):
        return 16
    if re.match(r"(rgb|bgr)(444|555|565)|(rgb|bgr)[48]|nv\d\d$|monow|monob|pal8", name):
        return 10 if name.startswith("nv20") else 8
    match = re.search(r"(?:x2rgb|x2bgr|xv\d|y2|p[024]|p|gray|xyz|ya)(9|10|12|14|16)$", name)
    return int(match[1]) if match else 8


def has_alpha(pix_fmt: str) -> bool:
    """True for pixel formats with an alpha channel."""
    return bool(re.match(r"yuva|gbrap|(rgba|bgra|argb|abgr|ayuv)|ya\d", pix_fmt))


def is_rgb(pix_fmt: str) -> bool:
    """True for pixel formats that hold RGB."""
    return bool(re.match(r"(x2)?(rgb|bgr)|gbr|argb|abgr|0rgb|0bgr|pal8|mono|bayer", pix_fmt))


def first_rate_claim(video_line: str) -> Fraction | None:
    """The stream line's own (rounded) ``tbr``, brought back to the exact broadcast rate it stands for."""
    match = re.search(r", (\d+(?:\.\d+)?)(k?) tbr", video_line)
    if not match:
        return None
    value = Fraction(match[1]) * (1000 if match[2] else 1)
    whole = round(value)
    for exact in (Fraction(whole), Fraction(-(-value // 1) * 1000, 1001)):
        if exact and abs(exact - value) < Fraction(6, 1000):
            return exact
    return value or None
