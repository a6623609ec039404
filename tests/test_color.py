"""Colour fix: parity with the original, and the laws it must keep."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from src.errors import InputError
from tests.golden_data import assert_close, golden
from toolbox.color import adain, color_fix, wavelet

METHODS = ("adain", "wavelet")


def golden_frames(name: str) -> Tensor:
    """(1, 3, F, H, W) of the golden file -> (F, 3, H, W)."""
    return golden("color_fix")[0][name][0].transpose(0, 1)


def random_pair(frames: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pair = torch.rand(2, frames, 3, height, width, generator=generator) * 2 - 1
    return pair[0], pair[1]


@pytest.mark.parametrize("method", METHODS)
def test_golden(method):
    # A single module in float32, sums in another order: 1e-5 (measured: 3e-7).
    got = color_fix(method, golden_frames("in.hq"), golden_frames("in.lq"))
    assert_close(got, golden_frames(f"out.{method}"), 1e-5)


def blur(x: Tensor, radius: int) -> Tensor:
    """One level, written as the definition has it."""
    line = torch.tensor([1.0, 2.0, 1.0])
    kernel = (line[:, None] * line / 16).expand(3, 1, 3, 3)
    return F.conv2d(F.pad(x, (radius,) * 4, mode="replicate"), kernel, dilation=radius, groups=3)


def test_the_plain_blur_is_the_original_one():
    """Guards the definition below: one convolution in another order of summation."""
    got = blur(golden("color_fix")[0]["in.lq"][:, :, 0], 16)
    assert_close(got, golden("color_fix")[0]["out.wavelet_blur_radius16_lq_frame0"], 1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (150, 7), (131, 259)])
def test_wavelet_equals_its_definition_at_odd_sizes(size):
    """Smaller than the margins, and just over the strips: the fast blur against plain convolutions."""
    frames, reference = random_pair(2, *size)
    high, low_frames, low_reference = torch.zeros_like(frames), frames, reference
    for radius in (1, 2, 4, 8, 16):
        blurred = blur(low_frames, radius)
        high += low_frames - blurred
        low_frames, low_reference = blurred, blur(low_reference, radius)
    # Float32 rounding of two chains of five blurs.
    assert_close(wavelet(frames, reference), (high + low_reference).clamp(-1, 1), 2e-6)


def test_adain_takes_mean_and_deviation_of_the_reference():
    frames, reference = (x * 0.3 for x in random_pair(2, 40, 56))
    got = adain(frames * 0.5 + 0.1, reference)
    # The EPS under both roots (1e-5 against variances of 0.01 and more) leaves a relative 1e-3 or less.
    assert_close(got.mean((2, 3)), reference.mean((2, 3)), 1e-6)
    torch.testing.assert_close(got.std((2, 3)), reference.std((2, 3)), rtol=1e-3, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_chunked_equals_whole(method):
    frames, reference = random_pair(5, 40, 33)
    whole = color_fix(method, frames, reference)
    for size in (1, 2, 3):
        parts = [color_fix(method, frames[i : i + size], reference[i : i + size]) for i in range(0, 5, size)]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("method", METHODS)
def test_frames_like_their_reference_stay(method):
    frames, _ = random_pair(2, 64, 48)
    assert_close(color_fix(method, frames, frames.clone()), frames, 1e-6)  # rounding only


@pytest.mark.parametrize("method", METHODS)
def test_flat_frames_take_the_reference_colour(method):
    """No contrast to scale, nothing but a colour to move: no division by 0, borders included."""
    got = color_fix(method, torch.full((1, 3, 37, 50), 0.25), torch.full((1, 3, 37, 50), -0.5))
    assert_close(got, torch.full((1, 3, 37, 50), -0.5), 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_output_is_clamped_and_inputs_are_untouched(method):
    frames, reference = random_pair(2, 32, 32)
    frames, reference = frames * 1.5, reference * 1.5
    before = frames.clone(), reference.clone()
    got = color_fix(method, frames, reference)
    assert got.min() == -1
    assert got.max() == 1
    assert torch.equal(frames, before[0])
    assert torch.equal(reference, before[1])


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_is_computed_in_float32(method):
    frames, reference = (x.bfloat16() for x in random_pair(1, 40, 40))
    got = color_fix(method, frames, reference)
    assert got.dtype == torch.float32
    assert torch.equal(got, color_fix(method, frames.float(), reference.float()))


@pytest.mark.parametrize("method", METHODS)
def test_views_and_layouts_do_not_matter(method):
    frames, reference = random_pair(3, 140, 24)
    expected = color_fix(method, frames, reference)
    video = frames.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(color_fix(method, video, reference), expected)
    last = frames.contiguous(memory_format=torch.channels_last)
    for other in (reference, reference.contiguous(memory_format=torch.channels_last)):
        got = color_fix(method, last, other)
        assert got.is_contiguous(memory_format=torch.channels_last)
        assert_close(got, expected, 1e-6)  # adain: means summed in another order


def test_none_changes_nothing():
    frames, reference = random_pair(1, 8, 8)
    assert color_fix("none", frames, reference) is frames


def test_errors():
    frames, reference = random_pair(2, 8, 8)
    with pytest.raises(InputError, match="sepia"):
        color_fix("sepia", frames, reference)
    for bad in (reference[:1], reference[..., :7], reference[:, :1]):
        with pytest.raises(InputError, match="one size"):
            wavelet(frames, bad)
    with pytest.raises(InputError, match="one size"):
        adain(frames[:0], reference[:0])


_BELOW = ("src.video", "src.hub", "src.tensor_files", "src.errors")


def test_toolbox_stands_on_the_ground_floor():
    """Of src, the toolbox may import only video/, hub.py, tensor_files.py and errors.py."""
    files = sorted((Path(__file__).parent.parent / "toolbox").glob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                foreign = name.split(".")[0] == "src" and not name.startswith(_BELOW)
                assert not foreign, f"{path.name} imports {name}"
