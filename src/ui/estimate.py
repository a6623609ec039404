"""What a job will give and cost, before it runs. One function: a better plan can take its place."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from fractions import Fraction

from src.config import Options, parse_resolution
from src.hub import find
from src.releases import get_release
from src.ui.facts import Facts, time_text
from src.video.reader import clip_window

Speeds = Callable[[str, str], list[float]]  # model, mode -> seconds per million output pixels of earlier jobs here


def estimate(options: Options, facts: Facts, speeds: Speeds) -> list[tuple[str, str]]:
    """Rows of what will come: size, frames, time, model. Raises FlashVSRError where the job would."""
    width, height = output_size(options, facts)
    frames = frames_of(options, facts)
    rows = [("Output", f"{width} × {height}")]
    if facts.duration:
        rate = options.fps or facts.fps
        length = f", {time_text(float(frames / rate))}" if frames else ""
        rows.append(("Frames", f"{'unknown' if frames is None else frames}{length}"))
    model = likely_model(options)
    known = speeds(model, options.mode)
    if frames is None:
        rows.append(("Time", "unknown: so is the number of frames"))
    elif known:
        seconds = statistics.median(known) * frames * width * height / 1e6
        rows.append(("Time", f"about {time_text(seconds)}, as fast as earlier jobs here"))
    else:
        rows.append(("Time", "not known yet on this machine: try 2 seconds"))
    rows.append(("Model", model if options.model != "auto" else f"{model} (chosen automatically)"))
    return rows


def output_size(options: Options, facts: Facts) -> tuple[int, int]:
    """(width, height), rounded as the engine rounds."""
    # Not by Geometry: PyTorch would come with it, and the page shall answer at once.
    if options.resolution:
        box = parse_resolution(options.resolution)
        if facts.height > facts.width and box[0] > box[1]:
            box = (box[1], box[0])
        factor = min(Fraction(box[0], facts.width), Fraction(box[1], facts.height))
        width, height = (max(2, round(side * factor / 2) * 2) for side in (facts.width, facts.height))
    else:
        width, height = (int(side * options.scale + Fraction(1, 2)) for side in (facts.width, facts.height))
    return width, height


def frames_of(options: Options, facts: Facts) -> int | None:
    """Frames of the trimmed input; None if unknown."""
    if facts.info is None:
        if not facts.duration:
            return 1
        begin = options.start or 0
        end = min(facts.duration, options.end or facts.duration)
        return max(1, round((end - begin) * (options.fps or facts.fps)))
    return clip_window(facts.info, options.start, options.end, options.fps).count


def likely_model(options: Options) -> str:
    """The release that ``auto`` will most likely mean: 1.1 where its files are. Asks no network."""
    if options.model != "auto":
        return options.model
    _, missing = find(get_release("1.1"), options.mode, options.models_dir)
    return "1.1" if not missing or options.mode == "full" else "nano"
