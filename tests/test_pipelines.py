"""The three pipelines as a whole against the original's, and nano against its golden stream."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from src.config import NANO_CONFIG, DiTConfig, ModelConfig, ProjectorConfig, SamplingConfig, TCDecoderConfig, VAEConfig
from src.models.dit import DiT
from src.models.lq_projector import LQProjector
from src.models.manager import ModelManager, Models
from src.models.tcdecoder import TCDecoder
from src.models.vae import VAETiling, WanVAE
from src.ops.attention import REFERENCE_AREA, Attention
from src.pipelines.full import FlashVSRFullPipeline
from src.pipelines.geometry import Geometry, to_float, to_uint8, upscale_lq
from src.pipelines.tiny import FlashVSRTinyPipeline
from src.pipelines.tiny_long import FlashVSRTinyLongPipeline
from src.releases import get_release
from tests.golden_data import GOLDEN, assert_close, golden, load, weights
from tests.tiny_models import CPU
from toolbox.color import adain

# Projector, DiT and decoder chained, float32: the golden data itself is reproducible to 7e-6.
TOLERANCE = 1e-4
INPUTS = golden("pipeline_tiny")[0]


def golden_models(mode, kind):
    config = ModelConfig(
        dit=DiTConfig(dim=256, ffn_dim=320, freq_dim=64, text_dim=48, num_heads=2, num_layers=2),
        projector=ProjectorConfig(kind, hidden_dims=(24, 40), out_dim=256),
        tcdecoder=TCDecoderConfig(tuple(golden("tcdecoder")[1]["channels"])),
        vae=VAEConfig(dim=8),
        sampling=SamplingConfig(),
    )
    dit = load(DiT(config.dit), weights("dit_weights"))
    if mode == "full":
        state = {k.removeprefix("model."): v for k, v in weights("vae").items()}
        decoder = WanVAE(config.vae, encoder=False)
        decoder = load(decoder, {k: state[k] for k in decoder.state_dict()})
    else:
        decoder = load(TCDecoder(config.tcdecoder), weights("tcdecoder"))
    projector = load(LQProjector(config.projector), weights("lq_proj"))
    return Models(config, dit, dit.constants(INPUTS["in.context"]), projector, decoder, CPU, torch.float32)


def attention(variant="sage", ratio=0.5, local_range=3, observe=None):
    sparse = ratio * 256 * 256 / REFERENCE_AREA
    return Attention(variant, sparse, local_range, kv_len=3, reference_quirks=True, observe=observe)


class Recorded:
    """A pipeline run over the golden clip: what left the DiT and the decoder, and what was yielded."""

    def __init__(self, pipeline_class, kind="buffer", frames=37, decode=None, **settings):
        settings.setdefault("attention", attention())
        attention_ = settings.pop("attention")
        self.latents, self.raw, self.tokens = [], [], []
        models = golden_models(pipeline_class.mode, kind)
        pipeline = pipeline_class(models, attention_, reference_quirks=True, **settings)
        self._spy(pipeline, "_denoise", self.latents)
        self._spy(pipeline, "decode", self.raw)
        pipeline.models.projector.register_forward_hook(lambda m, i, out: self.tokens.append(out))
        self.lr = list(INPUTS["in.lr_frames_u8_nhwc"].numpy())
        self.geometry = Geometry.of(64, 64, Fraction(4))
        parts, count = [], 0
        for part in pipeline.stream(self.lr, 64, 64, 4, noise=torch.cat([INPUTS["in.noise"]] * 2, dim=2)):
            parts.append(part)
            count += part.shape[0]
            if count >= frames:
                break
        self.frames = torch.cat(parts)[:37]
        self.latents = torch.cat(self.latents, dim=2)[:, :, :10]
        self.raw = torch.cat(self.raw)[:37]

    @staticmethod
    def _spy(owner, name, record):
        original = getattr(owner, name)

        def wrapper(*args):
            out = original(*args)
            record.append(out.clone())
            return out

        setattr(owner, name, wrapper)


def sub(frames):
    """The golden files' sub-sampling of frames (F, 3, H, W) -> (3, F, 32, 32)."""
    return frames.transpose(0, 1)[:, :, 3::8, 5::8]


@pytest.fixture(scope="module")
def tiny():
    masks = []
    run = Recorded(FlashVSRTinyPipeline, attention=attention(observe=masks.append))
    run.masks = masks
    return run


def test_lq_frames_parity():
    pixels = to_float(INPUTS["in.lr_frames_u8_nhwc"][20].numpy(), CPU)
    lq = upscale_lq(pixels, Geometry.of(64, 64, Fraction(4)), antialias=False)
    assert_close(lq[0, :, ::4, ::4], INPUTS["in.LQ_frame20_check_step4"], 1e-6)


