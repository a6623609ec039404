"""Long jobs: segments, the journal, and everything that can happen in the middle."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from src import Options, discard_job, plan_job, upscale_file
from src.device import DTYPES
from src.engine import Engine, make_engine
from src.errors import Cancelled, DeviceError, InputError, VideoError
from src.journal import JobFolder, folder_of
from src.memory import LEAST_TILE, Placement
from src.pipelines.stream import Pipeline
from src.plan import Fitting
from src.video import open_source, probe
from tests.small_disk import small_disk
from tests.video_helpers import audio, ffmpeg, video_packets

ROOT = Path(__file__).parent.parent
FRAMES = 90
SEGMENT = 24


@pytest.fixture(scope="module")
def engine() -> Engine:
    return make_engine(Options(model="nano", device="cpu"))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A moving pattern with sound."""
    path = tmp_path_factory.mktemp("source") / "in.mkv"
    seconds = FRAMES / 24
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=48x32:r=24000/1001,format=yuv444p"),
        *("-f", "lavfi", "-i", f"sine=frequency=440:beep_factor=4:duration={seconds}", "-frames:v", FRAMES),
        *("-c:v", "ffv1", "-c:a", "aac", path),
    )
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, source, engine) -> Path:
    """The uninterrupted run."""
    target = tmp_path_factory.mktemp("whole") / "out.mp4"
    return upscale_file(options(source, target), engine=engine).path


def options(source: Path, target: Path, **changes) -> Options:
    settings = {"scale": 2, "model": "nano", "device": "cpu", "segment_frames": SEGMENT, "no_scene_cuts": True}
    return Options(input=source, output=target, **(settings | changes))


def frames_of(path: Path) -> np.ndarray:
    with open_source(path) as opened:
        return np.stack(list(opened))


def interrupt(at: int, error: BaseException):
    def progress(state) -> None:
        if state.frames >= at:
            raise error

    return progress


def compare(path: Path, whole: Path, untouched: int = 0) -> None:
    """Every frame once, the same times and sound; frames before ``untouched`` the same, later ones nearly."""
    assert video_packets(path) == video_packets(whole)
    assert probe(path).fps == probe(whole).fps == Fraction(24000, 1001)
    assert np.array_equal(audio(path), audio(whole))
    ours, theirs = frames_of(path).astype(int), frames_of(whole).astype(int)
    assert ours.shape == theirs.shape == (FRAMES, 64, 96, 3)
    assert np.array_equal(ours[:untouched], theirs[:untouched])
    # The warm-up leaves out what lies further back than it: a level here and there after the encoder.
    assert np.abs(ours - theirs).mean() < 0.5
    assert np.percentile(np.abs(ours - theirs), 99.9) <= 8


def test_segments_are_joined_exactly(source, whole):
    packets = video_packets(whole)
    assert packets == [Fraction(n * 1001, 24000) for n in range(FRAMES)]
    assert not folder_of(whole).exists()
    assert list(whole.parent.iterdir()) == [whole]


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_other_codecs_join_too(tmp_path, source, engine, codec):
    target = tmp_path / "out.mkv"
    upscale_file(options(source, target, codec=codec, scale=4, end="1.6"), engine=engine)
    info = probe(target)
    assert (info.frames, info.fps) == (39, Fraction(24000, 1001))
    assert len(frames_of(target)) == 39


def test_a_stopped_job_goes_on(tmp_path, source, whole, engine, caplog):
    target = tmp_path / "out.mp4"
    wanted = options(source, target)
    with pytest.raises(KeyboardInterrupt):
        upscale_file(wanted, interrupt(60, KeyboardInterrupt()), engine=engine)
    assert not target.exists()
    done = plan_job(wanted, engine).resumes_at
    assert done in (24, 48), "the writer may be a few frames behind"
    # What is at stake without a warm-up, and that progress counts right.
    seen = []
    with caplog.at_level(logging.INFO):
        result = upscale_file(wanted, seen.append, engine=engine)
    assert (result.frames, result.resumed) == (FRAMES, done)
    assert "going on after" in caplog.text
    assert seen[0].frames > done
    assert seen[-1].frames == FRAMES
    assert list(tmp_path.iterdir()) == [target]
    compare(target, whole, untouched=done)


