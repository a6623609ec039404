"""Chains and the command line: one encoding, progress, cancel, refusals, batches, flat memory."""

import json
import re
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import toolbox.export
from src.errors import Cancelled, FlashVSRError, InputError, OutputExistsError
from src.video import probe
from tests.test_toolbox_export import lossless
from tests.toolbox_helpers import clip_of, disc, frames_of, marked_clip, numbers
from tests.video_helpers import SAMPLE
from toolbox import TOOLS, edit, make_steps, match, run_batch, run_chain
from toolbox.__main__ import main
from toolbox.clip import Job, open_clip
from toolbox.interpolate import interpolate

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return marked_clip(tmp_path_factory.mktemp("clips") / "clip.mkv", 21, "25", (0.2,))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --------------------------------------------------------------------------- chains


def test_frames_flow_through_a_chain_without_an_encoding_in_between(clip, tmp_path, monkeypatch):
    writers = []
    real = toolbox.export.VideoWriter
    monkeypatch.setattr(
        toolbox.export, "VideoWriter", lambda path, *a, **k: writers.append(path) or real(path, *a, **k)
    )
    steps = make_steps([("trim", {"start": "0.2"}), ("speed", {"factor": 2}), ("crop", {"width": 40}), ("export", {})])
    outcome = run_chain(clip, steps, tmp_path / "out.mkv")
    assert writers == [tmp_path / "out.mkv"]
    assert numbers(frames_of(outcome.path)) == [6, 8, 10, 12, 14, 16, 18, 20]


def test_what_cannot_be_read_backwards_is_stored_without_loss(tmp_path):
    """reverse after speed: the frames pass through a temporary file and are still the very same."""
    rng = np.random.default_rng(2)
    frames = [rng.integers(0, 256, (32, 48, 3)).astype(np.uint8) for _ in range(9)]
    job = Job(output=tmp_path / "x.mp4")
    made = list(edit.reverse(job, edit.speed(job, clip_of(frames), Fraction(2), "keep-rate")))
    assert [np.array_equal(a, b) for a, b in zip(made, [frames[i] for i in (8, 7, 5, 3, 1)], strict=True)] == [True] * 5
    deep = [frame.astype(np.uint16) * 257 + 3 for frame in frames[:3]]
    stored = list(job.stored(clip_of(deep), "storing"))
    assert all(np.array_equal(one, two) for one, two in zip(stored, deep, strict=True))
    job.close()
    assert list(tmp_path.iterdir()) == []


def test_a_loop_whose_ends_meet_shows_the_seam_once(tmp_path):
    frames = [disc(number, 64, 48) for number in (0, 1, 2, 3, 2, 1, 0)]
    looped = edit.loop(Job(), clip_of(frames), 2, None)
    assert looped.count == 13
    assert len(list(looped)) == 13
    assert np.array_equal(list(looped)[6], frames[0])
    assert np.array_equal(list(looped)[7], frames[1])
    with pytest.raises(InputError, match="at least 3 frames"):
        edit.ping_pong(Job(), clip_of(frames[:2]), None, None)


