"""Export, pictures, colours, side by side, analysis and measures, on real files."""

import json
import logging
import xml.etree.ElementTree
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.errors import InputError, OutputExistsError
from src.video import probe
from tests.toolbox_helpers import disc, frames_of, heard_marks, marked_clip, psnr
from tests.video_helpers import SAMPLE, ffmpeg, stream_lines
from toolbox import make_steps, run_chain
from toolbox.analyse import analyse, rows, text
from toolbox.color import color_fix
from toolbox.plot import line_chart, thinned


def export(source, target, *before, **values):
    return run_chain(source, make_steps([*before, ("export", values)]), target)


def noise_clip(path: Path, frames: int, size: str, rate: str, *sound: object) -> Path:
    """A clip that no encoder likes: moving pattern with noise."""
    source = f"testsrc2=s={size}:r={rate},noise=alls=40:allf=t"
    ffmpeg("-f", "lavfi", "-i", source, *sound, "-frames:v", frames, "-c:v", "libx264", "-qp", 12, path)
    return path


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    return marked_clip(tmp_path_factory.mktemp("clips") / "marked.mkv", 25, "25", (0.2, 0.6))


# --------------------------------------------------------------------------- presets


@pytest.mark.parametrize(
    ("preset", "name", "codec"),
    [
        ("h264-small", "a.mp4", "h264"),
        ("h264-high", "a.mkv", "h264"),
        ("hevc", "a.mp4", "hevc"),
        ("av1", "a.mp4", "av1"),
        ("av1", "a.webm", "av1"),
        ("webm", "a.webm", "vp9"),
        ("prores", "a.mov", "prores"),
        ("gif", "a.gif", "gif"),
    ],
)
def test_presets(marked, tmp_path, preset, name, codec):
    outcome = export(marked, tmp_path / name, ("loop", {"times": 2}), ("resize", {"width": 96}), preset=preset)
    info = probe(outcome.path)
    assert (info.codec.split()[0], info.width, info.height) == (codec, 96, 72)
    assert (info.frames, info.fps) == (50, 25)
    assert abs(psnr(frames_of(outcome.path)[7], np.full((72, 96, 3), 44))) > 30
    if preset == "gif":
        assert outcome.kind == "animation"
        assert any("sound" in note for note in outcome.notes)
    else:
        assert len(heard_marks(outcome.path)) == 4


def test_webp(tmp_path):
    outcome = export(SAMPLE, tmp_path / "a.webp", ("trim", {"end": "0.4"}), width=160)
    frames = frames_of(SAMPLE)
    with Image.open(outcome.path) as picture:
        assert (picture.n_frames, picture.size, picture.info["loop"]) == (10, (160, 90), 0)
        for number in (0, 9):
            picture.seek(number)
            small = Image.fromarray(frames[number]).resize((160, 90), Image.Resampling.LANCZOS)
            assert psnr(np.asarray(picture.convert("RGB")), np.asarray(small)) > 28


