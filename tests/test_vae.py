"""The Wan VAE: parity with the original, checkpoint names, and the laws of a stream."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from src.config import VAEConfig
from src.errors import InputError
from src.models.vae import LATENT_MEAN, LATENT_STD, VAEState, VAETiling, WanVAE
from src.state import tensors_of
from tests.golden_data import assert_close, golden, load, manifest, video, weights

# Float32 through some 30 convolutions, summed in another order than the original: 1e-4 for
# chained modules (measured: 2e-6).
CHAINED = 1e-4
SMALL = VAEConfig(dim=8)


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    return load(WanVAE(SMALL), weights("vae", "w.model."))


@pytest.fixture(scope="module")
def tiling() -> VAETiling:
    config = golden("vae")[1]
    return VAETiling(tuple(config["tile_size"]), tuple(config["tile_stride"]))


def stored(name: str) -> Tensor:
    return golden("vae")[0][name]


def decode_in(vae: WanVAE, z: Tensor, sizes: list[int], tiling: VAETiling | None = None) -> Tensor:
    state = vae.new_state(tiling)
    return torch.cat([vae.decode(part, state) for part in z.split(sizes, dim=2)], dim=2)


# --------------------------------------------------------------------------- the checkpoint


def test_names_and_shapes_are_the_checkpoint_s():
    with torch.device("meta"):
        state = WanVAE(VAEConfig()).state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == manifest("vae")["tensors"]


def test_without_encoder_only_decoder_keys_remain():
    with torch.device("meta"):
        state = WanVAE(VAEConfig(), encoder=False).state_dict()
    expected = {
        name: shape for name, shape in manifest("vae")["tensors"].items() if name.startswith(("conv2.", "decoder."))
    }
    assert {name: list(tensor.shape) for name, tensor in state.items()} == expected


def test_built_on_the_meta_device_it_decodes_the_same(vae):
    """Nothing but the checkpoint's tensors is needed: no buffer is left behind on the meta device."""
    with torch.device("meta"):
        other = WanVAE(SMALL, encoder=False)
    own = {name: tensor for name, tensor in weights("vae", "w.model.").items() if name in other.state_dict()}
    other.load_state_dict(own, assign=True)
    z = stored("in.latents_nonsquare")
    assert torch.equal(other.decode_clip(z), vae.decode_clip(z))


def test_constants():
    config = golden("vae")[1]
    torch.testing.assert_close(torch.tensor(LATENT_MEAN), torch.tensor(config["mean"]), rtol=0, atol=0)
    torch.testing.assert_close(torch.tensor(LATENT_STD), torch.tensor(config["std"]), rtol=0, atol=0)


# --------------------------------------------------------------------------- parity


def test_golden_stream(vae):
    assert_close(decode_in(vae, stored("in.latents"), [3, 1, 1]), stored("out.stream_decode"), CHAINED)


def test_golden_whole(vae):
    assert_close(vae.decode_clip(stored("in.latents")), stored("out.stream_decode").clamp(-1, 1), CHAINED)


def test_golden_nonsquare(vae):
    assert_close(vae.decode_clip(stored("in.latents_nonsquare")), stored("out.decode_nonsquare"), CHAINED)


def test_golden_tiled(vae, tiling):
    got = vae.decode_clip(stored("in.latents"), tiling)[:, :, ::4]
    assert_close(got, stored("out.decode_tiled_frames_0_4_8_12_16"), CHAINED)


def test_golden_encode(vae):
    assert_close(vae.encode(video(stored("in.video_u8"))), stored("out.encode"), CHAINED)


def test_golden_encode_tiled(vae, tiling):
    assert_close(vae.encode(video(stored("in.video_u8")), tiling), stored("out.encode_tiled"), CHAINED)


# --------------------------------------------------------------------------- laws of a stream


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1, 1], [2, 3], [4, 1]])
@pytest.mark.parametrize("tiles", [None, VAETiling((3, 4), (2, 2))], ids=["whole", "tiled"])
def test_chunked_equals_whole(vae, sizes, tiles):
    """Bit by bit: work goes one latent frame at a time whatever the portions."""
    z = stored("in.latents")[..., :4, :5]
    assert torch.equal(decode_in(vae, z, sizes, tiles), vae.decode(z, vae.new_state(tiles)))


def test_where_the_memory_waits_does_not_matter(vae):
    z = stored("in.latents")[:, :, :2, :3, :4]
    parked, stay = (VAETiling((2, 3), (1, 2), park=park) for park in (True, False))
    assert torch.equal(decode_in(vae, z, [1, 1], parked), decode_in(vae, z, [1, 1], stay))


def test_two_interleaved_streams_equal_two_separate_ones(vae):
    z = torch.randn(2, 1, 16, 4, 3, 4)
    expected = [vae.decode(one, vae.new_state()) for one in z]
    states = [vae.new_state() for _ in z]
    parts = [[vae.decode(one[:, :, t : t + 1], state) for one, state in zip(z, states, strict=True)] for t in range(4)]
    for index in range(2):
        assert torch.equal(torch.cat([pair[index] for pair in parts], dim=2), expected[index])