def test_parts_of_everything_that_can_be_read_from_anywhere(clip, tmp_path):
    """frames(a, b) of an edited clip are the same as that part of the whole."""
    job = Job(output=tmp_path / "x.mp4")
    source = open_clip(clip)
    for made in (
        source.part(3, 17),
        edit.loop(job, source, 3, None),
        edit.ping_pong(job, source, 2, None),
        edit.reverse(job, source),
        edit.crop(job, source, 20, 20, None, 4),
        edit.resize(job, source, 32, None, "pad"),
        edit.join(job, source, (clip,), "pad"),
    ):
        whole = numbers(list(made))
        assert len(whole) == made.count
        for first, stop in ((0, 1), (5, 12), (made.count - 2, None), (made.count // 2, made.count)):
            assert numbers(list(made.frames(first, stop))) == whole[first:stop]


def test_progress_tells_every_stage_to_its_end(clip, tmp_path):
    seen = []
    steps = make_steps([("speed", {"factor": 2}), ("reverse", {}), ("export", {"preset": "gif"})])
    run_chain(clip, steps, tmp_path / "a.gif", progress=seen.append)
    stages = list(dict.fromkeys(item.stage for item in seen))
    assert stages == ["preparing to read backwards", "computing the frames", "choosing colours", "writing"]
    for stage in stages[:2]:
        counts = [item.done for item in seen if item.stage == stage]
        assert counts == sorted(counts)
        assert counts[-1] == 11
    assert {item.total for item in seen} <= {11, 21, None}


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([("loop", {"times": 1000}), ("export", {})], "a.mp4"),
        ([("interpolate", {"method": "mci", "factor": 8}), ("loop", {"times": 1000})], "a.mp4"),
        ([("loop", {"times": 1000}), ("export", {"size_mb": 5})], "a.mp4"),
        ([("loop", {"times": 300}), ("export", {})], "a.gif"),
        ([("loop", {"times": 1000}), ("frames", {})], "pictures"),
    ],
)
def test_cancel_leaves_nothing_behind(clip, tmp_path, steps, name):
    cancel = threading.Event()

    def progress(state):
        if state.done > 10:
            cancel.set()

    before = threading.active_count()
    with pytest.raises(Cancelled):
        run_chain(clip, make_steps(steps), tmp_path / name, progress=progress, cancel=cancel)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() <= before
    with pytest.raises(Cancelled):
        run_chain(clip, make_steps(steps), tmp_path / name, cancel=cancel)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([], "no tool is named"),
        ([("polish", {})], "there is no tool 'polish'"),
        ([("export", {}), ("loop", {})], "export writes the result, so loop cannot follow"),
        ([("export", {}), ("export", {})], "so export cannot follow"),
        ([("analyse", {}), ("loop", {})], "stands alone"),
        ([("loop", {}), ("compare", {"reference": "x"})], "stands alone"),
        ([("loop", {"times": 2, "duration": 3})], "contradict"),
        ([("trim", {})], "needs --start"),
        ([("trim", {"start": 3, "end": 2})], "not after"),
        ([("trim", {"start": "-1"})], "not a time"),
        ([("resize", {})], "needs --width"),
        ([("speed", {})], "--factor needs a value"),
        ([("speed", {"factor": 5})], "outside 0.25..4"),
        ([("speed", {"factor": "fast"})], "not a number"),
        ([("loop", {"times": "2.5"})], "not a whole number"),
        ([("interpolate", {"factor": 3})], "not one of 2, 4, 8"),
        ([("join", {})], "--clips needs a value"),
    ],
)
def test_contradicting_steps_are_refused_before_anything_is_read(steps, words):
    with pytest.raises(InputError, match=words) as error:
        make_steps(steps)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([("trim", {"start": 5})], "no frame lies between"),
        ([("trim", {"end": "0.5"}), ("trim", {"start": "0.5"})], "no frame lies between"),
        ([("crop", {"width": 65})], "does not lie inside the frame of 64x48"),
        ([("crop", {"x": 64})], "does not lie inside"),
        ([("interpolate", {"fps": 10})], "frame-rate"),
        ([("join", {"clips": ["nowhere.mp4"]})], "nowhere.mp4 does not exist"),
        ([("color", {"reference": "nowhere.png"})], "nowhere.png"),
    ],
)
def test_steps_that_do_not_fit_the_clip_are_refused(clip, tmp_path, steps, words):
    with pytest.raises(InputError, match=words) as error:
        run_chain(clip, make_steps(steps), tmp_path / "a.mp4")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def bad_files(folder: Path) -> dict[str, Path]:
    (folder / "empty.mp4").touch()
    (folder / "renamed.mp4").write_bytes(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + b"stream " * 500)
    (folder / "cut.mp4").write_bytes(SAMPLE.read_bytes()[:40_000])
    return {name: folder / f"{name}.mp4" for name in ("empty", "renamed", "cut", "missing")}


@pytest.mark.parametrize("tool", ["loop", "analyse", "frames"])
@pytest.mark.parametrize("name", ["empty", "renamed", "cut", "missing"])
def test_bad_files_are_refused_in_one_line(tmp_path, tool, name):
    with pytest.raises(FlashVSRError) as error:
        run_chain(bad_files(tmp_path)[name], make_steps([(tool, {})]), None if tool == "analyse" else tmp_path / "x")
    assert "\n" not in str(error.value)
    assert names_in(tmp_path) == {"empty.mp4", "renamed.mp4", "cut.mp4"}


def test_outputs_are_protected_and_named(clip, tmp_path):
    steps = make_steps([("trim", {"end": "0.2"}), ("loop", {})])
    outcome = run_chain(clip, steps, f"{tmp_path}/new/")
    assert outcome.path == tmp_path / "new" / "clip_trim_loop.mp4"
    with pytest.raises(OutputExistsError):
        run_chain(clip, steps, f"{tmp_path}/new/")
    assert run_chain(clip, steps, f"{tmp_path}/new/", overwrite=True).frames == 10
    with pytest.raises(InputError, match="is one of the inputs"):
        run_chain(outcome.path, steps, outcome.path, overwrite=True)
    with pytest.raises(InputError, match="is one of the inputs"):
        run_chain(clip, make_steps([("join", {"clips": [outcome.path]})]), outcome.path, overwrite=True)


def test_a_batch_goes_on_after_a_bad_file(clip, tmp_path):
    bad = bad_files(tmp_path)["renamed"]
    items = run_batch([clip, bad, SAMPLE], make_steps([("trim", {"end": "0.2"})]), tmp_path / "out")
    assert [item.error is None for item in items] == [True, False, True]
    assert names_in(tmp_path / "out") == {"clip_trim.mp4", "bbb_320x180_trim.mp4"}


# --------------------------------------------------------------------------- memory


def long_clip(count: int) -> object:
    def frames(first: int, stop: int | None) -> Iterator[np.ndarray]:
        return (disc(number % 9, 48, 32) for number in range(first, count if stop is None else min(stop, count)))

    return replace(clip_of([disc(0, 48, 32)] * 2), count=count, frames=frames)


