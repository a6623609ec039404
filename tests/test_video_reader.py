"""Frames as they are delivered: every one, in order, upright, square, at the right moment."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from fractions import Fraction

import numpy as np
import pytest

from src.errors import InputError, VideoError
from src.video.pictures import PictureFolder, PictureReader
from src.video.probe import probe
from src.video.reader import VideoReader, open_source
from tests.video_helpers import SAMPLE, counter_clip, ffmpeg, numbers, video_packets


def read(path, *args, **kwargs):
    with VideoReader(probe(path), *args, **kwargs) as reader:
        return list(reader)


def test_sample_clip_is_delivered_whole():
    with open_source(SAMPLE) as source:
        frames = list(source)
        assert (source.width, source.height, source.fps, source.frames_expected) == (320, 180, 25, 50)
    assert len(frames) == 50
    assert {(frame.shape, frame.dtype.name) for frame in frames} == {((180, 320, 3), "uint8")}
    assert np.ptp(frames[0]) > 100
    assert any(not np.array_equal(frames[0], frame) for frame in frames[1:])


@pytest.mark.parametrize("rate", ["24000/1001", "30000/1001", "25", "60"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_every_frame_once_and_in_order(tmp_path, rate, suffix):
    clip = counter_clip(tmp_path / f"a{suffix}", 40, rate)
    assert numbers(read(clip)) == list(range(40))


@pytest.mark.parametrize("frames", [1, 2])
def test_very_short_clips(tmp_path, frames):
    assert numbers(read(counter_clip(tmp_path / "a.mp4", frames, 25))) == list(range(frames))


@pytest.mark.parametrize(("suffix", "rate"), [(".mp4", "24000/1001"), (".mkv", "24000/1001"), (".ts", "25")])
def test_trim_is_frame_exact(tmp_path, suffix, rate):
    info = probe(counter_clip(tmp_path / f"a{suffix}", 40, rate))
    for first, last in ((0, 1), (1, 2), (9, 11), (17, 33), (39, 40), (0, 40)):
        start, end = info.first + first / Fraction(rate), info.first + last / Fraction(rate)
        with VideoReader(info, start, end) as reader:
            assert numbers(list(reader)) == list(range(first, last))
            assert reader.frames_expected == last - first


CONTAINERS = {
    "h264.avi": ("-c:v", "libx264"),  # has no presentation times
    "mpeg4.avi": ("-c:v", "mpeg4", "-bf", 2, "-q:v", 2),
    "mpeg2.mpg": ("-c:v", "mpeg2video", "-q:v", 2),
    "vp8.webm": ("-c:v", "libvpx", "-auto-alt-ref", 1, "-lag-in-frames", 16, "-b:v", "300k"),
    "fragmented.mp4": ("-movflags", "frag_keyframe+empty_moov"),
    "theora.ogv": ("-c:v", "libtheora", "-q:v", 10),
    "flash.flv": ("-c:v", "flv1", "-q:v", 2),
    "animation.gif": ("-c:v", "gif"),
}


@pytest.mark.parametrize("name", list(CONTAINERS))
def test_other_containers_read_and_trim(tmp_path, name):
    clip = counter_clip(tmp_path / name, 30, 25, *CONTAINERS[name], step=6)
    info = probe(clip)
    frames = read(clip)
    assert (info.fps, info.frames, len(frames), info.variable_rate) == (25, 30, 30, False)
    assert all(abs(a - b) <= 1 for a, b in zip(numbers(frames, 6), range(30), strict=True))
    part = read(clip, info.first + Fraction(13, 25), info.first + Fraction(18, 25))
    assert numbers(part, 6) == numbers(frames, 6)[13:18]


def test_theora_is_decoded_on_one_thread(tmp_path):
    """On several, FFmpeg's decoder now and then hands over frames of other moments: too seldom to be caught here."""
    clip = counter_clip(tmp_path / "a.ogv", 3, 25, *CONTAINERS["theora.ogv"], step=6)
    command = VideoReader(probe(clip))._command()
    assert command[command.index("-threads:v") + 1] == "1"
    assert command.index("-threads:v") < command.index("-i")
    assert "-threads:v" not in VideoReader(probe(SAMPLE))._command()


def test_clip_cut_without_reencoding(tmp_path):
    """Frames before the cut are in the file, for decoding only."""
    clip = counter_clip(tmp_path / "a.mp4", 40, 25)
    ffmpeg("-ss", "0.5", "-i", clip, "-c", "copy", tmp_path / "cut.mp4")
    info = probe(tmp_path / "cut.mp4")
    found = numbers(read(tmp_path / "cut.mp4"))
    assert found == list(range(13, 40))
    assert info.frames == len(found)


def test_trim_between_frames_takes_the_frames_inside(tmp_path):
    clip = counter_clip(tmp_path / "a.mp4", 20, 25)
    assert numbers(read(clip, Fraction("0.05"), Fraction("0.17"))) == [2, 3, 4]
    assert numbers(read(clip, Fraction("0.6"))) == list(range(15, 20))
    assert numbers(read(clip, None, Fraction("0.1"))) == [0, 1, 2]


