"""Interpolation: quality of motion compensation, RIFE's code with random weights, cuts, duplicates, weights."""

import io
import itertools
import logging
from fractions import Fraction

import numpy as np
import pytest
import torch

from src.errors import DeviceError, DownloadError, InputError, WeightsError
from tests.hub_server import closed_world, server  # noqa: F401 - fixtures
from tests.toolbox_helpers import clip_of, disc, psnr
from toolbox import rife
from toolbox.clip import Job
from toolbox.interpolate import interpolate
from toolbox.rife_net import IFNet
from toolbox.scenes import Scenes


def settings(**changes):
    values = {
        "factor": "2",
        "fps": None,
        "method": "mci",
        "device": "cpu",
        "flow_scale": 1.0,
        "scene_threshold": 0.1,
        "duplicates": "keep",
    }
    return {**values, **changes}


def checkpoint(prefix: str = "module.") -> bytes:
    """A file as the authors publish it, with small random weights and the teacher that inference leaves out."""
    torch.manual_seed(0)
    state = {prefix + name: tensor * 0.5 for name, tensor in IFNet().state_dict().items()}
    state[prefix + "block_tea.conv0.0.0.weight"] = torch.zeros(45, 14, 3, 3)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A models folder with RIFE's file."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "RIFE").mkdir()
    (folder / "RIFE" / "flownet.pkl").write_bytes(checkpoint())
    return folder


def test_a_moving_disc_is_3_db_better_than_repeated_frames():
    frames = [disc(number) for number in range(9)]
    made = list(interpolate(Job(), clip_of(frames), **settings()))
    truth = [disc(number + 0.5) for number in range(8)]
    ours = np.mean([psnr(made[2 * number + 1], wanted) for number, wanted in enumerate(truth)])
    repeated = np.mean([psnr(frames[number], wanted) for number, wanted in enumerate(truth)])
    assert ours > repeated + 3, (ours, repeated)
    for number, frame in enumerate(frames):
        assert np.array_equal(made[2 * number], frame)
    assert len(made) == 18
    assert np.array_equal(made[-1], frames[-1])


@pytest.mark.parametrize("method", ["mci", "rife"])
@pytest.mark.parametrize("asked", [{"factor": "2"}, {"factor": "8"}, {"fps": Fraction(60)}])
def test_source_frames_come_out_untouched_at_their_times(weights, method, asked):
    rate = Fraction(24000, 1001)
    frames = [disc(number, 70, 50) for number in range(5)]
    clip = clip_of(frames, "24000/1001")
    result = interpolate(Job(models_dir=weights), clip, **settings(method=method, **asked))
    made = list(result)
    wanted = asked["fps"] or 0 if "fps" in asked else rate * int(asked["factor"])
    assert result.rate == wanted
    assert len(made) == result.count == int(5 * wanted / rate + Fraction(1, 2))
    for index, frame in enumerate(made):
        place = index * rate / wanted
        assert frame.shape == (50, 70, 3)
        assert frame.dtype == np.uint8
        if place.denominator == 1 and place < 5:
            assert np.array_equal(frame, frames[int(place)])
    assert np.array_equal(made[-1], frames[-1])


@pytest.mark.parametrize("method", ["mci", "rife"])
@pytest.mark.parametrize("asked", [{"factor": "4"}, {"fps": Fraction(60)}])
def test_nothing_is_blended_across_a_cut(weights, method, asked):
    """Two shots of different content: every frame belongs to one of them, the earlier ones to the first."""
    rng = np.random.default_rng(3)
    ground = rng.integers(0, 60, (48, 64, 3)).astype(np.uint8)
    shots = [ground.copy() for _ in range(4)] + [255 - ground for _ in range(3)]
    made = list(interpolate(Job(models_dir=weights), clip_of(shots), **settings(method=method, **asked)))
    step = Fraction(25) / (Fraction(100) if "factor" in asked else asked["fps"])
    for index, frame in enumerate(made):
        first = index * step < Fraction(7, 2)
        assert psnr(frame, shots[0] if first else shots[-1]) > 30, index


def test_gradual_changes_and_motion_are_no_cuts():
    fade = [np.full((36, 64, 3), 8 * number, np.uint8) for number in range(30)]
    pan = [disc(number / 2, 128, 64) for number in range(20)]
    for frames in (fade, pan):
        assert sum(1 for _ in (list(shot) for shot in Scenes(iter(frames), 0.1))) == 1
    assert len([list(shot) for shot in Scenes(iter([*fade, *[255 - frame for frame in fade[::-1]]]), 0.1)]) == 2


