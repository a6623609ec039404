"""Loading of the golden tensors (computed by the original code; see tests/golden/README.md)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

GOLDEN = Path(__file__).parent / "golden"


@cache
def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (all floats as float32) and the config of one golden file."""
    tensors = {}
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118 (the file object is no mapping)
            tensor = file.get_tensor(key)
            tensors[key] = tensor.float() if tensor.is_floating_point() else tensor
        config = json.loads(file.metadata()["config"])
    return tensors, config


def weights(name: str, prefix: str = "w.") -> dict[str, Tensor]:
    """The golden file's weights under the original's own names."""
    return {k[len(prefix) :]: v for k, v in golden(name)[0].items() if k.startswith(prefix)}


def load(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    module.load_state_dict(state, strict=True)
    return module.eval().requires_grad_(False)


def video(u8: Tensor) -> Tensor:
    """A stored u8 video as the float video it stands for."""
    return u8.float() / 255 * 2 - 1


def manifest(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"manifest_{name}.json").read_text())


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    error = (actual.float() - expected.float()).abs().max().item()
    assert error <= tolerance, f"max abs difference {error:.3g} > {tolerance:g}"


torch.set_grad_enabled(False)
