"""Files in, files out, with the embedded nano: the whole way of the data."""

import os
import signal
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from src import Options, upscale, upscale_file
from src.config import SamplingConfig
from src.engine import Engine, make_engine
from src.errors import Cancelled, InputError, OutputExistsError, VideoError
from src.ops.attention import Attention
from src.video import open_source, probe, write_picture
from tests.tiny_models import tiny_pipeline
from tests.video_helpers import ffmpeg

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "inputs" / "bbb_320x180.mp4"
TRUTH = ROOT / "inputs" / "bbb_1280x720.mp4"


def make_clip(path: Path, *, size: str, rate: str, frames: int) -> Path:
    """A lossless moving test pattern."""
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate},format=yuv444p", "-frames:v", frames, "-c:v", "ffv1", path)
    return path


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Nano, loaded once."""
    return make_engine(Options(model="nano", device="cpu"))


def frames_of(path: Path) -> np.ndarray:
    with open_source(path) as source:
        return np.stack(list(source))


def luma_psnr(frames: np.ndarray, truth: np.ndarray) -> float:
    """Mean over frames, in dB, of BT.601 luma."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    errors = [np.square((a.astype(np.float32) - b) @ weights).mean() for a, b in zip(frames, truth, strict=True)]
    return float(np.mean([10 * np.log10(255**2 / error) for error in errors]))


def bicubic(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    pixels = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float()
    up = F.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)
    return up.clamp(0, 255).round()[0].permute(1, 2, 0).byte().numpy()


