#!/usr/bin/env python3
"""FlashVSR+ in the browser: opens a page on this computer (port 7860) where clips and pictures are upscaled."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from src.config import VERSION
from src.errors import FlashVSRError

ROOT = Path(__file__).resolve().parent


class Parser(argparse.ArgumentParser):
    """Errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see --help)\n")


def make_parser() -> Parser:
    parser = Parser(prog="webui.py", description=__doc__)
    parser.add_argument("--port", type=int, default=7860, help="port of the page (default: 7860)")
    parser.add_argument("--listen", action="store_true", help="serve other computers too (needs --auth)")
    parser.add_argument("--share", action="store_true", help="a public address through Gradio's relay (needs --auth)")
    parser.add_argument("--auth", action="append", default=[], metavar="USER:PASSWORD", help="login; may be repeated")
    parser.add_argument(
        "--data", type=Path, default=ROOT / "webui-data", help="queue, settings, uploads (default: %(default)s)"
    )
    parser.add_argument("--output-dir", metavar="DIR", help="folder of the results (default: that of the settings)")
    parser.add_argument("--models-dir", metavar="DIR", help="folder of the weights (default: that of the settings)")
    parser.add_argument("--max-upload", default="20gb", metavar="SIZE", help="largest upload (default: 20gb)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--verbose", action="store_true", help="details on the terminal")
    parser.add_argument("--version", action="version", version=f"FlashVSR+ {VERSION}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 closed by Ctrl-C, 2 the user can mend it."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, format="%(message)s")
    from src.ui.security import parse_auth

    try:
        users = parse_auth(args.auth)
        if args.listen or args.share:
            way = "--share puts this page on the internet" if args.share else "--listen opens this page to the network"
            print(f"warning: {way}: whoever knows the password can use this computer's GPU and disk", file=sys.stderr)
            if not users:
                parser.error(f"{'--share' if args.share else '--listen'} needs --auth USER:PASSWORD")
        return _serve(args, users)
    except FlashVSRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _serve(args: argparse.Namespace, users: dict[str, str]) -> int:
    data = args.data.absolute()
    folders = {"output_folder": args.output_dir, "models_folder": args.models_dir}
    # Read when Gradio is imported: no calls home, uploads where we clean up.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(data / "uploads")
    from src.ui.quick_start import quick_start

    with quick_start():
        from src.ui.server import Server

        server = Server(data, users, {name: folder for name, folder in folders.items() if folder is not None})
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `docker stop` closes as Ctrl-C does
    host = "0.0.0.0" if args.listen else "127.0.0.1"
    try:
        address = server.start(host, args.port, args.max_upload, share=args.share, browser=args.open)
        print(f"FlashVSR+ {VERSION}: {address} (Ctrl-C ends it)", flush=True)
        server.wait()
    except KeyboardInterrupt:
        print("closing", file=sys.stderr)
    finally:
        server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
