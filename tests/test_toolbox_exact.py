"""Exact numbers of every tool: frames, durations and sound, over rates and odd counts."""

from fractions import Fraction

import numpy as np
import pytest

from src.video import probe
from tests.toolbox_helpers import frames_of, heard_marks, marked_clip, numbers, sound_seconds
from toolbox import make_steps, run_chain

RATES = ("24000/1001", "25", "30", "60")
FRAMES = 41
MARKS = (0.2, 0.45)


@pytest.fixture(scope="module", params=RATES)
def clip(request, tmp_path_factory):
    return marked_clip(tmp_path_factory.mktemp("clips") / "clip.mkv", FRAMES, request.param, MARKS), Fraction(
        request.param
    )


def half_up(value: Fraction) -> int:
    return int(value + Fraction(1, 2))


def run(source, tmp_path, *steps, name="out.mp4"):
    """The outcome of one chain, written in high quality; what the file holds is compared with what was said."""
    if not any(tool in ("export", "frames") for tool, _ in steps):
        steps = (*steps, ("export", {"preset": "h264-high", "quality": 10}))
    outcome = run_chain(source, make_steps(steps), tmp_path / name)
    info = probe(outcome.path)
    assert (info.frames, info.fps, info.width, info.height) == (
        outcome.frames,
        outcome.rate,
        outcome.width,
        outcome.height,
    )
    assert abs(float(info.duration - outcome.duration)) <= float(1 / (2 * info.fps))
    assert not info.variable_rate
    return outcome


STRETCHED = 0.015  # atempo moves a short sound by up to this, the same at the start and the end of a clip


def check_sound(outcome, expected, slack=0.0):
    heard = heard_marks(outcome.path)
    assert len(heard) == len(expected), (heard, expected)
    # Half a frame, and what the frames of the audio codec smear.
    limit = 0.5 / float(min(outcome.rate, 60)) + 0.004 + slack
    assert np.abs(np.array(heard) - expected).max() < limit, (heard, expected)
    assert abs(sound_seconds(outcome.path) - float(outcome.duration)) < 0.5 / float(outcome.rate) + 0.03


@pytest.mark.parametrize("asked", [{"factor": "2"}, {"factor": 4}, {"fps": "75"}])
def test_interpolate(clip, tmp_path, asked):
    source, rate = clip
    outcome = run(source, tmp_path, ("interpolate", {"method": "mci", **asked}))
    wanted = Fraction(asked["fps"]) if "fps" in asked else rate * int(asked["factor"])
    assert (outcome.rate, outcome.frames) == (wanted, half_up(FRAMES * wanted / rate))
    check_sound(outcome, MARKS)
    frames = frames_of(outcome.path)
    seen = [(float(frame[..., 1].mean()) - 16) / 4 for frame in frames]
    places = np.minimum(np.arange(len(frames)) * float(rate / wanted), FRAMES - 1)
    # Grey frames have no motion to follow: what lies between two is one or the other, or something between them.
    assert np.abs(seen - places).max() < 1.01
    whole = [index for index in range(len(frames)) if (index * rate / wanted).denominator == 1]
    assert np.abs(np.array(seen)[whole] - places[whole]).max() < 0.3
    assert numbers([frames[0], frames[-1]]) == [0, FRAMES - 1]


@pytest.mark.parametrize("factor", ["0.25", "2/3", "4"])
def test_speed(clip, tmp_path, factor):
    source, rate = clip
    speed = Fraction(factor)
    outcome = run(source, tmp_path, ("speed", {"factor": factor}))
    assert (outcome.rate, outcome.frames) == (rate, max(1, half_up(FRAMES / speed)))
    check_sound(outcome, [mark / float(speed) for mark in MARKS], STRETCHED)
    middle = [min(FRAMES - 1, int((i + Fraction(1, 2)) * speed)) for i in range(outcome.frames)]
    assert numbers(frames_of(outcome.path)) == middle


def test_speed_that_keeps_every_frame(clip, tmp_path):
    source, rate = clip
    outcome = run(source, tmp_path, ("speed", {"factor": 2, "frames": "keep-all"}))
    assert (outcome.rate, outcome.frames) == (rate * 2, FRAMES)
    check_sound(outcome, [mark / 2 for mark in MARKS], STRETCHED)
    assert numbers(frames_of(outcome.path)) == list(range(FRAMES))


