"""A line chart as SVG: one panel per series, one point per frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, PANEL, LEFT, TOP, GAP = 900, 170, 70, 40, 40
MAX_POINTS = 1500  # more are drawn as the least and the greatest of their stretch
_COLOURS = ("#2a6fdb", "#d1495b", "#2e8b57", "#8a5cc2")


def line_chart(title: str, series: Mapping[str, Sequence[float]]) -> str:
    """An SVG document; every series (label -> values by frame) gets a panel with a scale of its own."""
    height = TOP + len(series) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="16" fill="#222222">{escape(title)}</text>',
    ]
    for number, (label, values) in enumerate(series.items()):
        parts += _panel(label, values, TOP + number * (PANEL + GAP), _COLOURS[number % len(_COLOURS)])
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(label: str, values: Sequence[float], top: int, colour: str) -> list[str]:
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    room = (high - low) * 0.05 or max(abs(high), 1) * 0.01
    low, high = low - room, high + room
    right, count = WIDTH - 20, len(values)

    def place(index: int, value: float) -> str:
        x = LEFT + (right - LEFT) * (index / max(1, count - 1))
        y = top + PANEL * (1 - (min(max(value, low), high) - low) / (high - low))
        return f"{x:.1f},{y:.1f}"

    parts = [f'<rect x="{LEFT}" y="{top}" width="{right - LEFT}" height="{PANEL}" fill="#f7f7f9" stroke="#c8c8d0"/>']
    for step in range(5):
        value = low + (high - low) * step / 4
        y = top + PANEL * (1 - step / 4)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e2e2e8"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#555555">{value:.4g}</text>')
    points = " ".join(place(index, value) for index, value in thinned(values))
    parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    if count == 1:
        across, down = place(0, values[0]).split(",")
        parts.append(f'<circle cx="{across}" cy="{down}" r="3" fill="{colour}"/>')
    parts.append(f'<text x="{LEFT + 8}" y="{top + 18}" fill="{colour}">{escape(label)}</text>')
    below = top + PANEL + 16
    parts.append(f'<text x="{LEFT}" y="{below}" fill="#555555">frame 0</text>')
    parts.append(f'<text x="{right}" y="{below}" text-anchor="end" fill="#555555">{count - 1}</text>')
    return parts


def thinned(values: Sequence[float]) -> list[tuple[int, float]]:
    """(index, value) of at most MAX_POINTS points that keep every dip and peak."""
    if len(values) <= MAX_POINTS:
        return list(enumerate(values))
    size = math.ceil(2 * len(values) / MAX_POINTS)
    kept: list[tuple[int, float]] = []
    for start in range(0, len(values), size):
        stretch = list(enumerate(values[start : start + size], start))
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept
