"""LQ projector: both kinds against the original, and chunked equals whole."""

import itertools

import pytest
import torch

from src.config import ProjectorConfig
from src.models.lq_projector import LQProjector
from src.state import ConvState
from tests.golden_data import assert_close, golden, load, manifest, video, weights

KINDS = {"v10": "buffer", "v11": "causal"}


def projector(version):
    config = ProjectorConfig(KINDS[version], hidden_dims=(24, 40), out_dim=256)
    return load(LQProjector(config), weights("lq_proj"))


def frames():
    return video(golden("lq_proj")[0]["in.video_u8"])[0].transpose(0, 1)


def test_keys_and_shapes_are_the_checkpoints():
    with torch.device("meta"):
        state = LQProjector(ProjectorConfig()).state_dict()
    assert {k: list(v.shape) for k, v in state.items()} == manifest("lq_proj")["tensors"]


@pytest.mark.parametrize("version", KINDS)
def test_parity(version):
    state, model, x = ConvState(), projector(version), frames()
    parts = [model(x[a:b], state) for a, b in ((0, 25), (25, 33), (33, 41))]
    # A single module: float32 summation order only.
    assert_close(torch.cat(parts).view(10, 12, 256), golden("lq_proj")[0][f"out.{version}.stream"], 1e-5)


@pytest.mark.parametrize("version", KINDS)
def test_chunked_equals_whole(version):
    model, x = projector(version), frames()
    whole = model(x, ConvState())
    for cuts in ((25, 33), (1, 5, 9, 13, 29), (25,), (9, 25, 29, 33, 37)):
        state = ConvState()
        edges = [0, *cuts, 41]
        parts = torch.cat([model(x[a:b], state) for a, b in itertools.pairwise(edges)])
        # A batch of one group makes oneDNN pick another algorithm, with other rounding; a stream never
        # has fewer than two.
        alone = version == "v10" and any(b - a <= 4 for a, b in itertools.pairwise(edges))
        assert_close(parts, whole, 1e-5 if alone else 0)


def test_the_kinds_differ():
    whole = {version: projector(version)(frames(), ConvState()) for version in KINDS}
    assert not torch.allclose(whole["v10"], whole["v11"])


def test_streams_do_not_meet():
    model, x = projector("v11"), frames()
    alone = [model(y, ConvState()) for y in (x, x.flip(0))]
    states = [ConvState(), ConvState()]
    mixed = [[], []]
    for a, b in ((0, 25), (25, 33), (33, 41)):
        for i, y in enumerate((x, x.flip(0))):
            mixed[i].append(model(y[a:b], states[i]))
    for i in range(2):
        assert torch.equal(torch.cat(mixed[i]), alone[i])
