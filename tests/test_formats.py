"""Sizes, depths, transparency, picture sequences and batches that people have."""

import logging
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import run
from src import Options, plan_job, upscale, upscale_file
from src.batch import upscale_folder, videos_in
from src.engine import Engine, make_engine
from src.errors import InputError, OutputExistsError
from src.pipelines.geometry import Geometry, to_uint16
from src.video import open_source, probe, write_picture
from tests.video_helpers import ffmpeg, video_packets


@pytest.fixture(scope="module")
def engine() -> Engine:
    return make_engine(Options(model="nano", device="cpu"))


def frames_of(path: Path, alpha: bool = False) -> np.ndarray:
    with open_source(path) as source:
        source.keep_alpha = alpha
        return np.stack(list(source))


def ramp_clip(path: Path, *extra: str, frames: int = 3, tags: str = "") -> Path:
    """10 bits of grey from left to right, lossless."""
    chain = f"format=gray10le,geq=lum='X*4',format=yuv444p10le{tags}"
    ffmpeg("-f", "lavfi", "-i", f"color=black:s=256x32:r=25,{chain}", "-frames:v", frames, *extra, "-c:v", "ffv1", path)
    return path


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((320, 180), "720p", (1280, 720)),
        ((320, 180), "4k", (3840, 2160)),
        ((720, 576), "1080p", (1350, 1080)),
        ((720, 480), "1440p", (2160, 1440)),
        ((180, 320), "1080p", (1080, 1920)),
        ((321, 179), "800x600", (800, 446)),
        ((1920, 800), "4k", (3840, 1600)),
    ],
)
def test_resolution(size, box, expected):
    from src.config import parse_resolution

    geometry = Geometry.within(size[1], size[0], parse_resolution(box))
    assert (geometry.out_width, geometry.out_height) == expected
    assert geometry.out_width % 2 == geometry.out_height % 2 == 0


def test_resolution_of_a_file(tmp_path, engine):
    picture = write_picture(tmp_path / "in.png", np.full((30, 50, 3), 80, np.uint8))
    result = upscale_file(Options(input=picture, output=tmp_path / "out/", resolution="100x100"), engine=engine)
    assert (result.width, result.height) == (100, 60)
    assert result.path.name == "in_100x100.png"
    with pytest.raises(InputError, match="more than 16 times"):
        upscale_file(Options(input=picture, output=tmp_path / "out/", resolution="4k"), engine=engine)


def test_ten_bits_all_the_way(tmp_path, engine):
    """A ramp of 10-bit levels keeps more than 8 bits of them, which no 8-bit step on the way would leave."""
    source = ramp_clip(tmp_path / "in.mkv")
    for codec in ("hevc", "av1"):
        options = Options(
            input=source, output=tmp_path / f"{codec}.mkv", scale=2, codec=codec, bit_depth=10, quality=10
        )
        result = upscale_file(options, engine=engine)
        info = probe(result.path)
        assert info.bit_depth == 10
        assert info.pix_fmt == "yuv420p10le"
        levels = frames_of(result.path)
        assert levels.dtype == np.uint16
        assert len(np.unique(levels[1, 30, :, 1])) > 300, "8 bits have 256"
    with pytest.raises(InputError, match="--bit-depth 10 needs --codec"):
        upscale_file(options.replace(codec="h264"), engine=engine)
    frames = list(upscale([np.full((16, 16, 3), 128, np.uint8)] * 2, Options(bit_depth="10", scale=2), engine))
    assert frames[0].dtype == np.uint16
    assert int(to_uint16(__import__("torch").ones(1, 3, 1, 1)).max()) == 65535