@pytest.fixture
def all_cores():
    """One thread is right for the small tensors of other tests, not for a real clip."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("all_cores")
def test_the_sample_clip(tmp_path, engine):
    """Sharper than bicubic by 0.6 dB, measured on the written file; every frame, the rate and the sound are kept."""
    seen = []
    options = Options(input=SAMPLE, output=tmp_path, quality=10, model="nano", device="cpu")
    result = upscale_file(options, progress=seen.append, engine=engine)
    assert result.path == tmp_path / "bbb_320x180_4x.mp4"
    assert list(tmp_path.iterdir()) == [result.path], "nothing else may be left"
    assert (result.frames, result.width, result.height, result.model) == (50, 1280, 720, "nano")
    assert seen[-1].frames == seen[-1].expected == 50
    before, after = probe(SAMPLE), probe(result.path)
    assert (after.width, after.height, after.frames, after.fps) == (1280, 720, 50, Fraction(25))
    assert abs(after.duration - before.duration) <= Fraction(1, 25)
    assert [a.codec for a in after.audio_streams] == [a.codec for a in before.audio_streams] == ["aac"]
    written, truth, small = (frames_of(path)[::5] for path in (result.path, TRUTH, SAMPLE))  # each takes its time
    plain = np.stack([bicubic(frame, 720, 1280) for frame in small])
    gain = luma_psnr(written, truth) - luma_psnr(plain, truth)
    assert gain >= 0.6, f"{gain:.2f} dB over bicubic"
    # No colour shift: the mean of every channel stays within one level of the input's.
    assert np.abs(written.mean((0, 1, 2)) - plain.mean((0, 1, 2))).max() < 1


@pytest.mark.parametrize(
    ("frames", "size", "rate"), [(1, "64x48", "25"), (2, "33x17", "24000/1001"), (23, "40x24", "30")]
)
def test_counts_sizes_and_rates(tmp_path, engine, frames, size, rate):
    source = make_clip(tmp_path / "in.mkv", size=size, rate=rate, frames=frames)
    result = upscale_file(Options(input=source, output=tmp_path / "out.mkv", scale=2), engine=engine)
    width, height = (int(side) * 2 for side in size.split("x"))
    info = probe(result.path)
    assert (info.frames, info.width, info.height, info.fps) == (frames, width, height, Fraction(rate))


def test_trim(tmp_path, engine):
    result = upscale_file(
        Options(input=SAMPLE, output=tmp_path / "part.mp4", start="0.4", end="0.8", scale=1), engine=engine
    )
    info = probe(result.path)
    assert info.frames == result.frames == 10
    assert abs(info.duration - Fraction(2, 5)) <= Fraction(1, 25)


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp", ".tiff"])
def test_a_picture(tmp_path, engine, extension):
    picture = np.zeros((21, 35, 3), np.uint8)
    picture[:, 10:20] = (200, 100, 50)
    path = write_picture(tmp_path / "in.png", picture)
    options = Options(input=path, output=tmp_path / f"out{extension}", scale=3, quality=10)
    result = upscale_file(options, engine=engine)
    out = frames_of(result.path)
    assert out.shape == (1, 63, 105, 3)
    assert result.frames == 1
    # Away from the edges the colours are the input's (lossy formats: within a few levels).
    assert np.abs(out[0, 30, 45].astype(int) - (200, 100, 50)).max() <= 8


def test_a_folder_of_pictures(tmp_path, engine):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(1, 12):
        write_picture(folder / f"f{number}.png", np.full((16, 16, 3), number * 20, np.uint8))
    result = upscale_file(Options(input=folder, output=tmp_path / "out", fps=12, quality=10), engine=engine)
    info = probe(result.path)
    assert (info.frames, info.fps, info.width) == (11, Fraction(12), 64)
    levels = frames_of(result.path)[:, 32, 32, 0].astype(int)
    assert np.abs(levels - np.arange(1, 12) * 20).max() <= 6, "natural order: f2 before f10"


def test_strange_names(tmp_path, engine):
    name = "-a 'quoted\" nämé 100%.png"
    path = write_picture(tmp_path / "plain.png", np.zeros((8, 8, 3), np.uint8)).rename(tmp_path / name)
    result = upscale_file(Options(input=path, output=tmp_path / "out"), engine=engine)
    assert result.path.name == "-a 'quoted\" nämé 100%_4x.png"
    assert result.path.exists()


def test_an_output_is_not_overwritten(tmp_path, engine):
    target = write_picture(tmp_path / "out.png", np.zeros((8, 8, 3), np.uint8))
    before = target.read_bytes()
    source = write_picture(tmp_path / "in.png", np.full((8, 8, 3), 99, np.uint8))
    options = Options(input=source, output=target)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        upscale_file(options, engine=engine)
    assert target.read_bytes() == before
    upscale_file(options.replace(overwrite=True), engine=engine)
    assert target.read_bytes() != before


def test_cancel_leaves_nothing(tmp_path, engine):
    source = make_clip(tmp_path / "in.mkv", size="32x32", rate="25", frames=60)
    cancel = threading.Event()
    counts = []

    def progress(state):
        counts.append(state.frames)
        cancel.set()

    with pytest.raises(Cancelled, match="stopped after"):
        upscale_file(Options(input=source, output=tmp_path / "out"), progress, cancel, engine)
    assert len(counts) == 1
    assert not list((tmp_path / "out").iterdir())


def test_a_failing_chunk_leaves_nothing(tmp_path, engine, monkeypatch):
    source = make_clip(tmp_path / "in.mkv", size="32x32", rate="25", frames=60)
    original = type(engine.pipeline)._denoise

    def fail_later(self, lq, state, plan, geometry, noise):
        if state.chunk == 2:
            raise RuntimeError("the kernel fell over")
        return original(self, lq, state, plan, geometry, noise)

    monkeypatch.setattr(type(engine.pipeline), "_denoise", fail_later)
    with pytest.raises(RuntimeError, match="fell over"):
        upscale_file(Options(input=source, output=tmp_path / "out"), engine=engine)
    assert not list((tmp_path / "out").iterdir())


def test_a_dying_encoder_is_an_error(tmp_path, engine, monkeypatch):
    """FFmpeg is killed between two chunks: no hang, no file."""
    from src.video import writer

    source = make_clip(tmp_path / "in.mkv", size="32x32", rate="25", frames=60)
    made = []
    original = writer.VideoWriter.__init__

    def remember(self, *args, **settings):
        original(self, *args, **settings)
        made.append(self)

    monkeypatch.setattr(writer.VideoWriter, "__init__", remember)

    def progress(state):
        deadline = time.monotonic() + 20
        while not made and time.monotonic() < deadline:  # the writing thread starts it with its first frame
            time.sleep(0.01)
        os.kill(made[0].process.pid, signal.SIGKILL)

    with pytest.raises(VideoError):
        upscale_file(Options(input=source, output=tmp_path / "out"), progress, engine=engine)
    assert not list((tmp_path / "out").iterdir())


def test_full_needs_a_vae(tmp_path):
    with pytest.raises(InputError, match="no VAE decoder"):
        upscale_file(Options(input=SAMPLE, output=tmp_path, model="nano", mode="full", device="cpu"))
    assert not list(tmp_path.iterdir())


def test_in_memory(engine):
    frames = [np.full((10, 12, 3), level, np.uint8) for level in (0, 128, 255)]
    out = list(upscale(frames, Options(scale=2), engine))
    assert [frame.shape for frame in out] == [(20, 24, 3)] * 3
    assert out[0].dtype == np.uint8
    assert list(upscale([], Options(), engine)) == []
    with pytest.raises(InputError, match="after one of"):
        list(upscale([*frames, np.zeros((4, 4, 3), np.uint8)], Options(), engine))
    with pytest.raises(InputError, match="must be"):
        list(upscale([np.zeros((4, 4), np.uint8)], Options(), engine))


@pytest.mark.parametrize("level", [0, 37, 128, 200, 255])
def test_a_flat_picture_comes_back(engine, level):
    """No tint, no border: a flat colour stays flat up to what nano's 8-bit arithmetic leaves."""
    frame = np.empty((45, 50, 3), np.uint8)
    frame[:] = (level, 255 - level, 128)
    out = next(iter(upscale([frame], Options(scale=2), engine))).astype(int)
    assert np.abs(out.mean((0, 1)) - (level, 255 - level, 128)).max() <= 1


def test_every_mode_runs_through_the_same_loop(tmp_path):
    source = make_clip(tmp_path / "in.mkv", size="16x16", rate="25", frames=23)
    for mode in ("tiny", "tiny-long", "full"):
        from src.releases import get_release

        pipeline = tiny_pipeline(mode, attention=Attention("block", SamplingConfig().sparse_ratio, 3, 3))
        small = Engine(get_release("1.1"), pipeline.models, pipeline)
        result = upscale_file(Options(input=source, output=tmp_path / f"{mode}.mkv", mode=mode), engine=small)
        assert probe(result.path).frames == 23
