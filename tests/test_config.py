"""Options: one declaration, checked once, readable errors."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import pytest

from src.config import DiTConfig, Options, ProjectorConfig, parse_time
from src.errors import InputError


def test_text_becomes_the_options_own_type():
    options = Options(input="a b.mp4", scale="3/2", start="1:02.5", fps="24000/1001", quality="9", seed="7")
    assert options.input == Path("a b.mp4")
    assert options.scale == Fraction(3, 2)
    assert options.start == Fraction(125, 2)
    assert options.fps == Fraction(24000, 1001)
    assert (options.quality, options.seed) == (9, 7)


def test_a_float_means_the_decimal_that_was_written():
    assert Options(scale=1.1).scale == Fraction(11, 10)


@pytest.mark.parametrize(("alias", "name"), [("10", "1.0"), ("11", "1.1"), ("nano", "nano"), ("auto", "auto")])
def test_versions_of_the_original(alias, name):
    assert Options(model=alias).model == name


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("scale", "0", "--scale 0 is outside 1..4"),
        ("scale", "9", "--scale 9 is outside 1..4"),
        ("scale", "abc", "--scale 'abc' is not a number"),
        ("scale", "1/0", "is not a number"),
        ("scale", "nan", "is not a number"),
        ("scale", float("inf"), "is not a number"),
        ("scale", None, "--scale needs a value"),
        ("quality", "11", "outside 1..10"),
        ("quality", 7.5, "is not a whole number"),
        ("model", "2.0", "--model '2.0' is not one of auto, nano, 1.0, 1.1"),
        ("mode", "huge", "is not one of tiny, tiny-long, full"),
        ("start", "-1", "is not a time"),
        ("start", "1:2:3:4", "is not a time"),
        ("device", "gpu", "--device 'gpu' is not one of"),
        ("sparse_ratio", "nan", "is not a number"),
        ("seed", "-1", "--seed -1 is outside"),
        ("overwrite", "yes", "is not true or false"),
    ],
)
def test_nonsense_is_one_line_with_the_value(name, value, words):
    with pytest.raises(InputError) as caught:
        Options(**{name: value})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_end_before_start():
    with pytest.raises(InputError, match=r"--end 1 is not after --start 2"):
        Options(start=2, end=1)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1:30", 90), ("01:01:30.25", Fraction(14761, 4)), ("0.04", Fraction(1, 25))]
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


def test_every_option_is_fully_declared():
    for item in dataclasses.fields(Options):
        meta = item.metadata
        assert meta["help"]
        assert meta["group"] in ("files", "model", "compute", "output")
        if meta["choices"]:
            assert item.default in meta["choices"]
            assert meta["const"] is None or meta["const"] in meta["choices"]


def test_options_are_a_value():
    options = Options(input="a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.scale = 2
    assert options.replace(scale=2).scale == 2
    with pytest.raises(InputError):
        options.replace(scale=5)


def test_impossible_dimensions_are_refused():
    with pytest.raises(ValueError, match="head width"):
        DiTConfig(dim=100, num_heads=3)
    with pytest.raises(ValueError, match="buffer"):
        ProjectorConfig(kind="other")
