#!/usr/bin/env python3
"""FlashVSR+ on the command line: a video, a picture or a folder of pictures in, a larger and sharper one out."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from src.config import VERSION, Options
from src.errors import FlashVSRError

EXAMPLES = """examples:
  python run.py -i clip.mp4 outputs/              4x with the best weights that are there
  python run.py -i clip.mp4 big.mkv -s 2 -q 9     2x into a Matroska file of high quality
  python run.py -i old.jpg --color-fix wavelet    a picture
  python run.py -i frames/ movie.mp4 -f 24        a folder of pictures as a video
"""
GROUPS = {"files": "files", "model": "model", "compute": "computation", "output": "output"}


class Parser(argparse.ArgumentParser):
    """Errors are one line; the usage of thirty options would hide them."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see --help)\n")


def make_parser() -> Parser:
    """The parser, made from the fields of Options. Values stay text: Options checks them."""
    parser = Parser(
        prog="run.py", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    groups = {name: parser.add_argument_group(title) for name, title in GROUPS.items()}
    for item in dataclasses.fields(Options):
        meta: Any = item.metadata
        text = meta["help"].replace("%", "%%")
        settings: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text + _default_text(item)}
        if not meta["flags"]:
            settings["nargs"] = "?"
        elif meta["kind"] == "flag":
            settings["action"] = "store_true"
        else:
            settings["dest"] = item.name
            settings["metavar"] = "|".join(meta["choices"]) if meta["choices"] else _metavar(meta["kind"])
            if meta["const"] is not None:
                settings |= {"nargs": "?", "const": meta["const"]}
        groups[meta["group"]].add_argument(*(meta["flags"] or (item.name,)), **settings)
    talk = parser.add_argument_group("messages").add_mutually_exclusive_group()
    talk.add_argument("--quiet", action="store_true", help="errors only, no progress bar")
    talk.add_argument("--verbose", action="store_true", help="details, and a traceback on errors")
    parser.add_argument("--version", action="version", version=f"FlashVSR+ {VERSION}")
    return parser


def _metavar(kind: str) -> str:
    return {"path": "PATH", "target": "PATH", "time": "TIME", "str": "NAME"}.get(kind, "N")


def _default_text(item: dataclasses.Field[Any]) -> str:
    if item.default is None or item.metadata["kind"] == "flag":
        return ""
    return f" (default: {item.default})"


def protect_names(arguments: Sequence[str]) -> list[str]:
    """Help argparse where a file name could be taken for something else.

    ``-i NAME`` becomes one word, so that a name may begin with a dash; a bare ``--color-fix`` gets its
    value, so that it does not swallow the output that follows.
    """
    bare = {
        flag: item for item in dataclasses.fields(Options) if item.metadata["const"] for flag in item.metadata["flags"]
    }
    out: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word in ("-i", "--input") and words:
            out.append(f"--input={words.pop(0)}")
        elif word in bare and not (words and words[0] in bare[word].metadata["choices"]):
            out.append(f"{word}={bare[word].metadata['const']}")
        else:
            out.append(word)
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 a fault of ours, 2 the user can mend it, 130 Ctrl-C."""
    parser = make_parser()
    values = vars(parser.parse_args(protect_names(sys.argv[1:] if arguments is None else arguments)))
    quiet, verbose = values.pop("quiet"), values.pop("verbose")
    if "input" not in values:
        parser.error("the following argument is required: -i/--input")
    try:
        options = Options(**values)
        _talk(quiet, verbose)
        return _upscale(options, quiet)
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on after the last finished segment", file=sys.stderr)
        return 130
    except FlashVSRError as error:
        if verbose:
            logging.getLogger("src").exception("details:")
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if verbose:
            logging.getLogger("src").exception("details:")
        name = type(error).__name__
        first = (str(error).strip().splitlines() or [""])[0]
        print(f"error: {name}: {first} (this is a bug; --verbose shows where)", file=sys.stderr)
        return 1


def _talk(quiet: bool, verbose: bool) -> None:
    from tqdm import tqdm

    class Handler(logging.Handler):
        """Log lines that do not tear the progress bar."""

        def emit(self, record: logging.LogRecord) -> None:
            tqdm.write(self.format(record), file=sys.stderr)

    handler = Handler()
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s: %(message)s" if verbose else "%(message)s"))
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    for name in ("src", "toolbox"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)


def _upscale(options: Options, quiet: bool) -> int:
    from tqdm import tqdm

    from src.jobs import Progress, upscale_file
    from src.plan import plan_job

    if options.dry_run:
        print("\n".join(plan_job(options).lines()))
        return 0
    bars: list[tqdm[Any]] = []  # made with the first frames: until then only log lines are shown

    def show(progress: Progress) -> None:
        if not bars:
            bars.append(tqdm(total=progress.expected, unit="frame", smoothing=0, dynamic_ncols=True, leave=False))
            bars[0].start_t -= progress.seconds
            bars[0].update(progress.resumed)
            bars[0].initial = progress.resumed
        bars[0].update(progress.frames - bars[0].n)

    try:
        result = upscale_file(options, progress=None if quiet else show)
    finally:
        for bar in bars:
            bar.close()
    memory = "" if result.peak_memory is None else f", {result.peak_memory / 2**30:.1f} GiB at most"
    print(
        f"{result.frames} frames of {result.width}x{result.height} in {result.seconds:.1f} s"
        f" ({result.fps:.2f} FPS{memory}, {result.model}): {result.path}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
