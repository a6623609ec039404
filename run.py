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


class _Bar:
    """The progress bar of a job, made with its first frames: until then only log lines are shown."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: Any = None

    def show(self, progress: Any) -> None:
        from tqdm import tqdm

        if self.quiet:
            return
        if self.bar is None:
            settings: dict[str, Any] = {"unit": "frame", "smoothing": 0, "dynamic_ncols": True, "leave": False}
            self.bar = tqdm(total=progress.expected, initial=progress.resumed, **settings)
            self.bar.start_t -= progress.seconds
        self.bar.update(progress.frames - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None


def _upscale(options: Options, quiet: bool) -> int:
    from src.batch import videos_in
    from src.jobs import upscale_file
    from src.plan import plan_job

    if options.input.is_dir() and (videos := videos_in(options.input)):
        return _batch(options, quiet, len(videos))
    if options.dry_run:
        print("\n".join(plan_job(options).lines()))
        return 0
    bar = _Bar(quiet)
    try:
        result = upscale_file(options, progress=bar.show)
    finally:
        bar.close()
    memory = "" if result.peak_memory is None else f", {result.peak_memory / 2**30:.1f} GiB at most"
    print(
        f"{result.frames} frames of {result.width}x{result.height} in {result.seconds:.1f} s"
        f" ({result.fps:.2f} FPS{memory}, {result.model}): {result.path}"
    )
    return 0


def _batch(options: Options, quiet: bool, count: int) -> int:
    """A folder of videos. Exit code 1 if any of them failed."""
    from src.batch import upscale_folder, videos_in
    from src.plan import plan_job

    if options.dry_run:
        for path in videos_in(options.input):
            print("\n".join([f"{path}:", *plan_job(options.replace(input=path, output=f"{options.output}/")).lines()]))
        return 0
    bar, current = _Bar(quiet), [options.input]

    def show(path: Any, progress: Any) -> None:
        if path != current[0]:
            bar.close()
            current[0] = path
        bar.show(progress)

    try:
        items = upscale_folder(options, show)
    finally:
        bar.close()
    for item in items:
        if item.result is not None:
            words = f"{item.result.frames} frames, {item.result.fps:.2f} FPS: {item.result.path}"
        else:
            words = f"failed: {item.error}"
        print(f"{item.path.name}  {words}")
    failed = sum(item.error is not None for item in items)
    print(f"{count - failed} of {count} videos done" + (f", {failed} failed" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