def test_trim_far_into_a_transport_stream(tmp_path):
    clip = counter_clip(tmp_path / "a.ts", 500, 25, "-g", 250, step=0, size="32x32")
    info = probe(clip)
    full = read(clip)
    assert len(full) == 500
    assert len(read(clip, info.first + 16, info.first + 17)) == 25


@pytest.mark.parametrize(("start", "end"), [("2", None), ("100", None), ("1.97", "1.98"), ("3", "4")])
def test_trim_outside_is_refused(start, end):
    with pytest.raises(InputError, match=r"2\.000 s long") as caught:
        VideoReader(probe(SAMPLE), Fraction(start), Fraction(end) if end else None)
    assert start in str(caught.value)


def test_end_before_start_is_refused():
    with pytest.raises(InputError, match="is not after"):
        VideoReader(probe(SAMPLE), Fraction(1), Fraction(1))


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (50, [n // 2 for n in range(40)]),
        (25, list(range(20))),
        ("12.5", list(range(0, 20, 2))),
        (5, list(range(0, 20, 5))),
    ],
)
def test_new_constant_rate(tmp_path, fps, expected):
    clip = counter_clip(tmp_path / "a.mkv", 20, 25)
    with VideoReader(probe(clip), fps=Fraction(fps)) as reader:
        found = numbers(list(reader))
        assert (reader.fps, reader.frames_expected) == (Fraction(fps), len(expected))
    assert len(found) == len(expected)
    assert found == expected


def test_new_rate_with_a_trim(tmp_path):
    clip = counter_clip(tmp_path / "a.mkv", 40, 50)
    with VideoReader(probe(clip), Fraction("0.2"), Fraction("0.6"), Fraction(25)) as reader:
        found = numbers(list(reader))
    assert found == list(range(10, 30, 2))


@pytest.fixture
def variable_clip(tmp_path):
    """25 frames per second for 20 frames, then every third one is missing, then a pause of 0.4 s."""
    keep = "lt(n,20)+gte(n,20)*mod(n,3)*not(between(n,40,49))"
    source = "color=c=black:s=64x48:r=25:d=4,format=yuv420p,geq=lum='16+2*N':cb=128:cr=128,select='" + keep + "'"
    path = tmp_path / "v.mkv"
    encode = ("-fps_mode", "vfr", "-c:v", "libx264", "-qp", 0, "-bf", 0)
    ffmpeg("-f", "lavfi", "-i", source, "-frames:v", 60, *encode, path)
    return path


def test_variable_rate_is_made_constant_without_losing_sync(variable_clip, caplog):
    info = probe(variable_clip)
    assert (info.variable_rate, info.fps) == (True, 25)
    with caplog.at_level(logging.INFO):
        found = numbers(read(variable_clip), step=2)
    assert "variable frame rate" in caplog.text
    assert len(found) == info.frames
    # Frame n of the original was shown at n/25 s; a missing one is filled by its neighbour.
    stamps = [round(time * 25) for time in video_packets(variable_clip)]
    for slot, number in enumerate(found):
        assert number == max(stamp for stamp in stamps if stamp <= slot)


