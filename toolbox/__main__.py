"""The toolbox on the command line: ``python -m toolbox TOOL INPUT ... [+ TOOL ...] [-o OUTPUT]``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from src.errors import FlashVSRError, InputError
from toolbox.parameters import Parameter, Tool
from toolbox.registry import TOOLS

EXAMPLES = """several tools in one run, with a + between them; frames are not encoded in between:
  python -m toolbox interpolate clip.mp4 --factor 2 + loop --times 3 + export --preset gif --width 480 -o loop.gif

more examples:
  python -m toolbox interpolate clip.mp4 --fps 60 -o smooth.mp4
  python -m toolbox export clip.mp4 --preset h264-small --size-mb 10 -o small.mp4
  python -m toolbox frame-rate frames/ --fps 24 -o movie.mp4         a folder of pictures as a video
  python -m toolbox compare upscaled.mp4 --reference original.mp4 -o plot.svg
  python -m toolbox trim a.mp4 b.mp4 --end 10 -o outputs/            many files: one folder
  python -m toolbox interpolate --help                               the parameters of one tool
"""


class Parser(argparse.ArgumentParser):
    """Errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see --help)\n")


def make_parser(tool: Tool, first: bool) -> Parser:
    """The parser of one step, made from the tool's parameters. ``first``: it also takes the inputs."""
    parser = Parser(prog=f"python -m toolbox {tool.name}", description=tool.help)
    if first:
        parser.add_argument("input", nargs="+", help="videos, pictures, or folders of pictures")
    for parameter in tool.parameters:
        parser.add_argument(parameter.flag, **_settings(parameter))
    common = parser.add_argument_group("output and messages (once, behind any tool)")
    common.add_argument("-o", "--output", default=argparse.SUPPRESS, help="file or folder (default: outputs/)")
    common.add_argument("--overwrite", action="store_true", default=argparse.SUPPRESS, help="replace it")
    common.add_argument("--models-dir", default=argparse.SUPPRESS, help="folder of the weights (default: models)")
    common.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON")
    common.add_argument("--quiet", action="store_true", default=argparse.SUPPRESS, help="errors only")
    common.add_argument("--verbose", action="store_true", default=argparse.SUPPRESS, help="details")
    return parser


def _settings(parameter: Parameter) -> dict[str, Any]:
    words = parameter.help.replace("%", "%%")
    if parameter.default not in (None, False):
        words += f" (default: {parameter.default})"
    if parameter.kind == "flag":
        return {"action": "store_true", "default": argparse.SUPPRESS, "help": words}
    metavar = "|".join(parameter.choices) or {"path": "PATH", "paths": "PATH", "time": "TIME"}.get(parameter.kind, "N")
    more = {"nargs": "+"} if parameter.kind == "paths" else {}
    # Values stay text: the tool checks them.
    return {"default": argparse.SUPPRESS, "help": words, "metavar": metavar, "dest": parameter.name, **more}


def split_steps(arguments: Sequence[str]) -> list[list[str]]:
    """The words of every step, without the + between them."""
    steps: list[list[str]] = [[]]
    for word in arguments:
        if word == "+":
            steps.append([])
        else:
            steps[-1].append(word)
    return steps


def overview() -> str:
    """What is printed when no tool is named."""
    width = max(len(name) for name in TOOLS)
    lines = [f"  {tool.name:<{width}}  {tool.help}" for tool in TOOLS.values()]
    return "\n".join(["usage: " + (__doc__ or "").split("``")[1], "", "tools:", *lines, "", EXAMPLES])


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 a fault of ours or some of a batch failed, 2 the user can mend it, 130 Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    common: dict[str, Any] = {}
    try:
        steps, inputs = [], []
        for number, part in enumerate(split_steps(words)):
            if not part or part[0] not in TOOLS:
                raise InputError(f"there is no tool {part[0] if part else ''!r}; there are {', '.join(TOOLS)}")
            tool = TOOLS[part[0]]
            values = vars(make_parser(tool, number == 0).parse_args(part[1:]))
            inputs += values.pop("input", [])
            known = {parameter.name for parameter in tool.parameters}
            common |= {name: values.pop(name) for name in list(values) if name not in known}
            steps.append((tool.name, values))
        return _run(inputs, steps, common)
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    except FlashVSRError as error:
        if common.get("verbose"):
            logging.getLogger("toolbox").exception("details:")
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if common.get("verbose"):
            logging.getLogger("toolbox").exception("details:")
        first = (str(error).strip().splitlines() or [""])[0]
        print(f"error: {type(error).__name__}: {first} (this is a bug; --verbose shows where)", file=sys.stderr)
        return 1


