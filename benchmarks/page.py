"""How long it takes from `python webui.py` until the page can be used.

    python -m benchmarks.page [--runs 7]

Every run starts the server afresh in an empty data folder, waits for its first answer, and opens the page in an empty
window, with an empty cache, of a headless Chromium that already runs. "Usable" is the frame after the one that has the
Upscale button, by the page's own clock: a program that drives a browser learns of it some tenths of a second later.
Needs the browser of the tests (requirements-dev.txt). Prints the median and the slowest of the runs.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from datetime import date
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[1]
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_GIVE_UP = 120.0
# Seconds since 1970 when the frame after the one with the button is drawn.
_WATCH = """
new MutationObserver((_, observer) => {
  if (!document.querySelector("#video-run")) return;
  observer.disconnect();
  requestAnimationFrame(() => requestAnimationFrame(() => { window.usable = Date.now() / 1000; }));
}).observe(document, { childList: true, subtree: true });
"""


def one_start(browser: Browser) -> tuple[float, float]:
    """Seconds until the server answers, and until the page can be used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(_WATCH)
    with tempfile.TemporaryDirectory(prefix="flashvsr-page-") as data:
        began = time.time()  # the browser's clock too
        process = subprocess.Popen(
            [sys.executable, "webui.py", "--port", str(port), "--data", data],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            _wait_for(url, process)
            answers = time.time() - began
            page.goto(url, wait_until="commit")
            usable = page.wait_for_function("window.usable").json_value() - began
            context.close()
        finally:
            process.terminate()
            process.wait(30)
    return answers, usable


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.perf_counter() + _GIVE_UP
    while time.perf_counter() < deadline:
        try:
            with urllib.request.urlopen(url + "app/static/app.css", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None:
                raise SystemExit(f"webui.py ended with code {process.returncode}") from None
            time.sleep(0.02)
    raise SystemExit(f"no answer within {_GIVE_UP:g} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    executable = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        version = browser.version
        one_start(browser)  # files come into the system's cache
        times = [one_start(browser) for _ in range(runs)]
        browser.close()
    for name, column in zip(("server answers", "page usable"), zip(*times, strict=True), strict=True):
        print(f"{name}: median {statistics.median(column):.2f} s, slowest {max(column):.2f} s of {runs}")
    import gradio

    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    print(f"{machine}, Gradio {gradio.__version__}, Chromium {version}, {date.today().isoformat()}")


if __name__ == "__main__":
    main()