def test_smaller_presets_are_smaller(tmp_path):
    sizes = [
        export(SAMPLE, tmp_path / f"{name}.mp4", preset=name).bytes
        for name in ("h264-small", "h264-balanced", "h264-high")
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.8 * sizes[2]


def test_width_rate_and_sound_of_an_export(marked, tmp_path):
    outcome = export(marked, tmp_path / "a.mp4", width=33, fps=10, audio="drop")
    assert (outcome.width, outcome.height, outcome.rate, outcome.frames) == (32, 24, 10, 10)
    assert not probe(outcome.path).audio_streams
    with_sound = export(marked, tmp_path / "b.mp4", width=1000)
    assert (with_sound.width, len(heard_marks(with_sound.path))) == (64, 2)


def test_odd_sizes_become_even(tmp_path):
    source = marked_clip(tmp_path / "odd.mkv", 5, "25", (), (63, 49))
    outcome = export(source, tmp_path / "a.mp4")
    assert (outcome.width, outcome.height) == (62, 48)
    assert any("cropped" in note for note in outcome.notes)
    assert "yuv420p" in stream_lines(outcome.path, "Video")[0]


TONE = ("-f", "lavfi", "-i", "sine=f=440:d=20", "-c:a", "aac", "-b:a", "128k", "-shortest")


@pytest.mark.parametrize(
    ("frames", "size", "rate", "sound", "megabytes", "name", "preset"),
    [
        (75, "320x180", "25", TONE, 0.15, "a.mp4", "h264-balanced"),
        (61, "256x144", "30000/1001", (), 0.05, "a.mp4", "h264-small"),
        (48, "192x108", "24", TONE, 0.06, "a.webm", "webm"),
        (50, "192x108", "50", TONE, 0.07, "a.mp4", "hevc"),
        (40, "192x108", "25", (), 0.05, "a.mp4", "av1"),
    ],
)
def test_files_stay_under_the_asked_size(tmp_path, frames, size, rate, sound, megabytes, name, preset):
    source = noise_clip(tmp_path / "noise.mkv", frames, size, rate, *sound)
    outcome = export(source, tmp_path / name, preset=preset, size_mb=megabytes)
    assert 0.6 * megabytes * 1e6 < outcome.path.stat().st_size <= megabytes * 1e6
    info = probe(outcome.path)
    assert (info.frames, info.fps, len(info.audio_streams)) == (frames, Fraction(rate), 1 if sound else 0)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_impossible_size_is_refused_with_the_least_possible(tmp_path):
    source = noise_clip(tmp_path / "noise.mkv", 50, "320x180", "25")
    with pytest.raises(InputError, match=r"--size-mb 0\.01 is too small.*at least \d.*MB"):
        export(SAMPLE, tmp_path / "a.mp4", size_mb=0.01, preset="av1", fps=60)
    with pytest.raises(InputError, match=r"--size-mb 0\.004 cannot be reached: the smallest of 5 tries has"):
        export(source, tmp_path / "a.mp4", size_mb=0.004)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("a.mp4", {"preset": "gif"}, "gif is written as .gif"),
        ("a.gif", {"preset": "hevc"}, "--preset gif"),
        ("a.webm", {"preset": "prores"}, "prores is written as .mov"),
        ("a.xyz", {}, "is written as .mp4"),
        ("a.gif", {"preset": "gif", "size_mb": 3}, "does not work with gif"),
        ("a.mp4", {"size_mb": 3, "quality": 5}, "contradict"),
        ("a.mp4", {"quality": 11}, "outside 1..10"),
        ("a.mp4", {"preset": "divx"}, "not one of"),
        ("a.mp4", {"colour": "red"}, "no parameter 'colour'"),
    ],
)
def test_nonsense_pairs_are_refused(tmp_path, name, values, words):
    with pytest.raises(InputError, match=words) as error:
        export(SAMPLE, tmp_path / name, **values)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_gif_of_ten_thousand_frames_is_warned_about_and_made(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=16x16:r=50", "-frames:v", 10_000),
        *("-c:v", "libx264", "-preset", "ultrafast", tmp_path / "long.mp4"),
    )
    outcome = export(tmp_path / "long.mp4", tmp_path / "long.gif")
    assert outcome.frames == 10_000
    assert any("10000 frames make a very large GIF" in record.getMessage() for record in caplog.records)
    assert any("very large GIF" in note for note in outcome.notes)
    with Image.open(outcome.path) as picture:
        assert picture.n_frames > 9_000  # equal neighbours are joined


# --------------------------------------------------------------------------- pictures


def test_frames_out_and_in_again(marked, tmp_path):
    outcome = run_chain(marked, make_steps([("frames", {"every": 4})]), tmp_path / "pictures")
    assert outcome.kind == "frames"
    assert [path.name for path in outcome.files] == [f"frame_{number:06d}.png" for number in range(1, 8)]
    video = export(tmp_path / "pictures", tmp_path / "back.mp4", ("frame-rate", {"fps": "24000/1001"}))
    assert (video.frames, video.rate) == (7, Fraction(24000, 1001))
    again = make_steps([("frames", {"limit": 2, "format": "jpg"})])
    assert len(run_chain(marked, again, tmp_path / "pictures", overwrite=True).files) == 2
    with pytest.raises(OutputExistsError):
        run_chain(marked, again, tmp_path / "pictures")