def test_hdr_is_carried_or_refused(tmp_path, engine):
    tags = ",setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc=smpte2084:range=tv"
    source = ramp_clip(tmp_path / "in.mkv", tags=tags)
    assert probe(source).hdr
    with pytest.raises(InputError, match=r"HDR \(smpte2084\).*--bit-depth 10"):
        upscale_file(Options(input=source, output=tmp_path / "out.mp4"), engine=engine)
    for name, codec in (("a.mp4", "hevc"), ("b.mkv", "av1"), ("c.webm", "vp9")):
        options = Options(input=source, output=tmp_path / name, scale=2, codec=codec, bit_depth=10, quality=10)
        info = probe(upscale_file(options, engine=engine).path)
        assert (info.transfer, info.primaries, info.color_matrix, info.hdr) == ("smpte2084", "bt2020", "bt2020", True)
    levels, before = frames_of(tmp_path / "a.mp4").astype(int), frames_of(source).astype(int)
    middle = levels[1, 32, 40:480:40, 1] - before[1, 16, 20:240:20, 1]
    assert np.abs(middle).max() < 65535 * 0.02, "code values stay what they are"


def test_alpha_of_a_picture(tmp_path, engine):
    picture = np.zeros((24, 40, 4), np.uint8)
    picture[..., 0] = 200
    picture[:, 20:, 3] = 255
    source = write_picture(tmp_path / "in.png", picture)
    out = frames_of(upscale_file(Options(input=source, output=tmp_path / "o.png", scale=2), engine=engine).path, True)
    assert out.shape == (1, 48, 80, 4)
    assert out[0, 24, 10, 3] == 0
    assert out[0, 24, 70, 3] == 255
    assert 60 < int(out[0, 24, 39:41, 3].mean()) < 200
    assert abs(int(out[0, 24, 70, 0]) - 200) < 8
    jpeg = upscale_file(Options(input=source, output=tmp_path / "o.jpg", scale=2), engine=engine).path
    assert frames_of(jpeg).shape == (1, 48, 80, 3)


def test_alpha_of_a_video(tmp_path, engine, caplog):
    source = tmp_path / "in.mov"
    planes = "lum='lum(X,Y)':cb='cb(X,Y)':cr='cr(X,Y)':a='if(lt(X,32),0,1023)'"
    box = f"color=red:s=64x48:r=25,format=yuva444p10le,geq={planes}"
    ffmpeg("-f", "lavfi", "-i", box, "-frames:v", 30, "-c:v", "prores_ks", "-profile:v", 4, source)
    assert frames_of(source, True).shape == (30, 48, 64, 4)
    target = tmp_path / "out.mov"
    upscale_file(Options(input=source, output=target, scale=2, codec="prores", segment_frames=12), engine=engine)
    assert probe(target).pix_fmt.startswith("yuva444p1")
    out = frames_of(target, True)
    assert out.shape == (30, 96, 128, 4)
    top = int(out[..., 3].max())
    assert out[20, 48, 10, 3] < top * 0.02
    assert out[20, 48, 110, 3] > top * 0.98
    with caplog.at_level(logging.WARNING):
        upscale_file(Options(input=source, output=tmp_path / "out.mp4", scale=1), engine=engine)
    assert "transparency is dropped" in caplog.text


@pytest.mark.parametrize("encoder", ["libvpx-vp9", "libvpx"])
def test_alpha_of_webm(tmp_path, engine, encoder):
    """FFmpeg's own decoders would show it opaque; segments are joined with their transparency, frames on time."""
    source = tmp_path / "in.webm"
    planes = "lum='lum(X,Y)':cb='cb(X,Y)':cr='cr(X,Y)':a='if(lt(X,32),0,255)'"
    box = f"color=red:s=64x48:r=24000/1001,format=yuva420p,geq={planes}"
    options = ("-c:v", encoder, "-pix_fmt", "yuva420p", "-auto-alt-ref", 0, "-b:v", "2M")
    ffmpeg("-f", "lavfi", "-i", box, "-frames:v", 30, *options, source)
    assert probe(source).alpha
    assert frames_of(source, True).shape == (30, 48, 64, 4)
    assert frames_of(source).shape == (30, 48, 64, 3)
    wanted = Options(input=source, output=tmp_path / "out", scale=2, codec="vp9", quality=10, segment_frames=12)
    result = upscale_file(wanted, engine=engine)
    assert result.path == tmp_path / "out" / "in_2x.webm"
    info = probe(result.path)
    assert (info.codec, info.alpha, info.frames, info.fps) == ("vp9", True, 30, Fraction(24000, 1001))
    times = video_packets(result.path)
    assert all(abs(time - Fraction(n * 1001, 24000)) <= Fraction(1, 1000) for n, time in enumerate(times))
    for path in (result.path, upscale_file(wanted.replace(codec="prores"), engine=engine).path):
        out = frames_of(path, True)
        assert out.shape == (30, 96, 128, 4)
        top = int(np.iinfo(out.dtype).max)
        for frame in out[[0, 11, 12, 29]]:
            assert frame[48, 10, 3] < top * 0.02
            assert frame[48, 110, 3] > top * 0.98
            assert frame[48, 110, 0] > top * 0.9
    with pytest.raises(InputError, match="8 bits only"):
        upscale_file(wanted.replace(bit_depth="10", overwrite=True), engine=engine)