def _run(inputs: list[str], steps: list[tuple[str, dict[str, Any]]], common: dict[str, Any]) -> int:
    from tqdm import tqdm

    from toolbox.chain import Outcome, Progress, make_steps, run_batch, run_chain

    quiet, verbose, as_json = (bool(common.get(name)) for name in ("quiet", "verbose", "json"))

    class Handler(logging.Handler):
        """Log lines that do not tear the progress bar."""

        def emit(self, record: logging.LogRecord) -> None:
            tqdm.write(self.format(record), file=sys.stderr)

    handler, loggers = Handler(), [logging.getLogger(name) for name in ("src", "toolbox")]
    levels = [logger.level for logger in loggers]
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s: %(message)s" if verbose else "%(message)s"))
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
    checked = make_steps(steps)
    stage = ""
    bars: list[tqdm[Any]] = []

    def show(progress: Progress) -> None:
        nonlocal stage
        if progress.stage != stage or not bars:
            stage = progress.stage
            while bars:
                bars.pop().close()
            settings: dict[str, Any] = {"dynamic_ncols": True, "leave": False, "disable": True if quiet else None}
            bars.append(tqdm(desc=stage, total=progress.total, unit="frame", **settings))
        bars[0].update(max(0, progress.done - bars[0].n))

    keywords: dict[str, Any] = {
        "overwrite": bool(common.get("overwrite")),
        "models_dir": Path(common.get("models_dir", "models")),
        "progress": show,
    }
    output = common.get("output")
    outcomes: list[tuple[Path, Outcome]] = []
    failed = 0
    try:
        if len(inputs) == 1:
            outcomes.append((Path(inputs[0]), run_chain(inputs[0], checked, output, **keywords)))
        else:
            for item in run_batch(inputs, checked, output, **keywords):
                if item.outcome is not None:
                    outcomes.append((item.path, item.outcome))
                else:
                    failed += 1
                    print(f"error: {item.path}: {item.error}", file=sys.stderr)
    finally:
        for bar in bars:
            bar.close()
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
    for path, outcome in outcomes:
        _print(path, outcome, as_json)
    return 1 if failed else 0


def _print(path: Path, outcome: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_facts(path, outcome), indent=2, ensure_ascii=False))
    elif outcome.report is not None and "summary" in outcome.report:
        for name, values in outcome.report["summary"].items():
            print(f"{name:5} " + "  ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in values.items()))
        if outcome.path:
            print(outcome.path)
    elif outcome.report is not None:
        from toolbox.analyse import text

        print(text(outcome.report))
    else:
        print(
            f"{outcome.frames} frames of {outcome.width}x{outcome.height} at {outcome.rate} per second,"
            f" {float(outcome.duration):.3f} s, {outcome.bytes / 1e6:.2f} MB, in {outcome.seconds:.1f} s:"
            f" {outcome.path}"
        )


def _facts(path: Path, outcome: Any) -> dict[str, Any]:
    if outcome.report is not None:
        return dict(outcome.report)
    return {
        "input": str(path),
        "output": str(outcome.path),
        "kind": outcome.kind,
        "frames": outcome.frames,
        "width": outcome.width,
        "height": outcome.height,
        "rate": str(outcome.rate),
        "duration": round(float(outcome.duration), 6),
        "bytes": outcome.bytes,
        "seconds": round(outcome.seconds, 3),
        "notes": list(outcome.notes),
    }


if __name__ == "__main__":
    sys.exit(main())