def test_killed_and_started_again(tmp_path, source, whole):
    """kill -9 of the real program, twice, at any moment."""
    target = tmp_path / "out.mp4"
    command = [sys.executable, ROOT / "run.py", "--quiet", "-i", source, target, "-s", "2", "-v", "nano", "-d", "cpu"]
    command += ["--segment-frames", str(SEGMENT), "--no-scene-cuts"]
    journal = folder_of(target) / "journal.json"
    for segments in (1, 2):
        process = subprocess.Popen(command, start_new_session=True)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if journal.exists() and len(json.loads(journal.read_text())["segments"]) >= segments:
                break
            time.sleep(0.02)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, check=False).returncode == 0
    compare(target, whole)
    assert list(tmp_path.iterdir()) == [target]


def test_what_does_not_match_is_refused(tmp_path, source, engine):
    target, copy = tmp_path / "out.mp4", tmp_path / "in.mkv"
    copy.write_bytes(source.read_bytes())
    wanted = options(copy, target)
    with pytest.raises(KeyboardInterrupt):
        upscale_file(wanted, interrupt(70, KeyboardInterrupt()), engine=engine)
    with pytest.raises(InputError, match=r"--quality was 7, now 9.*--no-resume"):
        upscale_file(wanted.replace(quality=9), engine=engine)
    with copy.open("ab") as file:
        file.write(b"more")
    with pytest.raises(InputError, match=r"the input changed.*--no-resume"):
        upscale_file(wanted, engine=engine)
    assert folder_of(target).exists(), "nothing is lost by a refusal"
    assert upscale_file(wanted.replace(no_resume=True, end="0.5"), engine=engine).resumed == 0
    assert sorted(tmp_path.iterdir()) == [copy, target]


def test_memory_options_may_change(tmp_path, source, engine):
    target = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt):
        upscale_file(options(source, target), interrupt(70, KeyboardInterrupt()), engine=engine)
    result = upscale_file(options(source, target, tiled_vae=True, offload="blocks"), engine=engine)
    assert (result.frames, result.resumed > 0) == (FRAMES, True)


def test_two_jobs_on_one_output(tmp_path, source, engine):
    target = tmp_path / "out.mp4"
    first = JobFolder(target)
    try:
        with pytest.raises(InputError, match="another job is writing"):
            upscale_file(options(source, target), engine=engine)
    finally:
        first.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_a_job_to_resume(tmp_path, source, whole, engine, monkeypatch):
    from src.video import writer

    target = tmp_path / "out.mp4"
    original = writer.VideoWriter.write
    count = 0

    def write(self, frame):
        nonlocal count
        count += 1
        if count > 60:
            self.abort()
            raise VideoError("writing failed: no space left on the disk")
        original(self, frame)

    monkeypatch.setattr(writer.VideoWriter, "write", write)
    with pytest.raises(VideoError, match="no space left"):
        upscale_file(options(source, target), engine=engine)
    monkeypatch.undo()
    assert not target.exists()
    result = upscale_file(options(source, target), engine=engine)
    assert result.resumed == 48
    compare(target, whole, untouched=48)


def test_a_disk_that_really_fills_up(tmp_path, source, whole, engine):
    with small_disk(tmp_path / "disk", f"{whole.stat().st_size // 2048}k") as disk:
        target = disk.folder / "out.mp4"
        with pytest.raises(VideoError, match=r"(?i)no space left"):
            upscale_file(options(source, target), engine=engine)
        assert not target.exists()
        assert list(folder_of(target).glob("segment_*"))
        disk.grow("20m")
        result = upscale_file(options(source, target), engine=engine)
        assert result.resumed in range(SEGMENT, FRAMES, SEGMENT)
        compare(target, whole, untouched=result.resumed)


def test_a_damaged_segment_is_made_again(tmp_path, source, engine):
    target = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt):
        upscale_file(options(source, target), interrupt(90, KeyboardInterrupt()), engine=engine)
    second = folder_of(target) / "segment_000001.mp4"
    second.write_bytes(second.read_bytes()[:-10])
    assert upscale_file(options(source, target), engine=engine).resumed == SEGMENT
    assert probe(target).frames == FRAMES