def test_a_folder_of_other_things_is_never_emptied(marked, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match=r"other files \(letter\.txt\)"):
        run_chain(marked, make_steps([("frames", {})]), tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


# --------------------------------------------------------------------------- colours, side by side


def lossless(path: Path, frames: list[np.ndarray], rate: str = "25") -> Path:
    height, width = frames[0].shape[:2]
    data = b"".join(frame.tobytes() for frame in frames)
    ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-framerate", rate, "-i", "-"),
        *("-c:v", "ffv1", "-pix_fmt", "gbrp", path),
        data=data,
    )
    return path


@pytest.mark.parametrize("method", ["wavelet", "adain"])
def test_colours_are_those_of_the_colour_fix(tmp_path, method):
    rng = np.random.default_rng(1)
    frames = [rng.integers(0, 200, (40, 60, 3)).astype(np.uint8) for _ in range(3)]
    models = [np.clip(frame.astype(int) // 2 + 90, 0, 255).astype(np.uint8) for frame in frames]
    source, reference = lossless(tmp_path / "a.mkv", frames), lossless(tmp_path / "b.mkv", models)
    steps = make_steps([("color", {"reference": reference, "method": method}), ("frames", {})])
    outcome = run_chain(source, steps, tmp_path / "out")
    for path, frame, model in zip(outcome.files, frames, models, strict=True):
        one, two = (torch.from_numpy(x).permute(2, 0, 1)[None].float() / 127.5 - 1 for x in (frame, model))
        wanted = ((color_fix(method, one, two)[0].permute(1, 2, 0) + 1) * 127.5).numpy()
        assert np.abs(np.asarray(Image.open(path)) - wanted).max() <= 0.51


def test_a_picture_is_a_reference_for_all_frames_and_other_lengths_are_refused(marked, tmp_path):
    Image.fromarray(np.full((20, 30, 3), (200, 60, 60), np.uint8)).save(tmp_path / "red.png")
    outcome = export(marked, tmp_path / "red.mp4", ("color", {"reference": tmp_path / "red.png", "method": "adain"}))
    mean = frames_of(outcome.path)[12].mean((0, 1))
    assert mean[0] > mean[2] + 80
    short = marked_clip(tmp_path / "short.mkv", 7, "25")
    with pytest.raises(InputError, match="has 7 frames, but the clip has 25"):
        export(marked, tmp_path / "x.mp4", ("color", {"reference": short}))
    with pytest.raises(InputError, match="has 7 frames, but the clip has 25"):
        export(marked, tmp_path / "x.mp4", ("side-by-side", {"other": short}))


def test_side_by_side_and_slider(tmp_path):
    dark, bright = [np.full((32, 64, 3), level, np.uint8) for level in (40, 200)]
    one, two = lossless(tmp_path / "a.mkv", [dark[:16, :32]] * 100), lossless(tmp_path / "b.mkv", [bright] * 100)
    beside = export(two, tmp_path / "beside.mp4", ("side-by-side", {"other": one}))
    assert (beside.width, beside.height, beside.frames) == (128, 32, 100)
    frame = frames_of(beside.path)[50]
    assert abs(frame[:, :60].mean() - 40) < 3 < 190 < frame[:, 68:].mean()
    slider = frames_of(export(two, tmp_path / "s.mp4", ("side-by-side", {"other": one, "layout": "slider"})).path)
    shares = [float((frame[16, :, 1] < 120).mean()) for frame in slider]
    assert shares[0] < 0.05
    assert abs(shares[25] - 0.5) < 0.05
    assert shares[50] > 0.95
    assert shares[75] < 0.55


# --------------------------------------------------------------------------- analysis and measures


def test_analyse(tmp_path):
    facts = analyse(SAMPLE)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["video"]["rate"] == "25"
    assert (facts["video"]["width"], facts["video"]["height"], facts["video"]["frames"]) == (320, 180, 50)
    assert facts["audio"][0]["codec"] == "aac"
    assert facts["file"]["bytes"] == SAMPLE.stat().st_size
    table = dict(rows(facts))
    assert table["video: frames"] == "50"
    assert table["audio 1: channels"] == "2"
    assert len(text(facts).splitlines()) == len(table)
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=64x64:r=24000/1001", "-frames:v", 3, "-pix_fmt", "yuv420p10le"),
        *("-c:v", "libx265", "-x265-params", "log-level=none:colorprim=9:transfer=16:colormatrix=9"),
        tmp_path / "hdr.mp4",
    )
    hdr = analyse(tmp_path / "hdr.mp4")
    assert (hdr["color"]["hdr"], hdr["color"]["matrix"], hdr["video"]["bits"]) == ("PQ", "bt2020", 10)
    assert hdr["video"]["rate"] == "24000/1001"
    Image.new("RGB", (30, 20)).save(tmp_path / "p.png")
    assert analyse(tmp_path / "p.png")["video"]["width"] == 30
    with pytest.raises(InputError, match="does not exist"):
        analyse(tmp_path / "nothing.mp4")


def compare(one, two, output=None, **values):
    return run_chain(one, make_steps([("compare", {"reference": two, **values})]), output)


def test_measures(tmp_path):
    frames = [disc(number, 128, 64) for number in range(7)]
    rng = np.random.default_rng(0)
    noisy = [np.clip(f + rng.normal(0, 8, (64, 128, 1)), 0, 255).round().astype(np.uint8) for f in frames]
    one, two = lossless(tmp_path / "a.mkv", frames), lossless(tmp_path / "b.mkv", noisy)
    outcome = compare(two, one, tmp_path / "plot.svg")
    summary = outcome.report["summary"]
    # Grey noise of 8 levels, in limited range: 8 * 219 / 255.
    assert abs(summary["psnr"]["mean"] - 20 * np.log10(255 / (8 * 219 / 255))) < 0.4
    assert 0.2 < summary["ssim"]["mean"] < 0.95
    assert 0 <= summary["vmaf"]["mean"] < 99
    assert [frame["frame"] for frame in outcome.report["frames"]] == list(range(7))
    root = xml.etree.ElementTree.fromstring(outcome.path.read_text())
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 3
    same = compare(one, one).report["summary"]
    assert same["ssim"]["least"] > 0.999
    assert same["vmaf"]["mean"] > summary["vmaf"]["mean"] + 1
    assert same["psnr"]["least"] >= 60


def test_a_reference_of_another_size_or_length_is_refused(tmp_path):
    one = lossless(tmp_path / "a.mkv", [disc(0)] * 3)
    with pytest.raises(InputError, match="is 128x32, but"):
        compare(one, lossless(tmp_path / "b.mkv", [disc(0)[:32]] * 3))
    longer = lossless(tmp_path / "c.mkv", [disc(0)] * 5)
    with pytest.raises(InputError, match="has 5 frames, but"):
        compare(one, longer)
    assert len(compare(one, longer, shortest=True, measures="psnr").report["frames"]) == 3
    small = lossless(tmp_path / "d.mkv", [disc(0)[:8, :8]] * 3)
    with pytest.raises(InputError, match="vmaf needs sides of at least 16"):
        compare(small, small)


def test_plots_keep_their_peaks():
    values = [1.0] * 20_000
    values[12_345] = 9.0
    points = thinned(values)
    assert len(points) <= 1500
    assert (12_345, 9.0) in points
    xml.etree.ElementTree.fromstring(line_chart("<&>", {"one": [3.0], "none": [float("inf"), 2.0]}))
