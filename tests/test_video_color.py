"""Colours: exact conversion in, exact conversion out, and both together."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from src.video.probe import probe
from src.video.reader import VideoReader
from src.video.writer import VideoWriter
from tests.video_helpers import ffmpeg

# Kr, Kb of ITU-R BT.601, BT.709 and BT.2020.
WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
TAGS = {"bt601": "smpte170m", "bt709": "bt709", "bt2020": "bt2020nc"}
COLORS = [
    *((0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (0, 255, 0), (0, 0, 255)),
    *((200, 100, 50), (30, 90, 220), (240, 200, 40), (17, 60, 35), (190, 120, 230), (90, 90, 60)),
]
SIDE = 16


def to_yuv(color, matrix, full):
    """Y, U, V of the standard, rounded to 8 bits."""
    kr, kb = WEIGHTS[matrix]
    red, green, blue = np.array(color) / 255
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    u, v = (blue - luma) / 2 / (1 - kb), (red - luma) / 2 / (1 - kr)
    values = (255 * luma, 128 + 255 * u, 128 + 255 * v) if full else (16 + 219 * luma, 128 + 224 * u, 128 + 224 * v)
    return np.clip(np.rint(values), 0, 255)


def to_rgb(yuv, matrix, full):
    """RGB 0..255 (not rounded) that the standard gives for these samples."""
    kr, kb = WEIGHTS[matrix]
    y, u, v = yuv
    foot, luma_span, chroma_span = (0, 255, 255) if full else (16, 219, 224)
    luma, u, v = (y - foot) / luma_span, (u - 128) / chroma_span, (v - 128) / chroma_span
    red, blue = luma + 2 * (1 - kr) * v, luma + 2 * (1 - kb) * u
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.array((red, green, blue)) * 255, 0, 255)


def source_clip(path, matrix, full, pix_fmt="yuv420p", tagged=True):
    """A lossless clip of one frame, a row of flat squares. Returns what RGB each must give."""
    samples = [to_yuv(color, matrix, full) for color in COLORS]
    half = 2 if pix_fmt == "yuv420p" else 1
    planes = [np.repeat(np.tile([s[0] for s in samples], (SIDE, 1)), SIDE, axis=1)]
    for channel in (1, 2):
        planes.append(np.repeat(np.tile([s[channel] for s in samples], (SIDE // half, 1)), SIDE // half, axis=1))
    data = b"".join(plane.astype(np.uint8).tobytes() for plane in planes)
    tags = f"setparams=range={'pc' if full else 'tv'}:colorspace={TAGS[matrix]}" if tagged else "null"
    size = f"{SIDE * len(COLORS)}x{SIDE}"
    raw = ("-f", "rawvideo", "-pix_fmt", pix_fmt, "-s", size, "-r", 25, "-i", "pipe:0")
    ffmpeg(*raw, "-vf", tags, "-c:v", "libx264", "-qp", 0, "-pix_fmt", pix_fmt, path, data=data)
    return [to_rgb(sample, matrix, full) for sample in samples]


def squares(frame):
    """The colour in the middle of each square."""
    return [frame[SIDE // 2, n * SIDE + SIDE // 2].astype(int) for n in range(len(COLORS))]


@pytest.mark.parametrize("matrix", list(WEIGHTS))
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_reading_follows_matrix_and_range(tmp_path, matrix, full, pix_fmt):
    expected = source_clip(tmp_path / "a.mkv", matrix, full, pix_fmt)
    frame = next(iter(VideoReader(probe(tmp_path / "a.mkv"))))
    for found, wanted in zip(squares(frame), expected, strict=True):
        assert np.abs(found - wanted).max() <= 0.52  # nothing but rounding


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_round_trip_is_within_one_level(tmp_path, matrix, full, codec):
    source_clip(tmp_path / "a.mkv", matrix, full)
    with VideoReader(probe(tmp_path / "a.mkv")) as reader:
        before = next(iter(reader))
    out = tmp_path / "o.mp4"
    size = reader.width, reader.height
    with VideoWriter(out, *size, Fraction(25), codec=codec, quality=10, source=reader.info) as writer:
        for color in squares(before):
            writer.write(np.broadcast_to(color.astype(np.uint8), before.shape))
    written = list(VideoReader(probe(out)))
    for color, frame in zip(squares(before), written, strict=True):
        assert np.abs(frame.astype(int) - color).max() <= 1, color


def test_untagged_sources_follow_their_size(tmp_path):
    expected = source_clip(tmp_path / "a.mkv", "bt601", False, tagged=False)
    frame = next(iter(VideoReader(probe(tmp_path / "a.mkv"))))
    assert max(np.abs(a - b).max() for a, b in zip(squares(frame), expected, strict=True)) <= 0.52


def test_written_samples_are_bt709_limited(tmp_path):
    out = tmp_path / "o.mkv"
    with VideoWriter(out, 64, 64, Fraction(25), quality=10) as writer:
        for color in COLORS:
            writer.write(np.broadcast_to(np.array(color, np.uint8), (64, 64, 3)))
    raw = np.frombuffer(ffmpeg("-i", out, "-f", "rawvideo", "-pix_fmt", "yuv420p", "-").stdout, np.uint8)
    for color, frame in zip(COLORS, raw.reshape(len(COLORS), -1), strict=True):
        found = frame[: 64 * 64].mean(), frame[64 * 64 : 64 * 64 + 32 * 32].mean(), frame[64 * 64 + 32 * 32 :].mean()
        assert np.abs(np.array(found) - to_yuv(color, "bt709", False)).max() <= 0.6, color


def test_rgb_source_is_untouched(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x48", "-r", 25, "-i", "pipe:0")
    ffmpeg(*raw, "-c:v", "ffv1", "-pix_fmt", "gbrp", tmp_path / "a.mkv", data=image.tobytes())
    assert np.array_equal(next(iter(VideoReader(probe(tmp_path / "a.mkv")))), image)


@pytest.mark.parametrize(("location", "shift"), [("left", 0.0), ("center", 0.5)])
def test_chroma_lies_where_the_source_says(tmp_path, location, shift):
    """A ramp of U: with samples at the left of their pair, sample n lies on pixel 2n; else at 2n + 0.5."""
    width, height, slope = 64, 32, 2.0
    u = np.tile(64 + slope * (2 * np.arange(width // 2) + shift), (height // 2, 1))
    planes = (np.full((height, width), 126), np.rint(u), np.full((height // 2, width // 2), 128))
    data = b"".join(plane.astype(np.uint8).tobytes() for plane in planes)
    raw = ("-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{width}x{height}", "-r", 25, "-i", "pipe:0")
    tags = "setparams=range=tv:colorspace=bt709"
    kind = {"left": 0, "center": 1}[location]
    encode = ("-c:v", "libx264", "-qp", 0, "-bsf:v", f"h264_metadata=chroma_sample_loc_type={kind}")
    ffmpeg(*raw, "-vf", tags, *encode, tmp_path / "a.mkv", data=data)
    info = probe(tmp_path / "a.mkv")
    assert info.chroma_location == location
    frame = next(iter(VideoReader(info)))
    blue = frame[16, 8:-8, 2].astype(float)
    wanted = (110 / 219 + 2 * (1 - 0.0722) * (64 + slope * np.arange(8, width - 8) - 128) / 224) * 255
    inside = (wanted > 3) & (wanted < 252)
    assert abs(float((blue - wanted)[inside].mean())) < 0.6  # half a pixel would be 2.1 levels


def test_written_chroma_lies_at_the_left(tmp_path):
    ramp = np.zeros((32, 64, 3), np.uint8)
    ramp[..., 2] = 60 + 2 * np.arange(64)
    ramp[..., :2] = 100
    out = tmp_path / "o.mkv"
    with VideoWriter(out, 64, 32, Fraction(25), quality=10) as writer:
        writer.write(ramp)
    raw = np.frombuffer(ffmpeg("-i", out, "-f", "rawvideo", "-pix_fmt", "yuv420p", "-").stdout, np.uint8)
    u = raw[64 * 32 : 64 * 32 + 32 * 16].reshape(16, 32)[8].astype(float)
    blue = 60 + 2 * (2 * np.arange(32))  # of the pixel that each sample must lie on
    luma = 0.2126 * 100 + 0.7152 * 100 + 0.0722 * blue
    wanted = 128 + 224 / 255 * (blue - luma) / 2 / (1 - 0.0722)
    assert abs(float((u - wanted)[4:-4].mean())) < 0.25  # half a pixel would be 0.44
