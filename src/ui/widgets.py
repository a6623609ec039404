"""Widgets made from the fields of Options: a new option appears on the page by itself."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import gradio as gr

from src.config import Options

# Set elsewhere on the page (files, trim, settings), or of no meaning there.
ELSEWHERE = frozenset(
    {"input", "output", "overwrite", "start", "end", "models_dir", "dry_run", "no_resume", "output_format"}
)
MAIN = ("scale", "model", "mode", "quality")  # always in view; the others are folded away
VIDEO_ONLY = frozenset({"fps", "codec", "encoder", "segment_frames", "no_scene_cuts", "scene_threshold", "bit_depth"})
GROUPS = {"model": "Model", "compute": "Computation and memory", "output": "File", "files": "Files"}
_WORDS = {"fps": "frame rate", "dtype": "number format", "vae": "VAE", "dit": "DiT", "kv": "KV", "vram": "VRAM"}
_SLIDER_STEPS = 400  # a wider range is a number to type


def fields(media: str) -> list[dataclasses.Field[Any]]:
    """The options that a tab shows, in the order of their declaration, the main ones first."""
    shown = [
        item
        for item in dataclasses.fields(Options)
        if item.name not in ELSEWHERE and not (media == "image" and item.name in VIDEO_ONLY)
    ]
    return sorted(shown, key=lambda item: MAIN.index(item.name) if item.name in MAIN else len(MAIN))


def label_of(name: str) -> str:
    """tiled_vae -> Tiled VAE."""
    words = " ".join(_WORDS.get(word, word) for word in name.split("_"))
    return words[0].upper() + words[1:]


def make_widget(item: dataclasses.Field[Any], prefix: str) -> gr.components.Component:
    """One control with label, help, bounds and choices of the option."""
    meta: Any = item.metadata
    default: Any = item.default
    common: dict[str, Any] = {
        "label": label_of(item.name),
        "info": _sentence(meta["help"]),
        "elem_id": f"{prefix}-{item.name}",
        "interactive": True,
    }
    if meta["kind"] == "flag":
        return gr.Checkbox(value=default, **common)
    if meta["choices"]:
        kind = gr.Radio if item.name in MAIN else gr.Dropdown
        return kind(choices=list(meta["choices"]), value=default, **common)
    if meta["kind"] in ("int", "float", "fraction"):
        return _number(item, common)
    return gr.Textbox(value=default or "", placeholder="default" if default is None else "", **common)


def _number(item: dataclasses.Field[Any], common: dict[str, Any]) -> gr.components.Component:
    default: Any = float(item.default) if isinstance(item.default, Fraction) else item.default
    bounds, whole = item.metadata["bounds"], item.metadata["kind"] == "int"
    step = 1 if whole else 0.25
    if bounds and default is not None and (bounds[1] - bounds[0]) / step <= _SLIDER_STEPS:
        return gr.Slider(bounds[0], bounds[1], value=default, step=step, buttons=[], **common)
    # An empty field means the default, which a number field cannot say; Options checks the text.
    shown = "" if default is None else str(default)
    return gr.Textbox(value=shown, placeholder="default", **common)


def to_values(items: list[dataclasses.Field[Any]], values: list[Any]) -> dict[str, Any]:
    """What the widgets hold, for Options: only what differs from the defaults."""
    found = {}
    for item, value in zip(items, values, strict=True):
        default = float(item.default) if isinstance(item.default, Fraction) else item.default
        if value is None or value == "" or value == default or value == str(default):
            continue
        found[item.name] = value
    return found


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
