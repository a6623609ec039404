"""How close a clip is to its reference: PSNR, SSIM and VMAF of every frame, their summary, and a plot."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from src.errors import InputError, OutputExistsError, VideoError
from src.video import MediaInfo, ffmpeg, probe
from src.video.filters import filter_value, run_job
from src.video.paths import commit, temporary_path
from src.video.streams import is_rgb
from toolbox.clip import Job
from toolbox.plot import line_chart

MEASURES = ("psnr", "ssim", "vmaf")
LEAST_SIDE = {"psnr": 1, "ssim": 8, "vmaf": 16}
CEILING = 100.0  # dB, of equal frames
_NAMES = {"psnr": "psnr_y", "ssim": "float_ssim", "vmaf": "vmaf"}


def compare(job: Job, path: Path, reference: Path, measures: str, shortest: bool) -> dict[str, Any]:
    """Measure ``path`` against ``reference``, frame by frame on the luma. Both must have one size.

    The plot is written where the job has an output (SVG). Raises InputError for another size or length.
    """
    if job.output is not None and job.output.suffix.lower() != ".svg":
        extension = job.output.suffix or "without extension"
        raise InputError(f"{job.output}: the plot is written as .svg, not {extension}")
    clip, model = _probe(path), _probe(reference)
    if (clip.width, clip.height) != (model.width, model.height):
        raise InputError(
            f"{reference} is {model.width}x{model.height}, but {path} is {clip.width}x{clip.height}; bring one to the"
            " size of the other first (tool resize)"
        )
    if clip.frames != model.frames and not shortest:
        raise InputError(
            f"{reference} has {model.frames} frames, but {path} has {clip.frames}; trim one, or use --shortest"
        )
    wanted = MEASURES if measures == "all" else (measures,)
    small = [name for name in wanted if min(clip.width, clip.height) < LEAST_SIDE[name]]
    if small:
        raise InputError(f"{small[0]} needs sides of at least {LEAST_SIDE[small[0]]}, not {clip.width}x{clip.height}")
    if job.output is not None and job.output.exists() and not job.overwrite:
        raise OutputExistsError(f"{job.output} exists already; choose another name or use --overwrite")
    frames = _measure(job, clip, model, wanted)
    summary = {name: _summary([frame[name] for frame in frames], name) for name in wanted}
    if job.output is not None:
        _plot(job, path, reference, frames, wanted)
    return {"clip": str(path), "reference": str(reference), "summary": summary, "frames": frames}


def _probe(path: Path) -> MediaInfo:
    info = probe(path)
    if info.hdr:
        raise InputError(f"{path} is HDR ({info.transfer}); the measures are made for SDR")
    return info


def _luma(info: MediaInfo) -> str:
    """Filters that bring a file to numbered frames of 4:2:0 BT.709, whatever it is tagged as."""
    chain = ["bwdif=mode=send_frame:parity=auto:deint=interlaced"] if info.interlaced else []
    if info.variable_rate:
        chain.append(f"fps=fps={info.fps}:round=near:start_time={float(info.first):.9f}")
    scale = f"scale={info.width}:{info.height}:flags=bicubic+accurate_rnd:out_color_matrix=bt709:out_range=tv"
    if not is_rgb(info.pix_fmt):
        scale += f":in_color_matrix={info.color_matrix}:in_range={info.color_range}"
    deep = "10le" if info.bit_depth > 8 else ""
    return ",".join([*chain, scale, f"format=yuv420p{deep}", "format=yuv420p", "settb=1/25", "setpts=N"])


def _measure(job: Job, clip: MediaInfo, model: MediaInfo, wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    log_path = job.workspace("measures.json")
    features = [f"name={name}" for name in ("psnr", "float_ssim") if name.removeprefix("float_") in wanted]
    options = ["log_fmt=json", f"log_path={filter_value(str(log_path))}", "shortest=1", "n_threads=2"]
    if features:
        options.append(f"feature={filter_value('|'.join(features))}")
    graph = f"[0:{clip.video_index}]{_luma(clip)}[a];[1:{model.video_index}]{_luma(model)}[b];"
    graph += f"[a][b]libvmaf={':'.join(options)}"
    inputs = [*ffmpeg.input_args(clip.path, clip.codec), *ffmpeg.input_args(model.path, model.codec)]
    args = [*inputs, "-lavfi", graph, "-f", "null", "-"]
    total = min(clip.frames or 0, model.frames or 0) or None
    what = f"{clip.path} cannot be compared"
    try:
        run_job(args, what, lambda done: job.report("comparing", done, total), job.cancel)
    except VideoError as error:
        if "No such filter" in str(error):
            raise VideoError(
                "this FFmpeg was built without libvmaf; install the bundled one (imageio-ffmpeg)"
            ) from error
        raise
    try:
        listing = json.loads(log_path.read_text())["frames"]
    except (OSError, ValueError, KeyError) as error:
        raise VideoError(f"{what}: FFmpeg left no measures ({error})") from error
    return [
        {"frame": entry["frameNum"]} | {name: round(entry["metrics"][_NAMES[name]], 6) for name in wanted}
        for entry in listing
    ]


def _summary(values: list[float], name: str) -> dict[str, float]:
    ordered = sorted(values)
    mean = sum(values) / len(values)
    if name == "psnr":
        # The mean of the errors, not of their logarithms: one perfect frame must not hide a bad one.
        error = sum(10 ** (-min(value, CEILING) / 10) for value in values) / len(values)
        mean = -10 * math.log10(error)
    return {
        "mean": round(mean, 4),
        "least": round(ordered[0], 4),
        "median": round(ordered[len(ordered) // 2], 4),
        "greatest": round(ordered[-1], 4),
        "worst_frame": values.index(ordered[0]),
    }


def _plot(job: Job, path: Path, reference: Path, frames: list[dict[str, Any]], wanted: tuple[str, ...]) -> None:
    output = job.output
    if output is None:
        return
    units = {"psnr": "PSNR (dB)", "ssim": "SSIM", "vmaf": "VMAF"}
    series = {units[name]: [frame[name] for frame in frames] for name in wanted}
    picture = line_chart(f"{path.name} against {reference.name}", series)
    temporary = temporary_path(output)
    try:
        temporary.write_text(picture, encoding="utf-8")
        commit(temporary, output, job.overwrite)
    except OSError as error:
        raise VideoError(f"{output} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
