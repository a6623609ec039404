"""Videos as they are written: frames, sound, tracks and tags; and files that appear whole or not at all."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from src.errors import InputError, OutputExistsError, VideoError
from src.video.probe import probe
from src.video.reader import VideoReader
from src.video.writer import VideoWriter
from tests.video_helpers import SAMPLE, audio, counter_clip, describe, ffmpeg, numbers, stream_lines, video_packets


def write(path, source=None, frames=10, size=(64, 48), fps=25, **options):
    """Write counter frames; with a source, its own frames."""
    if source is None:
        with VideoWriter(path, *size, Fraction(fps), **options) as writer:
            for n in range(frames):
                writer.write(np.full((size[1], size[0], 3), 10 + 4 * n, np.uint8))
        return writer
    trim = {key: options.get(key) for key in ("start", "end")}
    with (
        VideoReader(probe(source), **trim) as reader,
        VideoWriter(path, reader.width, reader.height, reader.fps, source=reader.info, **options) as writer,
    ):
        for frame in reader:
            writer.write(frame)
    return writer


def left_over(folder: Path) -> list[str]:
    return [item.name for item in folder.iterdir() if "partial" in item.name]


@pytest.mark.parametrize("rate", ["24000/1001", "30000/1001", "25", "60", "25/2"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_rate_and_count_survive(tmp_path, rate, suffix):
    out = tmp_path / f"o{suffix}"
    write(out, frames=31, fps=rate)
    info = probe(out)
    assert (info.fps, info.frames, info.first) == (Fraction(rate), 31, 0)
    assert numbers(list(VideoReader(info)), step=219 / 255 * 4) == pytest.approx([n + 2.5 for n in range(31)], abs=0.6)


@pytest.mark.parametrize("frames", [1, 2])
def test_very_short_videos(tmp_path, frames):
    write(tmp_path / "o.mp4", frames=frames)
    assert probe(tmp_path / "o.mp4").frames == frames


@pytest.mark.parametrize(("codec", "suffix", "name"), [
    ("h264", ".mp4", "h264"), ("h264", ".mkv", "h264"), ("hevc", ".mp4", "hvc1"), ("hevc", ".mkv", "hevc"),
    ("av1", ".mp4", "av1"), ("av1", ".webm", "av1"), ("av1", ".mkv", "av1"),
])  # fmt: skip
def test_codecs_and_color_tags(tmp_path, codec, suffix, name):
    out = tmp_path / f"o{suffix}"
    write(out, frames=3, codec=codec)
    line = stream_lines(out, "Video")[0]
    assert name in line
    assert re.search(r"yuv420p\(tv, bt709(,|/bt709/bt709)", line), line
    info = probe(out)
    assert (info.color_matrix, info.color_range, info.primaries, info.transfer) == ("bt709", "tv", "bt709", "bt709")
    assert info.tagged


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_quality_orders_sizes(tmp_path, codec):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 64, 64, 3), np.uint8)
    sizes = []
    for quality in (1, 5, 10):
        out = tmp_path / f"{quality}.mp4"
        with VideoWriter(out, 64, 64, Fraction(25), codec=codec, quality=quality) as writer:
            for frame in frames:
                writer.write(frame)
        sizes.append(out.stat().st_size)
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("size", [(321, 179), (1, 1), (3, 2), (2, 3), (64, 47), (2, 2)])
@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_odd_and_tiny_sizes_are_exact(tmp_path, size, codec):
    out = tmp_path / "o.mp4"
    color = np.array((200, 100, 50))
    with VideoWriter(out, *size, Fraction(25), codec=codec, quality=10) as writer:
        for _ in range(2):
            writer.write(np.broadcast_to(color.astype(np.uint8), (size[1], size[0], 3)))
    with VideoReader(probe(out)) as reader:
        frames = list(reader)
    assert [frame.shape for frame in frames] == [(size[1], size[0], 3)] * 2
    assert np.abs(frames[0] - color).max() <= 2


def test_hevc_sizes(tmp_path):
    write(tmp_path / "o.mp4", frames=2, size=(321, 179), codec="hevc")
    assert (probe(tmp_path / "o.mp4").width, probe(tmp_path / "o.mp4").height) == (321, 179)
    with pytest.raises(InputError, match="hevc needs at least 16"):
        VideoWriter(tmp_path / "s.mp4", 8, 8, Fraction(25), codec="hevc")


def test_deep_frames(tmp_path):
    out = tmp_path / "o.mkv"
    with VideoWriter(out, 64, 64, Fraction(25), codec="hevc", bit_depth=10, quality=10) as writer:
        writer.write(np.full((64, 64, 3), 40_000, np.uint16))
        writer.write(np.full((64, 64, 3), 128, np.uint8))
    assert "yuv420p10le" in stream_lines(out, "Video")[0]
    first, second = VideoReader(probe(out))
    assert np.abs(first.astype(int) - 40_000).max() < 160
    assert np.abs(second.astype(int) - 128 * 257).max() < 160
    with VideoWriter(tmp_path / "o.mp4", 64, 64, Fraction(25)) as writer:
        writer.write(np.full((64, 64, 3), 128 * 257, np.uint16))
    assert np.abs(next(iter(VideoReader(probe(tmp_path / "o.mp4")))).astype(int) - 128).max() <= 1


def test_audio_is_copied_and_nothing_is_cut(tmp_path):
    out = tmp_path / "o.mp4"
    write(out, SAMPLE)
    packets = [ffmpeg("-i", path, "-map", "0:a", "-c", "copy", "-f", "data", "-").stdout for path in (SAMPLE, out)]
    assert packets[0] == packets[1]
    assert len(packets[0]) > 1000
    info = probe(out)
    assert (info.frames, info.fps, info.duration) == (50, 25, 2)
    assert out.read_bytes().index(b"moov") < out.read_bytes().index(b"mdat")  # faststart


def flash_clip(path: Path, *extra: object, rate="25", video_delay=0.0, audio_delay=0.0) -> Path:
    """White flash and loud tone together at 1.0..1.1 s and 2.0..2.1 s, of 3 s."""
    ffmpeg(
        *("-itsoffset", video_delay, "-f", "lavfi", "-i"),
        f"color=black:s=64x48:r={rate}:d={3 - video_delay},geq=lum='235*between(mod(T+{video_delay}+0.001,1),0,0.1)"
        f"*gte(T+{video_delay},0.5)':cb=128:cr=128",
        *("-itsoffset", audio_delay, "-f", "lavfi", "-i"),
        f"aevalsrc='0.5*sin(2000*t)*between(mod(t+{audio_delay},1),0,0.1)*gte(t+{audio_delay},0.5)'"
        f":s=48000:d={3 - audio_delay}",
        *("-c:v", "libx264", "-qp", 10, "-g", 12, *(extra or ("-c:a", "aac")), path),
    )
    return path


def sync(path: Path) -> list[float]:
    """For every flash, how much later than it the tone starts, in seconds."""
    info = probe(path)
    bright = [frame.mean() > 100 for frame in VideoReader(info)]
    flashes = [
        float(info.first + n / info.fps) for n in range(len(bright)) if bright[n] and (n == 0 or not bright[n - 1])
    ]
    loud = np.abs(audio(path, rate=8000)) > 0.1
    starts = [n / 8000 for n in np.flatnonzero(loud) if not loud[max(0, n - 400) : n].any()]
    assert len(flashes) == len(starts) > 0, (flashes, starts)
    return [tone - flash for flash, tone in zip(flashes, starts, strict=True)]


SOURCES = {
    "plain": {},
    "late video": {"video_delay": 0.3},
    "late audio": {"audio_delay": 0.37},
    "ntsc late video": {"video_delay": 0.25, "rate": "24000/1001"},
}


@pytest.fixture(scope="module")
def flashes(tmp_path_factory):
    """Makes a flash clip of SOURCES once; returns it with how far apart its flashes and tones are."""
    made: dict[tuple[str, str], tuple[Path, list[float]]] = {}
    folder = tmp_path_factory.mktemp("flashes")

    def make(name, suffix):
        if (name, suffix) not in made:
            path = flash_clip(folder / f"{len(made)}{suffix}", **SOURCES[name])
            made[name, suffix] = path, sync(path)
        return made[name, suffix]

    return make


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("name", list(SOURCES))
def test_sound_stays_in_sync(tmp_path, flashes, suffix, name):
    source, before = flashes(name, suffix)
    assert max(map(abs, before)) < 0.06
    out = tmp_path / ("o.mkv" if suffix == ".mp4" else "o.mp4")
    write(out, source)
    after = sync(out)
    assert len(after) == len(before)
    assert max(abs(a - b) for a, b in zip(after, before, strict=True)) < 0.012


@pytest.mark.parametrize(("start", "end"), [(None, None), ("0.71", "2.53"), ("0.1", "1.5")])
@pytest.mark.parametrize("name", ["plain", "late video"])
def test_converted_sound_stays_in_sync(tmp_path, flashes, name, start, end):
    source, before = flashes(name, ".mkv")
    pcm = tmp_path / "pcm.mkv"
    ffmpeg("-i", source, "-map", 0, "-c:v", "copy", "-c:a", "pcm_s16le", pcm)
    out = tmp_path / "o.mp4"
    write(out, pcm, start=Fraction(start) if start else None, end=Fraction(end) if end else None)
    assert probe(out).audio_streams[0].codec == "aac"
    assert max(abs(a - b) for a, b in zip(sync(out), before, strict=False)) < 0.012
    wanted = float(Fraction(end or 3) - Fraction(start or 0))
    assert abs(len(audio(out)) / 8000 - wanted) < 0.07


@pytest.mark.parametrize("name", ["plain", "late video"])
@pytest.mark.parametrize(
    ("suffix", "start", "end"),
    [
        *((".mp4", "0.7", None), (".mp4", "0.71", "2.53"), (".mp4", None, "1.5"), (".mp4", "0.1", "1.5")),
        *((".mkv", "0.71", "2.53"), (".ts", "0.71", "2.53"), (".ts", "0.1", "1.5")),
    ],
)
def test_trimmed_sound_stays_in_sync(tmp_path, flashes, suffix, name, start, end):
    source, before = flashes(name, suffix)
    source_info = probe(source)
    out = tmp_path / "o.mp4"
    start, end = Fraction(start) if start else None, Fraction(end) if end else None
    write(out, source, start=start, end=end)
    assert max(abs(a - b) for a, b in zip(sync(out), before, strict=False)) < 0.03
    info = probe(out)
    length = len(audio(out)) / 8000
    wanted = (end or source_info.first + source_info.duration) - (start or 0)
    assert abs(float(info.first + info.duration - wanted)) <= 0.041
    sound = (end or len(audio(source)) / 8000) - (start or 0)
    assert abs(length - sound) < 0.07  # a frame and a packet of sound


@pytest.mark.parametrize(("video", "sound"), [(1, 2), (2, 1)])
def test_unequal_lengths_are_kept(tmp_path, video, sound):
    source = tmp_path / "s.mp4"
    ffmpeg(
        *("-f", "lavfi", "-i", f"color=s=64x48:r=25:d={video}", "-f", "lavfi", "-i", f"sine=d={sound}"),
        *("-c:a", "aac", source),
    )
    out = tmp_path / "o.mkv"
    write(out, source)
    assert probe(out).frames == video * 25
    # Of 8000 samples a second. Matroska may play the 1024 samples that AAC starts with, and MP4 hides.
    assert -8 <= len(audio(out)) - len(audio(source)) <= 200


def test_no_audio(tmp_path):
    write(tmp_path / "o.mp4", counter_clip(tmp_path / "s.mp4", 5, 25))
    assert stream_lines(tmp_path / "o.mp4", "Audio") == []
    assert probe(tmp_path / "o.mp4").frames == 5


@pytest.fixture(scope="module")
def rich(tmp_path_factory) -> Path:
    """MKV: PCM and AAC sound, two text subtitles, a chapter, a title, languages."""
    folder = tmp_path_factory.mktemp("rich")
    (folder / "s.srt").write_text("1\n00:00:00,100 --> 00:00:00,900\nHello there\n", encoding="utf-8")
    data = ";FFMETADATA1\ntitle=My film\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=500\ntitle=One\n"
    data += "[CHAPTER]\nTIMEBASE=1/1000\nSTART=500\nEND=1000\ntitle=Two\n"
    (folder / "c.txt").write_text(data, encoding="utf-8")
    ffmpeg(
        *("-f", "lavfi", "-i", "color=s=64x48:d=1", "-f", "lavfi", "-i", "sine=d=1:r=48000"),
        *("-i", folder / "s.srt", "-i", folder / "c.txt", "-map", 0, "-map", 1, "-map", 1, "-map", 2, "-map", 2),
        *("-map_metadata", 3, "-c:s:0", "srt", "-c:s:1", "ass", "-c:a:0", "pcm_s16le", "-c:a:1", "aac", "-ac:a:1", 6),
        *("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra", "-metadata:s:s:0", "language=spa"),
        folder / "rich.mkv",
    )
    return folder / "rich.mkv"


@pytest.mark.parametrize(
    ("suffix", "codec", "sound", "subtitles"),
    [
        (".mkv", "h264", ["pcm_s16le", "aac"], ["subrip", "ass"]),
        (".mp4", "h264", ["aac", "aac"], ["mov_text", "mov_text"]),
        (".mov", "h264", ["pcm_s16le", "aac"], ["mov_text", "mov_text"]),
        (".webm", "av1", ["opus", "opus"], ["webvtt", "webvtt"]),
    ],
)
def test_tracks_chapters_and_metadata(tmp_path, rich, suffix, codec, sound, subtitles, caplog):
    out = tmp_path / f"o{suffix}"
    with caplog.at_level(logging.INFO):
        write(out, rich, codec=codec)
    info = probe(out)
    assert [track.codec for track in info.audio_streams] == sound
    assert [(track.channels, track.language) for track in info.audio_streams] == [(1, "eng"), (6, "fra")]
    assert [track.codec for track in info.subtitle_streams] == subtitles
    assert info.subtitle_streams[0].language == "spa"
    text = describe(out)
    assert info.has_chapters
    assert "One" in text
    assert "Two" in text
    assert re.search(r"title\s+: My film", text)
    assert "Hello there" in ffmpeg("-i", out, "-map", "0:s:0", "-f", "srt", "-").stdout.decode()
    changed = [name for name, kept in zip(("pcm_s16le", "aac"), sound, strict=True) if name != kept]
    assert all(f"converted from {name}" in caplog.text for name in changed)
    for track in range(2):
        assert abs(len(audio(out, track)) - 8000) < 400
        assert np.abs(audio(out, track)).max() > 0.05


def test_trimmed_chapters_and_subtitles(tmp_path, rich):
    write(tmp_path / "o.mkv", rich, start=Fraction("0.6"), end=Fraction("0.9"))
    text = describe(tmp_path / "o.mkv")
    assert "Two" in text
    assert "One" not in text
    starts = re.findall(r"Chapter #0:\d+: start (\S+), end (\S+)", text)
    assert len(starts) == 1
    assert float(starts[0][0]) < 0.01


def test_bitmap_subtitles_only_in_mkv(tmp_path, caplog):
    source = tmp_path / "s.mkv"
    (tmp_path / "s.srt").write_text("1\n00:00:00,100 --> 00:00:00,900\nHi\n", encoding="utf-8")
    pgs = _pgs_packet()
    (tmp_path / "s.sup").write_bytes(pgs)
    clip = counter_clip(tmp_path / "c.mkv", 25, 25)
    ffmpeg("-i", clip, "-i", tmp_path / "s.sup", "-map", 0, "-map", 1, "-c", "copy", source)
    assert [track.codec for track in probe(source).subtitle_streams] == ["hdmv_pgs_subtitle"]
    write(tmp_path / "o.mkv", source)
    assert [track.codec for track in probe(tmp_path / "o.mkv").subtitle_streams] == ["hdmv_pgs_subtitle"]
    with caplog.at_level(logging.WARNING):
        write(tmp_path / "o.mp4", source)
    assert probe(tmp_path / "o.mp4").subtitle_streams == ()
    assert "left out" in caplog.text


def _pgs_packet() -> bytes:
    """One empty PGS display set."""

    def segment(kind: int, body: bytes) -> bytes:
        return b"PG" + (9000).to_bytes(4, "big") + bytes(4) + bytes([kind]) + len(body).to_bytes(2, "big") + body

    size = (64).to_bytes(2, "big") + (48).to_bytes(2, "big")
    return segment(0x16, size + b"\x10\x00\x00\x80\x00\x00\x00") + segment(0x80, b"")


def test_source_tags_of_primaries_are_kept(tmp_path):
    tags = "setparams=colorspace=bt470bg:color_primaries=bt470bg:color_trc=smpte170m:range=tv"
    write(tmp_path / "o.mp4", counter_clip(tmp_path / "s.mp4", 3, 25, filters=tags))
    info = probe(tmp_path / "o.mp4")
    assert (info.color_matrix, info.primaries, info.transfer) == ("bt709", "bt470bg", "smpte170m")


# ------------------------------------------------------------------- whole or not at all


def test_file_appears_only_when_complete(tmp_path):
    out = tmp_path / "new" / "folder" / "o.mp4"
    with VideoWriter(out, 64, 48, Fraction(25)) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
        assert not out.exists()
        assert len(left_over(out.parent)) == 1
    assert out.exists()
    assert left_over(out.parent) == []


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "o.mp4", 64, 48, Fraction(25)) as writer:  # noqa: PT012
        writer.write(np.zeros((48, 64, 3), np.uint8))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_kept_without_overwrite(tmp_path):
    out = tmp_path / "o.mp4"
    out.write_text("precious", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        VideoWriter(out, 64, 48, Fraction(25))
    assert out.read_text(encoding="utf-8") == "precious"
    write(out, overwrite=True)
    assert probe(out).frames == 10


def test_output_that_appears_meanwhile_is_kept(tmp_path):
    out = tmp_path / "o.mp4"
    with pytest.raises(OutputExistsError), VideoWriter(out, 64, 48, Fraction(25)) as writer:  # noqa: PT012
        writer.write(np.zeros((48, 64, 3), np.uint8))
        out.write_text("precious", encoding="utf-8")
    assert out.read_text(encoding="utf-8") == "precious"
    assert left_over(tmp_path) == []


def test_failed_overwrite_keeps_the_old_file(tmp_path):
    out = tmp_path / "o.mp4"
    out.write_text("precious", encoding="utf-8")
    with pytest.raises(VideoError, match="no frame"), VideoWriter(out, 64, 48, Fraction(25), overwrite=True):
        pass
    assert [item.name for item in tmp_path.iterdir()] == ["o.mp4"]
    assert out.read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("when", ["between frames", "before close"])
def test_killed_ffmpeg_is_an_error_and_leaves_nothing(tmp_path, when):
    writer = VideoWriter(tmp_path / "o.mp4", 640, 480, Fraction(25))
    frame = np.zeros((480, 640, 3), np.uint8)
    writer.write(frame)
    os.kill(writer.process.pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)

    def go_on():
        if when == "between frames":
            for _ in range(100):
                writer.write(frame)
        writer.close()

    with pytest.raises(VideoError, match=r"writing .*o\.mp4 failed"):
        go_on()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(VideoError, match="closed already"):
        writer.write(frame)


def _write_noise(path, rng):
    with VideoWriter(path, 320, 240, Fraction(25), quality=10) as writer:
        for _ in range(40):
            writer.write(rng.integers(0, 256, (240, 320, 3), np.uint8))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mount")
def test_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    try:
        rng = np.random.default_rng(0)
        with pytest.raises(VideoError, match="no space left"):
            _write_noise(disk / "o.mp4", rng)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs file size limits")
def test_failing_disk_writes(tmp_path):
    """The same without root: a limit on file sizes, in a process of its own."""
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
import numpy as np
from fractions import Fraction
from src.errors import VideoError
from src.video.writer import VideoWriter
rng = np.random.default_rng(0)
try:
    with VideoWriter({str(tmp_path / "o.mp4")!r}, 320, 240, Fraction(25), quality=10) as writer:
        for _ in range(40):
            writer.write(rng.integers(0, 256, (240, 320, 3), np.uint8))
except VideoError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert b"failed" in done.stdout, done.stderr
    assert re.search(rb"File too large|killed by signal", done.stdout)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(VideoError, match="cannot be written"):
        VideoWriter(tmp_path / "file" / "o.mp4", 64, 48, Fraction(25))


def test_vanished_folder(tmp_path):
    folder = tmp_path / "f"
    writer = VideoWriter(folder / "o.mkv", 64, 48, Fraction(25))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    if os.name == "nt":
        writer.abort()
        pytest.skip("Windows keeps folders with open files")
    for item in folder.iterdir():
        item.unlink()
    folder.rmdir()
    with pytest.raises(VideoError, match=r"o\.mkv"):
        writer.close()


@pytest.mark.parametrize("name", ["with space.mp4", 'it\'s "q".mp4', "-dash.mp4", "100%d.mp4", "日本 é.mp4", "a:b.mp4"])
def test_names(tmp_path, name, monkeypatch):
    if os.name == "nt" and set(name) & set('":'):
        pytest.skip("Windows has no such names")
    monkeypatch.chdir(tmp_path)
    write(Path(name), frames=2)
    assert [item.name for item in tmp_path.iterdir()] == [name]
    write(Path("-out " + name), name)
    assert probe(Path("-out " + name)).frames == 2


def test_very_long_name(tmp_path):
    out = tmp_path / ("é" * 120 + ".mp4")
    write(out, frames=2)
    assert out.exists()


# ------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("o.webm", {}, "webm needs --codec av1"),
        ("o.webm", {"codec": "hevc"}, "webm needs --codec av1"),
        ("o.avi", {}, r"\.mp4, \.mov, \.mkv, \.webm, not \.avi"),
        ("o", {}, "without extension"),
        ("o.mp4", {"quality": 11}, "--quality 11"),
        ("o.mp4", {"codec": "vc1"}, "--codec 'vc1'"),
        ("o.mov", {"codec": "vp9"}, "mov cannot hold vp9"),
        ("o.mp4", {"codec": "vp9", "alpha": True}, "vp9 in .mp4 cannot hold transparency"),
        ("o.mp4", {"hardware": "yes"}, "hardware 'yes'"),
    ],
)
def test_refusals(tmp_path, name, options, message):
    with pytest.raises(InputError, match=message):
        VideoWriter(tmp_path / name, 64, 48, Fraction(25), **options)
    assert list(tmp_path.iterdir()) == []


def test_the_input_is_never_the_output(tmp_path):
    clip = counter_clip(tmp_path / "a.mp4", 3, 25)
    before = clip.read_bytes()
    with pytest.raises(InputError, match="is the input itself"):
        VideoWriter(clip, 64, 48, Fraction(25), source=probe(clip), overwrite=True)
    assert clip.read_bytes() == before


def test_wrong_frames_are_refused(tmp_path):
    with VideoWriter(tmp_path / "o.mp4", 64, 48, Fraction(25)) as writer:
        for frame in (np.zeros((64, 48, 3), np.uint8), np.zeros((48, 64), np.uint8), np.zeros((48, 64, 3), np.float32)):
            with pytest.raises(ValueError, match="a frame must be"):
                writer.write(frame)
        writer.write(np.zeros((48, 64, 3), np.uint8))
    assert video_packets(tmp_path / "o.mp4") == [0]


def test_hardware_falls_back_when_it_does_not_work(tmp_path):
    writer = write(tmp_path / "o.mp4", frames=3, size=(320, 240), hardware="auto")
    assert probe(tmp_path / "o.mp4").frames == 3
    assert writer.encoder
