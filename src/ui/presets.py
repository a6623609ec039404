"""Presets: a handful of option values under a name that says what for."""

from __future__ import annotations

import dataclasses
from typing import Any

from src.config import Options

_VALUES: dict[str, dict[str, Any]] = {
    "Fast": {"mode": "tiny", "sparse_ratio": 1.5, "quality": 6, "encoder": "auto"},
    "Balanced": {"mode": "tiny"},
    "Best": {"mode": "full", "sparse_ratio": 2.0, "quality": 9},
    # More is given up by itself, as far as the memory that is there makes it necessary.
    "Low VRAM": {"mode": "tiny-long", "offload": "blocks"},
}
PRESETS = tuple(_VALUES)
ABOUT = {
    "Fast": "quick look, smaller file",
    "Balanced": "good for nearly everything",
    "Best": "slowest, best picture (the large decoder where the model has one)",
    "Low VRAM": "least memory, for small graphics cards",
}


def preset_values(name: str, *, has_full: bool) -> dict[str, Any]:
    """Every option that presets touch, with its value under preset ``name``. ``has_full``: the model has a VAE."""
    fields = {item.name: item.default for item in dataclasses.fields(Options)}
    touched = {key for values in _VALUES.values() for key in values}
    values = {key: fields[key] for key in touched} | _VALUES[name]
    if values.get("mode") == "full" and not has_full:
        values["mode"] = "tiny"
    return values