def test_tiny_parity(tiny):
    tokens = torch.cat(tiny.tokens)[: 10 * 256]
    assert_close(tokens[None, ::24], INPUTS["out.v10.LQ_tokens_step24"], TOLERANCE)
    for chunk in range(3):
        assert torch.equal(tiny.masks[2 * chunk], INPUTS[f"out.v10.mask.chunk{chunk}.block0"])
    assert_close(tiny.latents, INPUTS["out.v10.latents"], TOLERANCE)
    assert_close(sub(tiny.raw), INPUTS["out.v10.frames_sub_colorfix_off"], TOLERANCE)
    assert_close(tiny.raw[36, :, ::2, ::2], INPUTS["out.v10.frame36_colorfix_off_step2"], TOLERANCE)
    mean, std = tiny.raw.mean((2, 3)), tiny.raw.std((2, 3), correction=0)
    assert_close(torch.stack([mean, std], -1).transpose(0, 1), INPUTS["out.v10.frames_mean_std_off"], TOLERANCE)
    # What a stream yields is the same picture, clamped, in [0, 1].
    assert_close(tiny.frames, (tiny.raw.clamp(-1, 1) + 1) / 2, 1e-6)


def test_tiny_color_fix_parity():
    run = Recorded(FlashVSRTinyPipeline, color="adain")
    assert_close(sub(run.frames) * 2 - 1, INPUTS["out.v10.frames_sub_colorfix_on"], TOLERANCE)


def test_v11_parity():
    run = Recorded(FlashVSRTinyPipeline, kind="causal")
    assert_close(run.latents[:, ::4], INPUTS["out.v11.latents_every4th_channel"], TOLERANCE)
    assert_close(sub(run.raw)[:, ::6], INPUTS["out.v11.frames_sub_colorfix_off"], TOLERANCE)


@pytest.mark.parametrize(
    ("name", "settings"), [("block", {"variant": "block"}), ("dense30", {"ratio": 30.0, "local_range": 11})]
)
def test_attention_settings_parity(name, settings):
    run = Recorded(FlashVSRTinyPipeline, attention=attention(**settings))
    assert_close(run.latents[:, ::4], INPUTS[f"out.v10.{name}.latents_every4th_channel"], TOLERANCE)


def test_tiny_long_parity(tiny):
    run = Recorded(FlashVSRTinyLongPipeline)
    assert_close(run.latents, tiny.latents, 0)
    # One latent frame at a time instead of two: the same arithmetic, other rounding of the convolutions.
    assert_close(run.raw, tiny.raw, 1e-5)
    fixed = Recorded(FlashVSRTinyLongPipeline, color="adain")
    expected = golden("pipeline_tiny_long")[0]
    for frames, key in ((run.frames, "off"), (fixed.frames, "on")):
        levels = to_uint8(frames, truncate=True)[:, 3::8, 5::8].int()
        difference = (levels - expected[f"out.u8_sub_colorfix_{key}"].int()).abs()
        # Where float noise of 1e-6 crosses the edge between two levels, truncation differs by one.
        assert difference.max() <= 1
        assert difference.float().mean() < 1e-3


def test_full_parity():
    """The first chunk; the VAE's own tests cover streaming, and its decoder is slow on a CPU."""
    expected = golden("pipeline_full")[0]
    run = Recorded(FlashVSRFullPipeline, frames=21)
    assert_close(run.latents, INPUTS["out.v10.latents"][:, :, :6], TOLERANCE)
    frames = run.frames * 2 - 1
    assert_close(sub(frames), expected["out.v10.frames_sub_colorfix_off"][:, :21], TOLERANCE)
    assert_close(frames[20, :, ::2, ::2], expected["out.v10.frame20_full_colorfix_off_step2"], TOLERANCE)
    lq = torch.cat([upscale_lq(to_float(f, CPU), run.geometry, False) for f in run.lr[:21]])
    assert_close(sub(adain(run.raw, lq)), expected["out.v10.frames_sub_colorfix_on"][:, :21], TOLERANCE)


def test_full_tiled_parity():
    vae = golden_models("full", "buffer").decoder
    latents = INPUTS["out.v10.latents"][:, :, :3]  # causal: the first frames do not depend on the rest
    frames = vae.decode_clip(latents, VAETiling(size=(20, 24), stride=(12, 8)))[0]
    expected = golden("pipeline_full")[0]["out.v10.frames_sub_tiled20x24_stride12x8_every6th"]
    assert_close(frames[:, ::6, 3::8, 5::8], expected[:, :2], TOLERANCE)


# --------------------------------------------------------------------------- the original's pre- and post-processing


