"""TCDecoder: parity, merged upsampling, chunked equals whole."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from src.config import TCDecoderConfig
from src.models.tcdecoder import TCDecoder, TGrow, upsampling_kernels
from src.state import ConvState
from tests.golden_data import assert_close, golden, load, manifest, video, weights


@pytest.fixture(scope="module")
def decoder():
    return load(TCDecoder(TCDecoderConfig(tuple(golden("tcdecoder")[1]["channels"]))), weights("tcdecoder"))


def inputs():
    data = golden("tcdecoder")[0]
    return data["in.latents"], video(data["in.cond_u8"])[0].transpose(0, 1)


def test_keys_and_shapes_are_the_checkpoints():
    with torch.device("meta"):
        state = TCDecoder(TCDecoderConfig()).state_dict()
    assert {k: list(v.shape) for k, v in state.items()} == manifest("tcdecoder")["tensors"]


def test_parity(decoder):
    z, condition = inputs()
    frames = decoder(z, condition, ConvState(), decoder.constants())
    # 27 layers chained, and two merged into one: float32 rounding (the original's own two modes differ by 2e-6).
    assert_close(frames, golden("tcdecoder")[0]["out.frames"][0] * 2 - 1, 1e-5)


def test_condition_features_parity(decoder):
    z, condition = inputs()
    first = torch.cat([condition[:1].expand(3, -1, -1, -1), condition[:21]])
    features = decoder._features(z[:, :, :6], first)
    expected = golden("tcdecoder")[0]["out.pixel_shuffle_first21_ch0_767_step13"]
    assert torch.equal(features[None, :, :768:13], expected)
    assert torch.equal(features[:, 768:], z[0, :, :6].transpose(0, 1))


def test_chunked_equals_whole(decoder):
    z, condition = inputs()
    constants = decoder.constants()
    whole = decoder(z, condition, ConvState(), constants)
    for latents in ((6, 2, 2), (2,) * 5, (3, 4, 3), (1,) * 10, (9, 1)):
        state, parts, at, shown = ConvState(), [], 0, 0
        for count in latents:
            frames = 4 * count - (3 if at == 0 else 0)
            parts.append(decoder(z[:, :, at : at + count], condition[shown : shown + frames], state, constants))
            at, shown = at + count, shown + frames
        # oneDNN picks its algorithm by the size of the batch, and some round otherwise; a pipeline always
        # decodes with the same one.
        assert_close(torch.cat(parts), whole, 0 if set(latents) <= {2, 6} else 1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (8, 3)])
def test_merged_upsampling_is_exact(stride, size):
    """Nearest x2, TGrow, 3x3 convolution, done one after the other in float64, borders included."""
    grow, conv = TGrow(6, stride).double(), nn.Conv2d(6, 5, 3, padding=1, bias=False).double()
    x = torch.randn(3, 6, *size, dtype=torch.float64)
    grown = grow.conv(F.interpolate(x, scale_factor=2, mode="nearest")).unflatten(1, (stride, 6)).flatten(0, 1)
    expected = conv(grown).unflatten(0, (3, stride))
    kernels = upsampling_kernels(grow, conv)
    for step, kernel in enumerate(kernels):
        # The kernels are merged in float32.
        assert_close(F.conv_transpose2d(x, kernel, stride=2, padding=1), expected[:, step], 1e-5)


def test_residual_adds_the_condition():
    config = TCDecoderConfig(channels=(8, 8, 8, 8), residual=True)
    model = TCDecoder(config).eval()
    for parameter in model.parameters():
        parameter.data.zero_()
    condition = torch.rand(5, 3, 16, 16) * 2 - 1
    frames = model(torch.randn(1, 16, 2, 2, 2), condition, ConvState(), model.constants())
    assert_close(frames, condition, 1e-6)


def test_state_does_not_grow(decoder):
    z, condition = inputs()
    constants, state = decoder.constants(), ConvState()
    sizes = []
    for count in (6, 2, 2):
        decoder(z[:, :, :count], condition[: 4 * count - (0 if sizes else 3)], state, constants)
        sizes.append(sum(t.numel() for t in state.tails.values()))
    assert sizes[0] == sizes[1] == sizes[2] > 0