def test_repeated_frames_are_kept_or_smoothed(weights):
    """Animation on twos: with "smooth" the frames between are computed, with "keep" the rhythm stays."""
    twos = [disc(2 * (number // 2)) for number in range(8)]
    job = Job(models_dir=weights)
    kept = list(interpolate(job, clip_of(twos), **settings(method="rife")))
    smooth = list(interpolate(job, clip_of(twos), **settings(method="rife", duplicates="smooth")))
    assert len(kept) == len(smooth) == 16
    assert np.array_equal(kept[0], kept[1])
    assert np.array_equal(kept[1], kept[2])
    assert np.array_equal(smooth[0], kept[0])
    assert all(not np.array_equal(one, two) for one, two in itertools.pairwise(smooth[:13]))
    still = [disc(0)] * 7
    assert all(np.array_equal(frame, still[0]) for frame in interpolate(job, clip_of(still), **settings(method="rife")))


def test_deep_frames_stay_deep(weights):
    frames = [disc(number, 64, 48).astype(np.uint16) * 257 for number in range(3)]
    for method in ("mci", "rife"):
        made = list(interpolate(Job(models_dir=weights), clip_of(frames), **settings(method=method)))
        assert {frame.dtype for frame in made} == {np.dtype(np.uint16)}
        assert np.array_equal(made[2], frames[1])


@pytest.mark.parametrize("size", [(2, 2), (31, 17), (33, 64)])
@pytest.mark.parametrize("method", ["mci", "rife"])
def test_any_size_and_any_count(weights, method, size):
    rng = np.random.default_rng(0)
    for count in (1, 2):
        frames = [rng.integers(100, 130, (size[1], size[0], 3)).astype(np.uint8) for _ in range(count)]
        made = list(interpolate(Job(models_dir=weights), clip_of(frames), **settings(method=method)))
        assert len(made) == 2 * count
        assert np.array_equal(made[0], frames[0])
        assert np.array_equal(made[-1], frames[-1])


def test_other_times_are_the_nearest_eighth(weights):
    net = rife.Rife(rife.load(weights, torch.device("cpu")), torch.device("cpu"))
    one, two = disc(0, 64, 64), disc(1, 64, 64)
    eighths = list(net.between(one, two, [Fraction(number, 8) for number in range(1, 8)]))
    odd = list(net.between(one, two, [Fraction(1, 20), Fraction(2, 5), Fraction(19, 20)]))
    assert np.array_equal(odd[0], one)
    assert np.array_equal(odd[1], eighths[2])
    assert np.array_equal(odd[2], two)
    middle = net._frame(net.net(net._tensor(one), net._tensor(two)).clamp(0, 1), one)
    assert np.array_equal(eighths[3], middle)


@pytest.mark.parametrize("scale", [0.25, 0.5, 2])
def test_flow_scale(weights, scale):
    frames = [disc(number, 70, 50) for number in range(2)]
    made = list(interpolate(Job(models_dir=weights), clip_of(frames), **settings(method="rife", flow_scale=scale)))
    assert len(made) == 4


def test_weights_are_downloaded_and_checked(server, tmp_path, caplog):  # noqa: F811
    caplog.set_level(logging.INFO)
    server.put("AlexWortega/RIFE", "flownet.pkl", checkpoint())
    clip = clip_of([disc(number, 64, 48) for number in range(2)])
    job = Job(models_dir=tmp_path)
    assert len(list(interpolate(job, clip, **settings(method="rife")))) == 4
    assert (tmp_path / "RIFE" / "flownet.pkl").is_file()
    assert any("RIFE on cpu" in note for note in job.notes)
    asked = len(server.requests)
    job = Job(models_dir=tmp_path)
    assert len(list(interpolate(job, clip, **settings(method="auto")))) == 4  # there now: auto takes them
    assert any("RIFE on cpu" in note for note in job.notes)
    assert len(server.requests) == asked


def test_auto_takes_motion_compensation_and_says_why(tmp_path):
    job = Job(models_dir=tmp_path)
    made = list(interpolate(job, clip_of([disc(0), disc(1)]), **settings(method="auto")))
    assert len(made) == 4
    assert any("RIFE's weights are not in" in note and "--method rife" in note for note in job.notes)
    with pytest.raises(DownloadError, match=r"flownet\.pkl"):
        interpolate(Job(models_dir=tmp_path), clip_of([disc(0), disc(1)]), **settings(method="rife"))


def test_foreign_weights_and_devices_are_refused(tmp_path):
    (tmp_path / "RIFE").mkdir()
    path = tmp_path / "RIFE" / "flownet.pkl"
    torch.save({"module.block0.conv0.0.0.weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="missing"):
        rife.load(tmp_path, torch.device("cpu"))
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(WeightsError, match="web page"):
        rife.load(tmp_path, torch.device("cpu"))
    with pytest.raises(DeviceError, match="nonsense"):
        rife.pick_device("nonsense")


def test_rates_that_make_no_sense():
    clip = clip_of([disc(0), disc(1)])
    with pytest.raises(InputError, match="frame-rate"):
        interpolate(Job(), clip, **settings(fps=Fraction(10)))
    with pytest.raises(InputError, match="64 times"):
        interpolate(Job(), replace_rate(clip), **settings(fps=Fraction(1000)))
    job = Job()
    assert interpolate(job, clip, **settings(fps=Fraction(25))) is clip
    assert job.notes


def replace_rate(clip):
    from dataclasses import replace

    return replace(clip, rate=Fraction(1))