def test_the_future_never_changes_the_past(vae):
    z = stored("in.latents_nonsquare")
    other = torch.cat([z[:, :, :1], z[:, :, 1:] + 1], dim=2)
    assert torch.equal(vae.decode(z, vae.new_state())[:, :, :1], vae.decode(other, vae.new_state())[:, :, :1])


def test_decoding_leaves_module_and_input_alone(vae):
    before = copy.deepcopy(vae.state_dict())
    z = torch.randn(1, 16, 2, 3, 3)
    kept = z.clone()
    vae.decode(z, vae.new_state())
    vae.encode(torch.randn(1, 3, 5, 16, 16))
    assert torch.equal(z, kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())


@pytest.mark.parametrize("tiled", [False, True])
def test_state_size_is_constant(vae, tiled):
    tiles = VAETiling((2, 2), (1, 1)) if tiled else None
    state, sizes = vae.new_state(tiles), []
    for _ in range(12):
        vae.decode(torch.randn(1, 16, 1, 2, 3), state)
        sizes.append(sum(tensor.numel() for tensor in tensors_of(state)))
        for tensor in tensors_of(state):  # a view would keep its whole buffer alive
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    assert sizes[1] == sizes[-1] > 0
    assert len(state.streams) == (2 if tiled else 1)


def test_frame_counts(vae):
    state = vae.new_state()
    for t, frames in ((1, 1), (1, 4), (2, 8)):
        assert vae.decode(torch.randn(1, 16, t, 1, 2), state).shape == (1, 3, frames, 8, 16)
    state = vae.new_state()
    assert vae.decode(torch.randn(1, 16, 3, 1, 1), state).shape == (1, 3, 9, 8, 8)


def test_encoder_drops_an_incomplete_group(vae):
    clip = torch.rand(1, 3, 8, 16, 24) * 2 - 1
    assert vae.encode(clip[:, :, :1]).shape == (1, 16, 1, 2, 3)
    assert vae.encode(clip[:, :, :4]).shape == (1, 16, 1, 2, 3)
    assert torch.equal(vae.encode(clip), vae.encode(clip[:, :, :5]))


# --------------------------------------------------------------------------- number formats


# 8 (bfloat16) or 11 (float16) mantissa bits through some 30 convolutions: a mean error of about one
# last bit of values near 1 (measured: 0.0034 and 0.0004), with room for other kernels.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)])
def test_half_precision_is_close(vae, dtype, tolerance):
    half = copy.deepcopy(vae).to(dtype)
    z = stored("in.latents_nonsquare")
    got = half.decode(z.to(dtype), half.new_state())
    assert got.dtype == dtype
    assert (got.float() - vae.decode(z, vae.new_state())).abs().mean() < tolerance
    clip = video(stored("in.video_u8"))[:, :, :5, :32, :32]
    encoded = half.encode(clip.to(dtype))
    assert encoded.dtype == torch.float32
    assert (encoded - vae.encode(clip)).abs().mean() < tolerance


def test_channels_last_gives_the_same_picture(vae):
    """The layout that GPUs like: other kernels, so equal up to the order of sums."""
    other = copy.deepcopy(vae).channels_last()
    z = stored("in.latents_nonsquare")
    assert other.decoder.conv1.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert_close(other.decode_clip(z), vae.decode_clip(z), CHAINED)
    assert torch.equal(decode_in(other, z, [1, 1]), decode_in(other, z, [2]))


# --------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "shape", [(16, 1, 2, 2), (2, 16, 1, 2, 2), (1, 4, 1, 2, 2), (1, 16, 0, 2, 2), (1, 16, 1, 0, 2)]
)
def test_latents_of_a_wrong_shape_are_refused(vae, shape):
    state = vae.new_state()
    with pytest.raises(InputError, match="latents of shape"):
        vae.decode(torch.zeros(shape), state)
    assert state == VAEState()


def test_a_size_that_changes_in_the_stream_is_refused(vae):
    state = vae.new_state()
    vae.decode(torch.zeros(1, 16, 1, 2, 3), state)
    with pytest.raises(InputError, match="3x2 in a stream that began with 2x3"):
        vae.decode(torch.zeros(1, 16, 1, 3, 2), state)


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (1, 1, 1, 8, 8), (1, 3, 0, 8, 8), (1, 3, 1, 8, 12)])
def test_a_video_of_a_wrong_shape_is_refused(vae, shape):
    with pytest.raises(InputError, match="video of"):
        vae.encode(torch.zeros(shape))


def test_encoding_needs_the_encoder():
    with pytest.raises(InputError, match="without its encoder"):
        WanVAE(SMALL, encoder=False).encode(torch.zeros(1, 3, 1, 8, 8))


def test_bad_tiling_is_refused(vae):
    with pytest.raises(InputError, match="stride"):
        vae.decode(torch.zeros(1, 16, 1, 2, 2), vae.new_state(VAETiling((4, 4), (5, 4))))