def test_discard(tmp_path, source, engine):
    target = tmp_path / "out.mp4"
    wanted = options(source, target)
    assert discard_job(wanted) is False
    with pytest.raises(KeyboardInterrupt):
        upscale_file(wanted, interrupt(70, KeyboardInterrupt()), engine=engine)
    assert discard_job(wanted) is True
    assert list(tmp_path.iterdir()) == []


def test_pause_and_cancel(tmp_path, source, engine):
    target = tmp_path / "out.mp4"
    pause, cancel = threading.Event(), threading.Event()
    paused = []

    def progress(state):
        if state.paused:
            paused.append(state.frames)
            threading.Timer(0.3, cancel.set if len(paused) == 2 else pause.clear).start()
        elif state.frames >= 30 and len(paused) < 2:
            pause.set()

    with pytest.raises(Cancelled, match="kept for the next run"):
        upscale_file(options(source, target), progress, cancel, engine, pause=pause)
    assert len(paused) == 2
    assert paused[0] < paused[1], "after the first pause it went on"


def test_out_of_memory_steps_down_and_goes_on(tmp_path, source, whole, engine, monkeypatch, caplog):
    target = tmp_path / "out.mp4"
    original, seen = Pipeline.clean, []

    def clean(self, lq, start, state, plan):
        seen.append(self.placement)
        if state.chunk + state.origin // 2 >= 5 and self.placement == Placement():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return original(self, lq, start, state, plan)

    monkeypatch.setattr(Pipeline, "clean", clean)
    # So small a picture has no lower rung that is worth a step.
    smaller = Placement(latents_at_once=1, decoder_tile=64)
    monkeypatch.setattr(Fitting, "lower", lambda self: dataclasses.replace(self, placement=smaller))
    messages = []
    with caplog.at_level(logging.WARNING):
        wanted = options(source, target)
        upscale_file(wanted, lambda p: messages.append(p.message) if p.message else None, engine=engine)
    assert "out of memory after 53 frames" in caplog.text
    assert "out of memory after 53 frames" in messages[0]
    assert seen[-1] == smaller
    compare(target, whole, untouched=48)


@pytest.fixture
def narrow_engine() -> Engine:
    """What a card without bf16 has: fp16, here with weights that drive it out of its range."""
    engine = make_engine(Options(model="nano", device="cpu", dtype="fp16"))
    engine.models.dit.head.head.weight.mul_(1e6)
    return engine


def test_fp16_that_overflows_goes_on_in_fp32(tmp_path, source, narrow_engine, monkeypatch, caplog):
    monkeypatch.setattr("src.engine.resolve_dtype", lambda name, device: DTYPES["fp16" if name == "auto" else name])
    engine, messages = narrow_engine, []
    wanted = options(source, tmp_path / "out.mp4", end="1")
    with caplog.at_level(logging.WARNING):
        upscale_file(wanted, lambda p: messages.append(p.message) if p.message else None, engine=engine)
    assert "too large for fp16 after 0 frames; going on in fp32" in caplog.text
    assert "going on in fp32" in messages[0]
    assert engine.models.dtype == torch.float32, "later jobs of this engine need not find out again"
    target = tmp_path / "wide.mp4"
    upscale_file(wanted.replace(output=target, dtype="fp32"))
    assert np.array_equal(frames_of(tmp_path / "out.mp4"), frames_of(target))
    assert len(frames_of(target)) == 24


def test_fp16_that_overflows_ends_where_it_was_asked_for(tmp_path, source, narrow_engine):
    with pytest.raises(DeviceError, match="too large for fp16"):
        upscale_file(options(source, tmp_path / "out.mp4", dtype="fp16"), engine=narrow_engine)
    assert list(tmp_path.iterdir()) == []


def test_the_bottom_of_the_ladder(tmp_path, source, engine, monkeypatch):
    def clean(self, lq, start, state, plan):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(Pipeline, "clean", clean)
    with pytest.raises(DeviceError, match=r"out of memory at 96x64 with .*expected .* GiB"):
        upscale_file(options(source, tmp_path / "out.mp4"), engine=engine)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DeviceError, match=r"does not fit: it would need"):
        upscale_file(options(source, tmp_path / "out.mp4", vram=0.1), engine=engine)
    assert LEAST_TILE >= 256