@pytest.mark.parametrize("name", ["a.webm", "a.mkv", "a.mp4"])
def test_vp9(tmp_path, engine, name):
    """10 bits, odd sizes, segments."""
    source = ramp_clip(tmp_path / "in.mkv", frames=30)
    options = Options(input=source, output=tmp_path / name, scale=1.5, codec="vp9", bit_depth="10", segment_frames=12)
    info = probe(upscale_file(options, engine=engine).path)
    assert (info.codec, info.bit_depth, info.frames, info.alpha) == ("vp9", 10, 30, False)
    with pytest.raises(InputError, match="VP9"):
        upscale_file(options.replace(output=tmp_path / "a.mov"), engine=engine)


def test_a_sequence_of_pictures(tmp_path, engine):
    source = ramp_clip(tmp_path / "in.mkv", frames=30)
    options = Options(input=source, output=tmp_path / "out", scale=1, output_format="png", segment_frames=8)

    def stop(state):
        if state.frames >= 29:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale_file(options, stop, engine=engine)
    result = upscale_file(options, engine=engine)
    assert result.resumed > 0
    names = sorted(item.name for item in (tmp_path / "out" / "in_1x").iterdir())
    assert names == [f"{n:06d}.png" for n in range(1, 31)]
    assert len(frames_of(result.path)) == 30
    with pytest.raises(OutputExistsError):
        upscale_file(options, engine=engine)
    deep = upscale_file(options.replace(overwrite=True, bit_depth="10", end="0.1"), engine=engine)
    assert frames_of(deep.path).dtype == np.uint16
    (result.path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="other files too"):
        upscale_file(options.replace(overwrite=True), engine=engine)


def test_a_folder_of_videos(tmp_path, engine, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("2.mkv", "10.mkv"):
        ramp_clip(folder / name)
    (folder / "3.mkv").write_bytes(b"no video")
    options = Options(input=folder, output=tmp_path / "out", scale=1, model="nano", device="cpu")
    items = upscale_folder(options, engine=engine)
    assert [item.path.name for item in items] == ["2.mkv", "3.mkv", "10.mkv"]
    assert [item.error is None for item in items] == [True, False, True]
    assert run.main(["--quiet", "-i", str(folder), str(tmp_path / "out"), "-s", "1", "-v", "nano", "-d", "cpu"]) == 1
    table = capsys.readouterr().out
    assert "0 of 3 videos done, 3 failed" in table
    assert "exists already" in table
    write_picture(folder / "a.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="both videos"):
        videos_in(folder)


def test_dry_run_says_it_all(tmp_path, capsys):
    source = ramp_clip(tmp_path / "in.mkv", frames=30)
    words = ["-i", str(source), str(tmp_path / "o.mp4"), "-v", "nano", "-d", "cpu", "--dry-run", "-r", "1000x1000"]
    assert run.main(words) == 0
    out = capsys.readouterr().out
    for part in (
        "o.mp4 (video, 1000x124, 30 frames at 25",
        "nano on cpu",
        "memory: whole frame",
        "disk: about",
        "time: ",
    ):
        assert part in out
    assert [item.name for item in tmp_path.iterdir()] == ["in.mkv"]
    plan = plan_job(Options(input=source, output=tmp_path / "o.mp4", model="nano", device="cpu"))
    assert (plan.width, plan.height, plan.frames, plan.fps) == (1024, 128, 30, Fraction(25))
    assert 0 < plan.peak_bytes < plan.budget_bytes
    assert plan.seconds is not None
