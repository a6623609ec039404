"""RIFE v3 against the numbers of the original network (tests/golden/README.md, section 9)."""

import pytest
import torch

from tests.golden_data import assert_close, golden, load, manifest, weights
from toolbox.rife_net import IFNet, pad_to_multiple


@pytest.fixture(scope="module")
def net():
    return load(IFNet(), {k: v for k, v in weights("rife").items() if not k.startswith("block_tea.")})


def pictures(*names):
    tensors, _ = golden("rife")
    return [tensors[f"in.{name}_u8"].float() / 255 for name in names]


def test_every_level_is_that_of_the_original(net):
    expected, _ = golden("rife")
    middle, flows, share = net.levels(*pictures("img0", "img1"))
    assert_close(flows[0], expected["out.flow_first"], 1e-4)
    assert_close(flows[-1], expected["out.flow_last"], 1e-4)
    assert_close(share, expected["out.mask_last"], 1e-4)
    assert_close(middle, expected["out.middle"], 1e-4)


def test_half_scale(net):
    assert_close(net(*pictures("img0", "img1"), scale=0.5), golden("rife")[0]["out.middle_scale0.5"], 1e-5)


def test_odd_sizes_are_padded_and_cropped(net):
    expected, config = golden("rife")
    one, two = pad_to_multiple(pictures("odd0", "odd1"), config["pad_multiple"])
    middle = net(one, two)[..., :50, :70]
    assert_close(middle, expected["out.odd_middle"], 1e-5)
    bytes_ = (middle * 255).to(torch.uint8)
    # A value that lies on a byte's edge may fall to either side with another summation order.
    assert (bytes_.int() - expected["out.odd_middle_u8"].int()).abs().max() <= 1
    assert (bytes_ != expected["out.odd_middle_u8"]).float().mean() < 1e-3


def test_the_keys_are_those_of_the_checkpoint(net):
    published = {
        key.removeprefix("module."): tuple(shape)
        for key, shape in manifest("rife")["tensors"].items()
        if "block_tea" not in key
    }
    assert published == {key: tuple(value.shape) for key, value in IFNet().state_dict().items()}


def test_the_order_of_time_does_not_matter(net):
    one, two = pictures("img0", "img1")
    assert_close(net(two, one), net(one, two), 1e-5)
