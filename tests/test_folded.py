"""What a GPU computes in another shape gives the same numbers: folded time, merged upsampling, strips, 8 bits."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from src.config import Options, VAEConfig
from src.engine import make_engine
from src.errors import DeviceError
from src.models import tcdecoder
from src.models.lq_projector import LQProjector
from src.models.tcdecoder import TCDecoder
from src.models.vae import WanVAE
from src.ops.convs import ConvOps
from src.ops.fp8 import FP8Linear, convert, quantise_rows, why_no_fp8
from src.pipelines.geometry import to_host
from src.state import ConvState
from tests.golden_data import assert_close, golden, load, video, weights
from tests.tiny_models import CONFIG, CPU, randomise


@pytest.mark.parametrize("dim", [4, 8])
def test_the_folded_vae_streams_the_same_frames(dim):
    plain, folded = (randomise(WanVAE(VAEConfig(dim=dim), encoder=False)) for _ in range(2))
    folded.fold_time(ConvOps())
    z = torch.randn(1, 16, 4, 3, 5, generator=torch.Generator().manual_seed(dim))
    states = plain.new_state(), folded.new_state()
    for part in (z[:, :, :1], z[:, :, 1:3], z[:, :, 3:]):
        expected, ours = plain.decode(part, states[0]), folded.decode(part, states[1])
        assert_close(ours, expected, 1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["causal", "buffer"])
def test_the_folded_projector_gives_the_same_tokens(kind):
    config = replace(CONFIG.projector, kind=kind)
    plain, folded = (randomise(LQProjector(config)) for _ in range(2))
    folded.fold_time(ConvOps())
    assert {k: v.shape for k, v in folded.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    states = ConvState(), ConvState()
    for count in (25, 8, 8):
        frames = torch.randn(count, 3, 32, 48)
        assert_close(folded(frames, states[1]), plain(frames, states[0]), 1e-4)


def test_the_folded_projector_is_the_originals():
    data = golden("lq_proj")[0]
    from src.config import ProjectorConfig

    settings = ProjectorConfig(kind="causal", hidden_dims=(24, 40), out_dim=256)
    projector = load(LQProjector(settings), weights("lq_proj")).fold_time(ConvOps())
    frames = video(data["in.video_u8"])[0].transpose(0, 1)
    tokens = projector(frames, ConvState())
    assert_close(tokens.view(10, 12, 256), data["out.v11.stream"], 1e-5)


def test_strips_and_single_steps_change_nothing(monkeypatch):
    decoder = randomise(TCDecoder(CONFIG.tcdecoder))
    constants, states = decoder.constants(), (ConvState(), ConvState())
    for steps in (3, 2):
        latents = torch.randn(1, 16, steps, 6, 5)
        lq = torch.randn(4 * steps - (3 if steps == 3 else 0), 3, 48, 40)
        expected = decoder(latents, lq, states[0], constants)
        with monkeypatch.context() as patch:
            patch.setattr(tcdecoder, "_strip_rows", lambda x, channels: 5)
            assert_close(decoder(latents, lq, states[1], constants), expected, 1e-6)


def test_rows_in_8_bits_keep_what_three_mantissa_bits_can():
    torch.manual_seed(0)
    x = torch.randn(64, 300) * torch.logspace(-3, 3, 64)[:, None]
    rows, scale = quantise_rows(x)
    assert rows.dtype == torch.float8_e4m3fn
    error = (rows.float() * scale - x).norm(dim=1) / x.norm(dim=1)
    assert error.max() < 0.04  # 2^-4 / sqrt(3) for a number in the middle of its binade
    gelu, scale = quantise_rows(x, gelu=True)
    expected = nn.functional.gelu(x, approximate="tanh")
    assert ((gelu.float() * scale - expected).norm() / expected.norm()) < 0.04
    zero, scale = quantise_rows(torch.zeros(2, 16))
    assert zero.float().eq(0).all()
    assert scale.isfinite().all()


def test_conversion_replaces_every_linear_layer():
    module = nn.Sequential(nn.Linear(32, 16), nn.ModuleList([nn.Linear(16, 8)]))
    convert(module)
    layers = [layer for layer in module.modules() if isinstance(layer, FP8Linear)]
    assert len(layers) == 2
    assert not any(isinstance(layer, nn.Linear) for layer in module.modules())


def test_8_bits_are_refused_where_there_are_none(tmp_path):
    assert "cpu" in why_no_fp8(CPU, torch.bfloat16)
    with pytest.raises(DeviceError, match="--precision fp8"):
        make_engine(Options(input=tmp_path, model="nano", device="cpu", precision="fp8"))


def test_parts_reach_main_memory_in_order():
    parts = [torch.full((2, 1, 1, 3), n, dtype=torch.uint8) for n in range(4)]
    assert [part[0, 0, 0, 0] for part in to_host(iter(parts))] == [0, 1, 2, 3]
    assert list(to_host(iter([]))) == []
