"""A real server process and a real browser for the tests of the page."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import Browser, Page, Playwright

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "inputs" / "bbb_320x180.mp4"
PATIENCE = 120  # seconds for anything: the machine may be busy
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def launch(playwright: Playwright) -> Browser:
    """The system's browser or Playwright's own; without any the tests fail."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    # Containers run as root, where Chromium's sandbox cannot work; the page under test is our own.
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])


class Server:
    """``python webui.py`` on a free port, its data and outputs under ``folder``."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder, self.data = folder, folder / "data"
        self.outputs = folder / "outputs"
        self.arguments = arguments
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.data.mkdir(parents=True, exist_ok=True)
        settings = self.data / "settings.json"
        if not settings.exists():
            settings.write_text(json.dumps({"output_folder": str(self.outputs)}))
        self.start()

    def start(self) -> None:
        command = [sys.executable, "webui.py", "--port", str(self.port), "--data", str(self.data), *self.arguments]
        self.log = (self.folder / "server.log").open("ab")
        environment = os.environ | {"OMP_NUM_THREADS": "2"}
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=self.log, stderr=subprocess.STDOUT, env=environment)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.get("app/static/app.css")
                return
            except urllib.error.HTTPError:
                return  # it answers
            except OSError:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.1)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.log.close()

    def kill(self) -> None:
        """As if the power went."""
        self.process.kill()
        self.process.wait(30)
        self.log.close()

    def get(self, path: str, **headers: str) -> bytes:
        request = urllib.request.Request(self.url + path, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read()

    def status(self, path: str, method: str = "GET", **headers: str) -> int:
        """The HTTP status of a request. Header names have _ for -."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, headers=names, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def state(self) -> dict:
        return json.loads(self.get("app/state"))

    def jobs(self) -> list[dict]:
        """Newest first."""
        return self.state()["jobs"]


def wait_for(condition, what: str, seconds: float = PATIENCE):
    """The first true value of ``condition()``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"not in {seconds} s: {what}")


def open_page(browser: Browser, server: Server, **context) -> Page:
    """A fresh page; what the browser complains about is collected in ``page.complaints``."""
    page = browser.new_context(viewport=context.pop("viewport", {"width": 1400, "height": 900}), **context).new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.complaints = []
    page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(server.url)
    page.wait_for_selector("#video-run")
    page.wait_for_selector("#fv-monitor:has-text('CPU')")
    return page


def drop(page: Page, media: str, *files: Path) -> None:
    """Give files to the drop area of a tab and wait for their facts, or for what is wrong with them."""
    page.set_input_files(f"#{media}-files input[type=file]", [str(file) for file in files])
    page.wait_for_selector(f"#{media}-facts dl, #{media}-facts .fv-error")


def set_number(page: Page, element: str, value: object) -> None:
    """Type into the number of a slider, as a person does."""
    field = page.locator(f"#{element} input[type=number]")
    field.fill(str(value))
    field.press("Tab")


def choose(page: Page, element: str, text: str) -> None:
    page.locator(f"#{element} label", has_text=text).first.click()