def test_prepost_parity():
    import json

    data = golden("prepost")[0]
    frames = data["in.frames_u8_nhwc"].numpy()
    cut = Geometry.of(41, 75, Fraction(4), reference_quirks=True)
    lq = [upscale_lq(to_float(f, CPU), cut, antialias=False, reference_quirks=True) for f in frames]
    assert_close((lq[0][0] + 1) / 2, data["out.upscaled_cropped_frame0"], 1e-6)
    # 3 frames are extended to 25 by repeating the last.
    prepared = torch.stack([lq[2][0, :, ::3, ::3]] * 2)
    assert_close(prepared, data["out.prepared_frame2_and_24_step3"], 1e-6)
    # to_uint8 takes [0, 1]; the original's long path takes [-1, 1] and truncates.
    levels = to_uint8((data["in.to_uint8_long_path"][None] + 1) / 2, truncate=True)[0]
    assert torch.equal(levels, data["out.to_uint8_long_path_hwc"])
    plain = data["in.to_uint8_full_path"].view(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert torch.equal(to_uint8(plain, truncate=True)[0, 0, :, 0], data["out.to_uint8_full_path"])
    numbers = json.loads((GOLDEN / "prepost.json").read_text())
    for item in numbers["frame_counts"]:
        from src.chunks import chunk_count

        assert chunk_count(item["frames"]) == item["chunks"]


def test_rounding_is_fairer_than_truncation():
    frames = torch.full((1, 3, 2, 2), 0.9999)
    assert int(to_uint8(frames)[0, 0, 0, 0]) == 255
    assert int(to_uint8(frames, truncate=True)[0, 0, 0, 0]) == 254


def test_quirks_add_frames_and_cut_the_picture():
    """What users of the original complain about is reachable for parity, and off by default."""
    models = golden_models("tiny", "buffer")
    frames = [np.zeros((40, 70, 3), np.uint8)] * 2
    for quirks, shape in ((False, (2, 3, 160, 280)), (True, (21, 3, 128, 256))):
        pipeline = FlashVSRTinyPipeline(models, attention(), reference_quirks=quirks)
        assert torch.cat(list(pipeline.stream(frames, 40, 70, 4))).shape == shape


# --------------------------------------------------------------------------- nano


@pytest.fixture(scope="module")
def nano():
    from pathlib import Path

    return ModelManager(Path("models"), CPU, torch.float32).load(get_release("nano"), "tiny")


def test_nano_stream_parity(nano):
    data = golden("nano_stream")[0]
    pipeline = FlashVSRTinyPipeline(nano, Attention("block", None, local_range=3, kv_len=3))
    latents = []
    Recorded._spy(pipeline, "_denoise", latents)
    frames = torch.cat(list(pipeline.stream(list(data["in.lr_u8"].numpy()), 64, 64, 4)))
    assert_close(torch.cat(latents, dim=2)[:, :, :10], data["out.latents"], TOLERANCE)
    # Stored as float16: half a step at 1.0 is 2.5e-4. The stored frames are not clamped.
    assert_close(frames[[0, 10, 20, 24, 36]], data["out.frames_0_10_20_24_36"].clamp(0, 1), 3e-4)


def test_nano_sage_equals_block(nano):
    """Without a budget the size of the key blocks cannot matter."""
    frames = list(golden("nano_stream")[0]["in.lr_u8"].numpy()[:22])
    outputs = []
    for kind in ("sage", "block"):
        pipeline = FlashVSRTinyPipeline(nano, Attention(kind, None, local_range=3, kv_len=3))
        outputs.append(torch.cat(list(pipeline.stream(frames, 64, 64, 4))))
    assert_close(outputs[0], outputs[1], 1e-5)


def test_nano_bf16_is_near(nano):
    from pathlib import Path

    low = ModelManager(Path("models"), CPU, torch.bfloat16).load(get_release("nano"), "tiny")
    frames = list(golden("nano_stream")[0]["in.lr_u8"].numpy()[:22])
    attention_ = Attention("block", None, local_range=3, kv_len=3)
    exact, rounded = (
        torch.cat(list(FlashVSRTinyPipeline(models, attention_).stream(frames, 64, 64, 4))) for models in (nano, low)
    )
    # 8 mantissa bits through some forty layers; 50 dB is half a level of 255 on average.
    psnr = -10 * (exact - rounded).square().mean().log10()
    assert psnr > 50


def test_nano_config_is_the_published_one():
    import json
    from pathlib import Path

    published = json.loads(Path("models/nano/config.json").read_text())
    dit = {k: tuple(v) if isinstance(v, list) else v for k, v in published["dit"].items()}
    assert DiTConfig(**dit) == NANO_CONFIG.dit
    assert published["projector"]["kind"] == NANO_CONFIG.projector.kind
    assert tuple(published["projector"]["hidden_dims"]) == NANO_CONFIG.projector.hidden_dims
    assert tuple(published["tcdecoder"]["channels"]) == NANO_CONFIG.tcdecoder.channels
    assert published["tcdecoder"]["residual"] == NANO_CONFIG.tcdecoder.residual
    sampling = NANO_CONFIG.sampling
    for name, value in published["sampling"].items():
        assert getattr(sampling, name) == value
