"""The command line as a person meets it: one line per error, exit codes, nothing left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import run
from src.config import Options
from src.video import probe, write_picture
from tests.video_helpers import ffmpeg

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "inputs" / "bbb_320x180.mp4"


@pytest.fixture
def picture(tmp_path):
    return write_picture(tmp_path / "in.png", np.full((16, 16, 3), 90, np.uint8))


def refused(capsys, *arguments) -> str:
    """Run in this process; the one line that stands on stderr."""
    code = run.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return lines[0]


def outputs(folder: Path) -> list[Path]:
    return list(folder.rglob("*")) if folder.exists() else []


# --------------------------------------------------------------------------- good runs


def test_a_run(tmp_path, picture, capsys):
    assert run.main(["-i", str(picture), str(tmp_path / "out"), "-s", "2", "-v", "nano", "-d", "cpu"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("1 frames of 32x32 in ")
    assert captured.out.rstrip().endswith("in_2x.png")
    for word in ("device: cpu", "dtype:", "weights: nano", "attention:"):
        assert captured.err.count(word) == 1, "each choice is logged once, with its reason"


def test_quiet(tmp_path, picture, capsys):
    assert run.main(["--quiet", "-i", str(picture), str(tmp_path / "out"), "-v", "nano", "-d", "cpu"]) == 0
    assert capsys.readouterr().err == ""


def test_the_installed_program(tmp_path, picture):
    """As a person starts it, from another folder, with a name that begins with a dash."""
    odd = picture.rename(tmp_path / "-odd näme's.png")
    command = [sys.executable, ROOT / "run.py", "-i", odd.name, "out dir/", "--color-fix", "--model", "nano"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out dir" / "-odd näme's_4x.png").exists()


def test_every_option_reaches_options():
    parser = run.make_parser()
    help_text = parser.format_help()
    for flag in ("--tiled-vae", "--kv-ratio", "--local-range", "-v", "-q", "--codec", "--version", "--verbose"):
        assert flag in help_text
    words = ["-i", "-x.mp4", "out", "-s", "2", "-m", "full", "-v", "11", "--color-fix", "-t", "fp16", "-a", "dense"]
    words += ["--sparse-ratio", "1.5", "--start", "1:00", "--end", "2:00", "-f", "24", "-q", "3", "--unload-dit"]
    values = vars(parser.parse_args(run.protect_names(words)))
    values = {k: v for k, v in values.items() if k not in ("quiet", "verbose")}
    options = Options(**values)
    assert (options.input, options.output) == (Path("-x.mp4"), "out")
    assert (options.mode, options.model, options.color_fix, options.dtype) == ("full", "1.1", "adain", "fp16")
    assert (options.attention, options.sparse_ratio, options.quality, options.unload_dit) == ("dense", 1.5, 3, True)


@pytest.mark.parametrize(
    ("words", "color", "output"),
    [
        (["--color-fix", "out"], "adain", "out"),
        (["--color-fix", "none", "out"], "none", "out"),
        (["out", "--color-fix"], "adain", "out"),
        (["out", "--color-fix=wavelet"], "wavelet", "out"),
    ],
)
def test_a_bare_color_fix_does_not_swallow_the_output(words, color, output):
    values = vars(run.make_parser().parse_args(run.protect_names(["-i", "x", *words])))
    assert (values["color_fix"], values["output"]) == (color, output)


def test_help_and_version_are_instant():
    for flag, words in (("--help", "examples:"), ("--version", "FlashVSR+")):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, ROOT / "run.py", flag], capture_output=True, text=True, check=True)
        assert words in done.stdout
        # Half a second is the promise; a loaded machine may need more, an import of torch always does.
        assert time.perf_counter() - began < 2


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-s", "0"], "--scale 0 is outside 1..4"),
        (["-s", "9"], "--scale 9 is outside 1..4"),
        (["-s", "abc"], "--scale 'abc' is not a number"),
        (["--model", "2.0"], "--model '2.0' is not one of"),
        (["-m", "huge"], "--mode 'huge' is not one of"),
        (["-d", "cuda:77"], "--device cuda:77"),
        (["-d", "tpu"], "--device 'tpu' is not one of"),
        (["--codec", "mpeg1"], "--codec 'mpeg1' is not one of"),
        (["--tile-size", "64", "--overlap", "40"], "--tile-size 64 is smaller than twice --overlap 40"),
        (["-r", "big"], "--resolution 'big' is not one of 720p"),
        (["-r", "8x8"], "the input is larger already"),
        (["--vram", "0"], "--vram 0.0 is outside"),
        (["-m", "full", "-v", "nano"], "no VAE decoder"),
        (["--start", "5"], "start"),
        (["--start", "2", "--end", "1"], "--end 1 is not after --start 2"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, words):
    out = tmp_path / "out"
    assert words in refused(capsys, "-i", SAMPLE, out, *arguments)
    assert not outputs(out)


def test_bad_words(capsys):
    for words in (["--nonsense"], ["a", "b"], []):
        with pytest.raises(SystemExit) as stopped:
            run.main(words)
        assert stopped.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error:")


def make_bad_inputs(folder: Path) -> dict[str, Path]:
    """The files that people really feed such a tool."""
    (folder / "text.mp4").write_text("this is no video\n" * 50)
    (folder / "zero.mp4").touch()
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("hello")
    (folder / "truncated.mp4").write_bytes(SAMPLE.read_bytes()[:20_000])
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac", folder / "audio.m4a")
    sizes = folder / "sizes"
    sizes.mkdir()
    write_picture(sizes / "a.png", np.zeros((8, 8, 3), np.uint8))
    write_picture(sizes / "b.png", np.zeros((8, 9, 3), np.uint8))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    names = [
        "text.mp4",
        "zero.mp4",
        "empty",
        "texts",
        "truncated.mp4",
        "audio.m4a",
        "sizes",
        "broken.png",
        "missing.mp4",
    ]
    return {name: folder / name for name in names}


@pytest.mark.parametrize(
    "name",
    ["text.mp4", "zero.mp4", "empty", "texts", "truncated.mp4", "audio.m4a", "sizes", "broken.png", "missing.mp4"],
)
def test_bad_inputs(tmp_path, capsys, name):
    path = make_bad_inputs(tmp_path)[name]
    out = tmp_path / "out"
    line = refused(capsys, "-i", path, out, "-v", "nano", "-d", "cpu")
    assert name in line or name == "sizes", line
    assert not [p for p in outputs(out) if p.is_file()]


def test_a_truncated_video_with_an_index_is_read_as_far_as_it_goes(tmp_path, capsys):
    whole = tmp_path / "whole.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:r=25", "-frames:v", 40, "-c:v", "mjpeg", whole)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert run.main(["-i", str(cut), str(tmp_path / "o.mkv"), "-s", "1", "-v", "nano", "-d", "cpu"]) == 0
    assert 5 < probe(tmp_path / "o.mkv").frames < 40


@pytest.mark.parametrize(("width", "height"), [(1, 1), (321, 179)])
def test_odd_videos(tmp_path, width, height):
    source = tmp_path / "in.mkv"
    picture = f"testsrc2=s={max(width, 2)}x{max(height, 2)}:r=25,format=yuv444p,crop={width}:{height}"
    ffmpeg("-f", "lavfi", "-i", picture, "-frames:v", 2, "-c:v", "ffv1", source)
    scale = 1 if width > 1 else 4
    assert run.main(["-i", str(source), str(tmp_path / "o.mp4"), "-s", str(scale), "-v", "nano", "-d", "cpu"]) == 0
    info = probe(tmp_path / "o.mp4")
    assert (info.width, info.height, info.frames) == (width * scale, height * scale, 2)


def test_an_unwritable_target(tmp_path, capsys, picture):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert "file" in refused(capsys, "-i", picture, blocked / "sub" / "out.png", "-v", "nano", "-d", "cpu")
    assert blocked.read_text() == "not a folder"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_target(tmp_path, capsys, monkeypatch):
    """Every byte that the encoder writes fails as on a full disk."""
    import resource

    source = tmp_path / "in.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:r=25", "-frames:v", 30, "-c:v", "ffv1", source)
    code = (
        "import resource, run, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); sys.exit(run.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "-i", source, tmp_path / "out", "-v", "nano", "-d", "cpu", "-q", "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "error:" in done.stderr
    assert not outputs(tmp_path / "out")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


def test_corrupted_weights(tmp_path, capsys, picture):
    """A damaged file of a release that was asked for by name: an error that names it, no fallback to nano."""
    folder = tmp_path / "weights" / "FlashVSR-v1.1"
    shutil.copytree(ROOT / "models" / "nano", folder)
    for path in folder.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])
    dit = folder / "diffusion_pytorch_model_streaming_dmd.safetensors"
    for old, new in (("LQ_proj_in.safetensors", "LQ_proj_in.ckpt"), ("TCDecoder.safetensors", "TCDecoder.ckpt")):
        (folder / old).rename(folder / new)
    line = refused(
        capsys, "-i", picture, tmp_path / "out", "--models-dir", tmp_path / "weights", "-v", "1.1", "-d", "cpu"
    )
    assert dit.name in line
    assert not outputs(tmp_path / "out")


def test_missing_weights_offline(tmp_path, capsys, picture, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    line = refused(
        capsys, "-i", picture, tmp_path / "out", "--models-dir", tmp_path / "weights", "-v", "1.1", "-d", "cpu"
    )
    assert "HF_HUB_OFFLINE" in line
    assert "LQ_proj_in.ckpt" in line
    assert not outputs(tmp_path / "out")


def test_a_trailing_slash_makes_a_folder(tmp_path, picture):
    out = tmp_path / "v1.2"
    assert run.main(["--quiet", "-i", str(picture), f"{out}/", "-v", "nano", "-d", "cpu"]) == 0
    assert (out / "in_4x.png").exists()


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError, RuntimeError])
def test_out_of_memory(tmp_path, capsys, picture, monkeypatch, kind):
    from src.pipelines.stream import Pipeline

    def fail(*details):
        raise kind("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nmore lines")

    monkeypatch.setattr(Pipeline, "_denoise", fail)
    line = refused(capsys, "-i", picture, tmp_path / "out", "-v", "nano", "-d", "cpu")
    assert "out of memory at 64x64 with whole frame" in line
    assert "use a lower --scale" in line
    assert not outputs(tmp_path / "out")


def test_existing_output(tmp_path, capsys, picture):
    target = tmp_path / "in_4x.png"
    target.write_bytes(b"mine")
    assert "--overwrite" in refused(capsys, "-i", picture, tmp_path, "-v", "nano", "-d", "cpu")
    assert target.read_bytes() == b"mine"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c(tmp_path):
    """Stops at once, cleans up, exits 130, shows no traceback."""
    out = tmp_path / "out"
    command = [sys.executable, ROOT / "run.py", "-i", SAMPLE, out, "-v", "nano", "-d", "cpu", "-t", "fp32"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell makes what it runs in the background deaf to Ctrl-C, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not outputs(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert outputs(out), "the temporary file never appeared"
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    assert not outputs(out)