def test_variable_rate_trim(variable_clip):
    info = probe(variable_clip)
    full = numbers(read(variable_clip), step=2)
    for first, last in ((0, 10), (21, 50), (43, 47), (45, len(full))):
        part = numbers(read(variable_clip, Fraction(first, 25), Fraction(last, 25)), step=2)
        assert part == full[first:last], (first, last)
    assert info.stamps


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotation_is_applied(tmp_path, turn):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32] = 255  # the top left quarter
    data = image.tobytes() * 3
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x48", "-r", 25, "-i", "pipe:0")
    ffmpeg(*raw, "-c:v", "libx264", tmp_path / "a.mp4", data=data)
    ffmpeg("-display_rotation", (360 - turn) % 360, "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "r.mp4")
    frame = read(tmp_path / "r.mp4")[0]
    assert np.abs(frame.astype(int) - np.rot90(image, -turn // 90)).mean() < 6


@pytest.mark.parametrize("sar", ["2", "1/2", "16/15"])
def test_pixels_become_square(tmp_path, sar):
    clip = counter_clip(tmp_path / "a.mkv", 3, 25, size="90x72", filters=f"setsar={sar}")
    info = probe(clip)
    frames = read(clip)
    assert [frame.shape for frame in frames] == [(info.height, info.width, 3)] * 3
    assert info.width * info.height > 90 * 72
    assert numbers(frames) == [0, 1, 2]


@pytest.mark.parametrize(
    ("pix_fmt", "color_range", "luma", "expected"),
    [
        *(("yuv444p10le", "tv", 64, 0.0), ("yuv444p10le", "tv", 502, 0.5), ("yuv420p10le", "tv", 940, 1.0)),
        *(("yuv420p10le", "pc", 1023, 1.0), ("yuv444p12le", "tv", 2008, 0.5), ("yuv444p12le", "pc", 4095, 1.0)),
    ],
)
def test_deep_sources_are_16_bit(tmp_path, pix_fmt, color_range, luma, expected):
    path = tmp_path / "a.mkv"
    middle = 2048 if "12" in pix_fmt else 512
    grey = f"format={pix_fmt},geq=lum={luma}:cb={middle}:cr={middle},setparams=range={color_range}"
    ffmpeg("-f", "lavfi", "-i", f"color=c=black:s=64x48:r=25:d=0.2,{grey}", "-c:v", "ffv1", path)
    frame = read(path)[0]
    assert frame.dtype == np.uint16
    assert np.abs(frame - expected * 65535).max() < 33  # half a step of 10 bits


def test_interlaced_is_deinterlaced_and_said(tmp_path, caplog):
    path = tmp_path / "i.mkv"
    bars = "testsrc2=s=64x64:r=50:d=1,scale=64:64,interlace=scan=tff:lowpass=off,format=yuv420p"
    ffmpeg("-f", "lavfi", "-i", bars, "-frames:v", 20, "-c:v", "libx264", "-x264opts", "tff=1", path)
    with caplog.at_level(logging.WARNING):
        frames = read(path)
    assert "interlaced" in caplog.text
    assert len(frames) == 20


def test_transparency_is_dropped_and_said(tmp_path, caplog):
    path = tmp_path / "a.mov"
    ffmpeg("-f", "lavfi", "-i", "color=red@0.5:s=32x32:d=0.1,format=argb", "-c:v", "qtrle", path)
    with caplog.at_level(logging.WARNING):
        frame = read(path)[0]
    assert "transparency" in caplog.text
    assert frame[0, 0, 0] > 200


@pytest.mark.parametrize("name", ["with space.mp4", 'it\'s "q".mp4', "-dash.mp4", "100%d.mp4", "日本 é.mp4", "a:b.mp4"])
def test_names(tmp_path, name, monkeypatch):
    if os.name == "nt" and set(name) & set('":'):
        pytest.skip("Windows has no such names")
    counter_clip(tmp_path / "plain.mp4", 3, 25).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with open_source(name) as source:  # relative, as a user types it
        assert len(list(source)) == 3


def test_truncated_file_delivers_what_is_there_and_says_so(tmp_path, caplog):
    full = counter_clip(tmp_path / "full.mp4", 40, 25, "-movflags", "+faststart", filters="noise=alls=30")
    data = full.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    info = probe(tmp_path / "cut.mp4")
    assert info.damage
    with caplog.at_level(logging.WARNING), VideoReader(info) as reader:
        count = sum(1 for _ in reader)
    assert 5 < count < 39
    assert "damaged" in caplog.text
    assert f"{count} frames" in caplog.text


def test_killed_ffmpeg_is_an_error_not_a_hang(tmp_path):
    clip = counter_clip(tmp_path / "a.mp4", 50, 25, size="640x480", step=1)
    with VideoReader(probe(clip)) as reader:
        frames = iter(reader)
        next(frames)
        os.kill(reader.process.pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        with pytest.raises(VideoError, match="failed after"):
            list(frames)
        assert reader.process is None


def test_leaving_early_stops_ffmpeg_and_threads(tmp_path):
    clip = counter_clip(tmp_path / "a.mp4", 60, 25, size="320x240", step=1)
    with VideoReader(probe(clip)) as reader:
        frames = iter(reader)
        next(frames)
        process = reader.process
        assert process.running
    assert not process.running
    deadline = time.monotonic() + 5
    while any(thread.name == "ffmpeg-log" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.name == "ffmpeg-log" for thread in threading.enumerate())


def test_reading_again_starts_over(tmp_path):
    reader = VideoReader(probe(counter_clip(tmp_path / "a.mp4", 5, 25)))
    assert numbers(list(reader)) == numbers(list(reader)) == list(range(5))


@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX")
def test_ctrl_c_does_not_reach_ffmpeg(tmp_path):
    clip = counter_clip(tmp_path / "a.mp4", 60, 25, size="320x240", step=1)
    with VideoReader(probe(clip)) as reader:
        frames = iter(reader)
        next(frames)
        assert os.getpgid(reader.process.pid) != os.getpgid(0)


def test_kinds_of_source(tmp_path):
    image = tmp_path / "f" / "a.png"
    image.parent.mkdir()
    ffmpeg("-f", "lavfi", "-i", "color=red:s=32x16:d=0.04", "-frames:v", 1, image)
    folder, single = open_source(image.parent), open_source(image)
    assert isinstance(folder, PictureFolder)
    assert isinstance(single, PictureReader)
    assert (folder.is_picture, folder.fps, folder.info) == (False, 30, None)
    assert (single.is_picture, single.frames_expected, single.width, single.height) == (True, 1, 32, 16)
    with pytest.raises(InputError, match="does not exist"):
        open_source(tmp_path / "nothing.png")