def test_loop(clip, tmp_path):
    source, rate = clip
    outcome = run(source, tmp_path, ("loop", {"times": 3}))
    assert numbers(frames_of(outcome.path)) == list(range(FRAMES)) * 3
    length = float(FRAMES / rate)
    check_sound(outcome, [turn * length + mark for turn in range(3) for mark in MARKS])


def test_loop_to_a_duration(clip, tmp_path):
    source, rate = clip
    outcome = run(source, tmp_path, ("loop", {"duration": "3.3"}))
    count = half_up(Fraction("3.3") * rate)
    assert numbers(frames_of(outcome.path)) == [number % FRAMES for number in range(count)]


def test_ping_pong(clip, tmp_path):
    source, rate = clip
    outcome = run(source, tmp_path, ("ping-pong", {"times": 2}))
    there = list(range(FRAMES))
    period = there + there[-2:0:-1]
    assert numbers(frames_of(outcome.path)) == period * 2
    length, turn = len(period) / float(rate), float(FRAMES / rate)
    once = [*MARKS, *sorted(turn + (turn - 1 / float(rate) - mark) for mark in MARKS)]
    check_sound(outcome, [*once, *(length + time for time in once)])


def test_trim_copies_the_sound(clip, tmp_path):
    source, rate = clip
    outcome = run(source, tmp_path, ("trim", {"start": "0.3", "end": "0.6"}))
    first, stop = -int(-Fraction("0.3") * rate // 1), -int(-Fraction("0.6") * rate // 1)
    assert numbers(frames_of(outcome.path)) == list(range(first, stop))
    check_sound(outcome, [0.45 - first / float(rate)])


def test_trim_and_interpolate_copy_the_sound(clip, tmp_path):
    source, rate = clip
    steps = ("trim", {"start": "0.3", "end": "0.6"}), ("interpolate", {"factor": 2, "method": "mci"})
    outcome = run(source, tmp_path, *steps)
    first, stop = -int(-Fraction("0.3") * rate // 1), -int(-Fraction("0.6") * rate // 1)
    assert numbers(frames_of(outcome.path)[::2]) == list(range(first, stop))
    check_sound(outcome, [0.45 - first / float(rate)])


def test_reverse(clip, tmp_path):
    source, rate = clip
    outcome = run(source, tmp_path, ("reverse", {}))
    assert numbers(frames_of(outcome.path)) == list(range(FRAMES))[::-1]
    check_sound(outcome, sorted(float(FRAMES / rate) - mark for mark in MARKS))


def test_join_at_another_rate_and_size(clip, tmp_path):
    source, rate = clip
    other = marked_clip(tmp_path / "other.mkv", 25, "50", (0.3,), (96, 48))
    outcome = run(source, tmp_path, ("join", {"clips": [other]}))
    tail = max(1, half_up(Fraction(25, 50) * rate)) if rate > 50 else -int(-Fraction(25, 50) * rate // 1)
    assert abs(outcome.frames - FRAMES - float(tail)) <= 1
    assert (outcome.width, outcome.height, outcome.rate) == (64, 48, rate)
    check_sound(outcome, [*MARKS, float(FRAMES / rate) + 0.3])
    bars = frames_of(outcome.path)[-1]
    assert bars[:4].max() < 24 < bars[24].min()


def test_frame_rate(clip, tmp_path):
    source, rate = clip
    outcome = run(source, tmp_path, ("frame-rate", {"fps": 15}))
    assert (outcome.rate, outcome.frames) == (15, half_up(15 * FRAMES / rate))
    check_sound(outcome, MARKS)


def test_a_long_chain(clip, tmp_path):
    """Everything that changes time, one after the other: no rounding adds up."""
    source, rate = clip
    steps = [
        ("trim", {"start": "0.1"}),
        ("interpolate", {"factor": 2, "method": "mci"}),
        ("speed", {"factor": "0.5"}),
        ("reverse", {}),
        ("loop", {"times": 2}),
        ("crop", {"width": 48, "height": 32}),
        ("resize", {"width": 96}),
    ]
    outcome = run(source, tmp_path, *steps)
    first = -int(-Fraction("0.1") * rate // 1)
    once = (FRAMES - first) * 4
    assert (outcome.rate, outcome.frames, outcome.width, outcome.height) == (rate * 2, once * 2, 96, 64)
    length, cut = float(once / (rate * 2)), first / float(rate)
    marks = sorted(length - (mark - cut) * 2 for mark in MARKS)
    check_sound(outcome, [*marks, *(length + mark for mark in marks)], STRETCHED)
