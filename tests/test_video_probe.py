"""What probe() finds out: exact rates, sizes as displayed, colours, tracks; and what it refuses."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pytest

from src.errors import InputError, VideoError
from src.video import ffmpeg as ffmpeg_module
from src.video.probe import is_picture, probe, square_size
from src.video.streams import bit_depth, channel_count, describe, first_rate_claim
from src.video.timing import analyse
from tests.video_helpers import SAMPLE, counter_clip, ffmpeg


def test_sample_clip():
    info = probe(SAMPLE)
    assert (info.width, info.height, info.coded_width, info.coded_height) == (320, 180, 320, 180)
    assert (info.fps, info.frames, info.duration, info.first) == (25, 50, 2, 0)
    assert (info.codec, info.pix_fmt, info.bit_depth) == ("h264", "yuv420p", 8)
    assert (info.rotation, info.sar, info.variable_rate, info.interlaced, info.hdr) == (0, 1, False, False, False)
    assert (info.color_matrix, info.color_range, info.tagged) == ("bt601", "tv", False)
    assert [(track.codec, track.channels, track.rate) for track in info.audio_streams] == [("aac", 2, 48000)]
    assert info.subtitle_streams == ()
    assert not info.has_chapters
    assert info.damage == ""


@pytest.mark.parametrize("rate", ["24000/1001", "30000/1001", "25", "60", "25/2"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_exact_rate_and_count(tmp_path, rate, suffix):
    info = probe(counter_clip(tmp_path / f"a{suffix}", 31, rate))
    assert info.fps == Fraction(rate)
    assert info.frames == 31
    assert info.duration == 31 / Fraction(rate)
    assert not info.variable_rate


@pytest.mark.parametrize("suffix", [".ts", ".avi", ".webm", ".flv"])
def test_other_containers(tmp_path, suffix):
    codec = ["-c:v", "libvpx-vp9"] if suffix == ".webm" else ["-c:v", "mpeg4"] if suffix == ".avi" else []
    rate = "24" if suffix == ".flv" else "24000/1001"
    info = probe(counter_clip(tmp_path / f"a{suffix}", 30, rate, *codec))
    assert (info.fps, info.frames, info.variable_rate) == (Fraction(rate), 30, False)


@pytest.mark.parametrize("frames", [1, 2])
def test_very_short_clips(tmp_path, frames):
    info = probe(counter_clip(tmp_path / "a.mp4", frames, "30000/1001"))
    assert (info.frames, info.fps) == (frames, Fraction(30000, 1001))


def test_hour_long_ntsc_clip_is_not_mistaken_for_24():
    base = Fraction(1, 1000)
    for exact in (Fraction(24000, 1001), Fraction(24)):
        ticks = [round(n / exact / base) for n in range(86_400)]
        timing = analyse(ticks, 42, base, [Fraction(24)], len(ticks))  # the file claims 24 either way
        assert (timing.fps, timing.variable) == (exact, False)


def test_one_dropped_frame_makes_the_rate_variable_but_keeps_it():
    ticks = [n * 40 for n in range(200) if n != 77]
    timing = analyse(ticks, 40, Fraction(1, 1000), [Fraction(25)], len(ticks))
    assert (timing.fps, timing.variable, timing.frames) == (25, True, 200)


def test_jittery_phone_clip_gets_the_rate_that_keeps_its_frames():
    ticks, time = [], 0
    for n in range(300):
        ticks.append(time)
        time += 33 + (n * 7 % 5) + (40 if n % 50 == 49 else 0)
    timing = analyse(ticks, 33, Fraction(1, 1000), [Fraction(90000)], len(ticks))
    assert timing.variable
    assert timing.fps in (Fraction(30000, 1001), 30)
    assert abs(timing.frames / timing.fps - timing.duration) < Fraction(1, 30)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotation(tmp_path, turn):
    clip = counter_clip(tmp_path / "a.mp4", 3, 25)
    ffmpeg("-display_rotation", (360 - turn) % 360, "-i", clip, "-c", "copy", tmp_path / "r.mp4")
    info = probe(tmp_path / "r.mp4")
    assert info.rotation == turn
    assert (info.coded_width, info.coded_height) == (64, 48)
    assert (info.width, info.height) == ((48, 64) if turn != 180 else (64, 48))


@pytest.mark.parametrize(
    ("sar", "size"), [("16/15", (768, 576)), ("64/45", (1024, 576)), ("8/9", (720, 648)), ("1", (720, 576))]
)
def test_square_pixels(tmp_path, sar, size):
    clip = counter_clip(tmp_path / "a.mkv", 2, 25, size="720x576", filters=f"setsar={sar}")
    info = probe(clip)
    assert (info.width, info.height) == size == square_size(720, 576, Fraction(sar))
    assert info.sar == Fraction(sar)
    assert (info.coded_width, info.coded_height) == (720, 576)


@pytest.mark.parametrize(
    ("size", "tags", "expected"),
    [
        ("64x48", "", ("bt601", "tv", False)),
        ("1280x32", "", ("bt709", "tv", False)),
        ("32x720", "", ("bt709", "tv", False)),
        ("64x48", "setparams=colorspace=bt709:range=pc", ("bt709", "pc", True)),
        ("64x48", "setparams=colorspace=bt470bg:range=tv", ("bt601", "tv", True)),
        ("64x48", "setparams=colorspace=bt2020nc:color_trc=bt2020-10", ("bt2020", "tv", True)),
    ],
)
def test_colors(tmp_path, size, tags, expected):
    info = probe(counter_clip(tmp_path / "a.mkv", 2, 25, size=size, filters=tags))
    assert (info.color_matrix, info.color_range, info.tagged) == expected
    assert not info.hdr


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_is_seen(tmp_path, transfer):
    tags = f"format=yuv420p10le,setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}"
    info = probe(counter_clip(tmp_path / "a.mkv", 2, 25, filters=tags))
    assert (info.hdr, info.transfer, info.bit_depth, info.color_matrix) == (True, transfer, 10, "bt2020")


def test_rgb_and_full_range_sources(tmp_path):
    rgb = tmp_path / "a.mkv"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=64x48:d=0.2,format=gbrp", "-c:v", "ffv1", rgb)
    assert (probe(rgb).color_matrix, probe(rgb).color_range, probe(rgb).tagged) == ("rgb", "pc", True)
    jpeg = tmp_path / "a.avi"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=64x48:d=0.2,format=yuvj420p", "-c:v", "mjpeg", jpeg)
    assert probe(jpeg).color_range == "pc"


def test_interlaced(tmp_path):
    clip = counter_clip(tmp_path / "a.mkv", 4, 25, "-x264opts", "tff=1", filters="setfield=tff")
    assert probe(clip).interlaced


def test_tracks(tmp_path):
    (tmp_path / "s.srt").write_text("1\n00:00:00,100 --> 00:00:00,900\nHello\n", encoding="utf-8")
    chapters = ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=500\ntitle=One\n"
    (tmp_path / "c.txt").write_text(chapters, encoding="utf-8")
    out = tmp_path / "a.mkv"
    ffmpeg(
        *("-f", "lavfi", "-i", "color=s=64x48:d=1", "-f", "lavfi", "-i", "sine=d=1:r=44100"),
        *("-i", tmp_path / "s.srt", "-i", tmp_path / "c.txt", "-map", 0, "-map", 1, "-map", 1, "-map", 2),
        *("-map_metadata", 3, "-metadata:s:a:1", "language=fra"),
        *("-c:s", "srt", "-c:a:0", "aac", "-c:a:1", "ac3", "-ac:a:1", 6, out),
    )
    info = probe(out)
    found = [(track.codec, track.channels, track.rate, track.language) for track in info.audio_streams]
    assert found == [("aac", 1, 44100, None), ("ac3", 6, 44100, "fra")]
    assert [track.codec for track in info.subtitle_streams] == ["subrip"]
    assert info.has_chapters


def test_cover_art_is_not_the_video(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "color=red:s=200x200:d=0.04", "-frames:v", 1, tmp_path / "c.png")
    clip = counter_clip(tmp_path / "a.mp4", 5, 25)
    with_cover = tmp_path / "b.mp4"
    cover = ("-map", 1, "-map", 0, "-c", "copy", "-disposition:v:0", "attached_pic")
    ffmpeg("-i", clip, "-i", tmp_path / "c.png", *cover, with_cover)
    info = probe(with_cover)
    assert (info.width, info.height, info.frames) == (64, 48, 5)


def _bad_file(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "x.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("Dear diary,\n" * 200, encoding="utf-8")
    elif kind == "txt":
        path = tmp_path / "x.txt"
        path.write_text("Dear diary,\n" * 200, encoding="utf-8")
    elif kind == "no index":
        path.write_bytes(counter_clip(tmp_path / "full.mp4", 20, 25).read_bytes()[:600])
    elif kind == "audio":
        ffmpeg("-f", "lavfi", "-i", "sine=d=0.5", "-c:a", "aac", path)
    elif kind == "noise":
        data = bytearray(counter_clip(tmp_path / "full.mkv", 3, 25).read_bytes())
        start = data.index(b"\x1f\x43\xb6\x75") + 20  # the cluster: everything that is picture
        data[start:] = bytes((n * 37 + 11) % 251 for n in range(len(data) - start))
        path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("empty", r"is empty \(0 bytes\)"),
        ("text", "not a video that FFmpeg can read"),
        ("txt", "text file|not a video"),
        ("no index", "moov atom"),
        ("audio", "sound but no video"),
        ("noise", "no frame of its h264 video can be decoded"),
    ],
)
def test_bad_inputs_are_named(tmp_path, kind, message):
    path = _bad_file(tmp_path, kind)
    with pytest.raises(InputError, match=message) as caught:
        probe(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        *(("yuv420p", 8), ("yuvj444p", 8), ("yuv420p10le", 10), ("p010le", 10), ("yuv444p12le", 12), ("gray16le", 16)),
        *(("yuv411p", 8), ("x2rgb10le", 10), ("yuv410p", 8), ("uyvy422", 8), ("gray", 8)),
        *(("rgb24", 8), ("rgb48be", 16), ("gbrp10le", 10), ("gbrpf32le", 16), ("nv12", 8), ("pal8", 8)),
        *(("yuva444p10le", 10), ("rgb565le", 8), ("y210le", 10)),
        *(("nv16", 8), ("nv24", 8), ("nv20le", 10), ("gbrap16le", 16), ("rgba64le", 16), ("rgb8", 8)),
    ],
)
def test_bit_depths(name, bits):
    assert bit_depth(name) == bits


def test_layouts_and_claims():
    names = ("mono", "stereo", "5.1(side)", "7.1", "3 channels", "2.1")
    assert [channel_count(name) for name in names] == [1, 2, 6, 8, 3, 3]
    lines = (", 23.98 tbr,", ", 29.97 tbr,", ", 25 tbr,", ", 59.94 tbr,", ", 12.50 tbr,", ", 90k tbr,")
    rates = [first_rate_claim("h264" + line) for line in lines]
    expected = ["24000/1001", "30000/1001", "25", "60000/1001", "25/2", "90000"]
    assert rates == [Fraction(rate) for rate in expected]


def test_metadata_cannot_pose_as_a_stream():
    text = (
        "Input #0, matroska,webm, from 'file:x':\n"
        "  Metadata:\n    title           : Stream #0:7: Audio: evil, 1 Hz, mono\n"
        "  Duration: 01:02:03.50, start: 0.100000, bitrate: 9 kb/s\n"
        "  Stream #0:0(eng): Video: h264 (High), yuv420p, 64x48, 25 fps\nStream mapping:\n"
        "  Stream #0:1: Audio: aac, 1 Hz, mono\n"
    )
    found = describe(text)
    assert found.audio == []
    assert (found.video_index, found.video_language, found.duration) == (0, "eng", Fraction("3723.5"))


def test_is_picture():
    assert is_picture(Path("a.PNG"))
    assert is_picture(Path("b.tiff"))
    assert not is_picture(Path("c.mp4"))


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_a_crash_of_ffmpeg_is_said(tmp_path, monkeypatch):
    fake = tmp_path / "ffmpeg"
    fake.write_text("#!/bin/sh\nkill -SEGV $$\n", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setattr(ffmpeg_module, "exe", lambda: str(fake))
    with pytest.raises(VideoError, match=r"crashed on .*bbb_320x180"):
        probe(SAMPLE)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_a_hanging_ffmpeg_is_stopped(tmp_path, monkeypatch):
    fake = tmp_path / "ffmpeg"
    fake.write_text("#!/bin/sh\nexec sleep 30\n", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setattr(ffmpeg_module, "exe", lambda: str(fake))
    with pytest.raises(VideoError, match=r"longer than 0\.3 s"):
        ffmpeg_module.run(["-version"], 0.3)


def test_missing_ffmpeg_is_said(monkeypatch):
    ffmpeg_module.exe.cache_clear()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(SAMPLE.parent / "no-ffmpeg-here"))
    try:
        with pytest.raises(VideoError, match=r"cannot be started|no FFmpeg"):
            probe(SAMPLE)
    finally:
        ffmpeg_module.exe.cache_clear()