def memory_tools(tmp_path):
    job = Job(output=tmp_path / "x.mp4")
    picture = tmp_path / "grey.png"
    from PIL import Image

    Image.new("RGB", (48, 32), (90, 100, 110)).save(picture)
    settings = ("2", None, "mci", "cpu", 1.0, 0.1, "keep")
    return job, {
        "interpolate": lambda clip: interpolate(job, clip, *settings),
        "color": lambda clip: match.color(job, clip, picture, "adain"),
        "speed": lambda clip: edit.speed(job, clip, Fraction(2, 3), "keep-rate"),
        "loop": lambda clip: edit.loop(job, clip, 2, None),
        "ping-pong": lambda clip: edit.ping_pong(job, clip, None, None),
        "reverse": lambda clip: edit.reverse(job, clip),
        "crop": lambda clip: edit.crop(job, clip, 20, 20, None, None),
        "resize": lambda clip: edit.resize(job, clip, 64, None, "pad"),
        "stored": lambda clip: job.stored(clip, "storing"),
    }


@pytest.mark.parametrize(
    "tool", ["interpolate", "color", "speed", "loop", "ping-pong", "reverse", "crop", "resize", "stored"]
)
def test_memory_stays_flat_over_2000_frames(tmp_path, tool):
    """A frame has 4.6 kB; were they kept, 1,500 of them would be 7 MB."""
    job, tools = memory_tools(tmp_path)
    made = iter(tools[tool](long_clip(2000)))
    peaks = []
    tracemalloc.start()
    try:
        for number, _ in enumerate(made):
            if number in (500, 1990):
                peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
        job.close()
    assert peaks[1] < peaks[0] + 1_000_000, peaks


# --------------------------------------------------------------------------- command line


def test_the_command_line_runs_a_chain(clip, tmp_path, capsys):
    words = (
        f"trim {clip} --start 0.2 + interpolate --factor 2 --method mci + loop --times 2 -o {tmp_path}/a.mkv --quiet"
    )
    assert main(words.split()) == 0
    assert "64 frames of 64x48 at 50 per second, 1.280 s" in capsys.readouterr().out
    assert probe(tmp_path / "a.mkv").frames == 64
    assert main([*words.split(), "--json", "--overwrite"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["frames"], facts["rate"], facts["kind"]) == (64, "50", "video")
    assert any("mci" in note for note in facts["notes"])


def test_the_command_line_reports(clip, tmp_path, capsys):
    assert main(["analyse", str(SAMPLE)]) == 0
    assert re.search(r"video: frames +50\n", capsys.readouterr().out)
    assert main(["analyse", str(SAMPLE), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["video"]["rate"] == "25"
    assert main(["compare", str(clip), "--reference", str(clip), "--measures", "ssim", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("ssim  mean 1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("polish x.mp4", "there is no tool 'polish'"),
        ("loop", "the following arguments are required: input"),
        ("loop nowhere.mp4 --times 0", "--times 0 is outside 1..1000"),
        ("loop nowhere.mp4 -o {out}/a.mp4", "nowhere.mp4 does not exist"),
        ("loop x.mp4 --nonsense 3", "unrecognized arguments: --nonsense"),
        ("export x.mp4 + loop", "cannot follow"),
        ("export x.mp4 --preset gif -o {out}/a.mp4", "gif is written as .gif"),
        ("loop x.mp4 +", "there is no tool ''"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(tmp_path, capsys, words, message):
    try:
        code = main(words.format(out=tmp_path).split())
    except SystemExit as exit_:
        code = exit_.code
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert message in error
    assert error.startswith("error: ")
    assert "\n" not in error


def test_a_batch_on_the_command_line(clip, tmp_path, capsys):
    bad = bad_files(tmp_path)["renamed"]
    words = ["trim", str(clip), str(bad), "--end", "0.2", "-o", f"{tmp_path}/out", "--quiet"]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert "5 frames of 64x48" in printed.out
    assert "renamed.mp4" in printed.err
    assert names_in(tmp_path / "out") == {"clip_trim.mp4"}


def test_help_is_there_for_every_tool_and_quick(capsys):
    assert main([]) == 0
    overview = capsys.readouterr().out
    for name, tool in TOOLS.items():
        assert f"  {name}" in overview
        assert tool.help in overview
        with pytest.raises(SystemExit):
            main([name, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        for parameter in tool.parameters:
            assert parameter.flag in text
            assert parameter.help
            assert parameter.label
            if not parameter.required:
                assert parameter.parse(parameter.default) == parameter.default
    code = (
        "import sys; import toolbox; from toolbox.__main__ import overview; overview();"
        "heavy = {'torch', 'numpy', 'PIL', 'imageio_ffmpeg', 'huggingface_hub'} & set(sys.modules);"
        "print(heavy); sys.exit(bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_variable_rates_and_rotation_come_in_as_everywhere(tmp_path):
    source = lossless(tmp_path / "a.mkv", [disc(0, 64, 32)] * 12)
    outcome = run_chain(source, make_steps([("ping-pong", {"duration": "1"})]), tmp_path / "b.mp4")
    assert (outcome.frames, float(outcome.duration)) == (25, 1.0)
