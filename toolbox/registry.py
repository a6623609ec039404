"""All tools and their parameters. The command line and the page are made from this table."""

from __future__ import annotations

from typing import Any

from toolbox.parameters import Parameter, Tool

P = Parameter
# Longest time and number of repetitions: a slip of a finger must not fill the disk.
_TIMES, _SECONDS, _SIDE = (1, 1000), (0.01, 86_400), (2, 16_384)
_FIT = ("pad", "crop", "stretch")


def _late(module: str, name: str) -> Any:
    """The function, imported when it is first used: the table itself costs nothing."""

    def call(*args: Any, **values: Any) -> Any:
        import importlib

        return getattr(importlib.import_module(f"toolbox.{module}"), name)(*args, **values)

    call.__name__ = name
    return call


# One parameter, one line.
# fmt: off
_TOOLS = (
    Tool("interpolate", "Smoother motion", "More frames per second, computed between those that are there.", "filter", (
        P("factor", "choice", "2", "times as many frames", choices=("2", "4", "8")),
        P("fps", "fraction", None, "frames per second instead of a factor (60, 60000/1001)", bounds=(1, 1000)),
        P("method", "choice", "auto", "rife: neural network; mci: FFmpeg's motion compensation; auto: rife if its weights are there or a GPU is", choices=("auto", "rife", "mci")),
        P("scene_threshold", "float", 0.1, "how much of the picture must change for a cut, across which nothing is blended; 0: never", bounds=(0, 1), advanced=True),
        P("duplicates", "choice", "keep", "repeated frames: keep them, or smooth over them (rife only)", choices=("keep", "smooth"), advanced=True),
        P("flow_scale", "float", 1.0, "rife: 0.5 for 4K and large motion, 0.25, 1 or 2", bounds=(0.25, 2), advanced=True),
        P("device", "str", "auto", "rife: auto, cpu, cuda, cuda:N or mps", advanced=True),
    ), _late("interpolate", "interpolate")),
    Tool("color", "Match colours", "Give a clip the colours of a reference, such as the clip before it was upscaled.", "filter", (
        P("reference", "path", None, "clip of as many frames, or one picture", required=True),
        P("method", "choice", "wavelet", "wavelet: colours of every place; adain: overall tone and contrast", choices=("wavelet", "adain")),
    ), _late("match", "color")),
    Tool("speed", "Speed", "Faster or slower; the sound keeps its pitch.", "filter", (
        P("factor", "fraction", None, "2: twice as fast, 0.5: half as fast", bounds=(0.25, 4), required=True),
        P("frames", "choice", "keep-rate", "keep-rate: frames are dropped or repeated; keep-all: every frame stays and the rate changes", choices=("keep-rate", "keep-all")),
    ), _late("edit", "speed")),
    Tool("loop", "Loop", "The clip again and again.", "filter", (
        P("times", "int", None, "how often (2 if neither is given)", bounds=_TIMES),
        P("duration", "time", None, "until it lasts so long", bounds=_SECONDS, unit="s"),
    ), _late("edit", "loop")),
    Tool("ping-pong", "Ping-pong", "Forwards and backwards, without a doubled frame at the turns.", "filter", (
        P("times", "int", None, "how often there and back (1 if neither is given)", bounds=_TIMES),
        P("duration", "time", None, "until it lasts so long", bounds=_SECONDS, unit="s"),
    ), _late("edit", "ping_pong")),
    Tool("trim", "Trim", "Only a part, exact to the frame.", "filter", (
        P("start", "time", None, "from here: seconds or [HH:]MM:SS[.s]", unit="s"),
        P("end", "time", None, "up to here, excluded", unit="s"),
    ), _late("edit", "trim")),
    Tool("crop", "Crop", "A rectangle of the picture.", "filter", (
        P("width", "int", None, "of the rectangle", bounds=(1, 16_384), unit="px"),
        P("height", "int", None, "of the rectangle", bounds=(1, 16_384), unit="px"),
        P("x", "int", None, "its left edge (default: centred)", bounds=(0, 16_384), unit="px"),
        P("y", "int", None, "its upper edge (default: centred)", bounds=(0, 16_384), unit="px"),
    ), _late("edit", "crop")),
    Tool("resize", "Resize", "Another size (plain resampling, no network).", "filter", (
        P("width", "int", None, "with only one side given, the other keeps the aspect", bounds=_SIDE, unit="px"),
        P("height", "int", None, "with only one side given, the other keeps the aspect", bounds=_SIDE, unit="px"),
        P("fit", "choice", "pad", "with both sides given: black bars, cut off, or distort", choices=_FIT),
    ), _late("edit", "resize")),
    Tool("reverse", "Reverse", "The last frame first, the sound too.", "filter", (), _late("edit", "reverse")),
    Tool("frame-rate", "Frame rate", "Another constant rate by dropping or repeating frames; for a folder of pictures, the rate they play at.", "filter", (
        P("fps", "fraction", None, "frames per second", bounds=(0.1, 1000), required=True),
    ), _late("edit", "frame_rate")),
    Tool("join", "Join", "Other clips behind this one, brought to its size and rate.", "filter", (
        P("clips", "paths", None, "the clips that follow, in order", required=True),
        P("fit", "choice", "pad", "for clips of another aspect: black bars, cut off, or distort", choices=_FIT),
    ), _late("edit", "join")),
    Tool("side-by-side", "Compare side by side", "Another clip left, this one right.", "filter", (
        P("other", "path", None, "the clip for the left side, such as the original", required=True),
        P("layout", "choice", "beside", "beside each other, split in the middle, or a moving slider", choices=("beside", "split", "slider")),
    ), _late("match", "side_by_side")),
    Tool("export", "Export", "Write a video or an animated picture.", "output", (
        P("preset", "choice", "auto", "what to write; auto: by the extension of the output, h264-balanced otherwise", choices=("auto", "h264-small", "h264-balanced", "h264-high", "hevc", "av1", "webm", "prores", "gif", "webp")),
        P("quality", "int", None, "1 smallest file, 10 best picture (default: the preset's)", bounds=(1, 10)),
        P("size_mb", "float", None, "largest size of the file; h264, hevc and webm are encoded in two passes for it", bounds=(0.001, 1_000_000), unit="MB"),
        P("width", "int", None, "make it no wider than this", bounds=_SIDE, unit="px"),
        P("fps", "fraction", None, "frames per second, by dropping or repeating frames", bounds=(0.1, 1000)),
        P("audio", "choice", "keep", "keep or drop the sound", choices=("keep", "drop")),
    ), _late("export", "export")),
    Tool("frames", "Extract frames", "Write the frames as pictures into a folder.", "output", (
        P("format", "choice", "png", "of the pictures", choices=("png", "jpg", "webp", "tiff")),
        P("every", "int", 1, "only every so many frames", bounds=(1, 1_000_000)),
        P("limit", "int", None, "at most so many pictures", bounds=(1, 10_000_000)),
        P("quality", "int", 9, "of jpg and webp, 1 to 10", bounds=(1, 10)),
    ), _late("stills", "frames")),
    Tool("analyse", "Analyse", "Container, streams, exact rate, frames, colours, sound.", "report", (), _late("analyse", "report")),
    Tool("compare", "Measure quality", "PSNR, SSIM and VMAF against a reference, frame by frame, with a plot.", "report", (
        P("reference", "path", None, "the clip to measure against", required=True),
        P("measures", "choice", "all", "which", choices=("all", "psnr", "ssim", "vmaf")),
        P("shortest", "flag", False, "stop at the end of the shorter one instead of refusing", advanced=True),
    ), _late("compare", "compare")),
)
# fmt: on

TOOLS: dict[str, Tool] = {tool.name: tool for tool in _TOOLS}
