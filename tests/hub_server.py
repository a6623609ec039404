"""A hub on localhost for the tests of downloads: laid out and answering like the real one, and able to misbehave.

Its fixtures close every other way out: no network, no cache, no token of the machine is touched.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest

from src import download, releases
from src.releases import Release, WeightFile

REPO, PROMPT_REPO = "someone/Model-v9", "someone/Prompts"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Hub:
    """What the tests put on the server, how it misbehaves, and what it was asked."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}  # send only so many bytes of the body, once
        self.hold: dict[str, int] = {}  # send so many bytes, then nothing, once
        self.release = threading.Event()
        self.sent: dict[str, bytes] = {}  # send this instead of the file
        self.claimed: dict[str, str] = {}  # etag other than the hash
        self.token: str | None = None
        self.plain = False  # a web server that is no hub
        self.redirect: str | None = None  # large files lie on another host
        self.requests: list[tuple[str, str, dict[str, str]]] = []

    def put(self, repo: str, name: str, data: bytes) -> None:
        self.files[f"/{repo}/resolve/main/{name}"] = data

    def asked(self, method: str) -> list[str]:
        return [path.rsplit("/", 1)[-1] for verb, path, _ in self.requests if verb == method]


def handler(state: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, body: bool) -> None:
            state.requests.append((self.command, self.path, dict(self.headers)))
            data = state.files.get(self.path.removeprefix("/storage"))
            if state.token and self.headers.get("Authorization") != f"Bearer {state.token}":
                return self.refuse(401)
            if data is None:
                return self.refuse(404)
            name = self.path.rsplit("/", 1)[-1]
            if state.plain:
                return self.send(200, data, {"ETag": '"1"'}, body)
            head = {"ETag": f'"{state.claimed.get(name, sha(data))}"', "X-Repo-Commit": "c" * 40}
            if state.redirect and not self.path.startswith("/storage"):
                linked = {"X-Linked-Size": str(len(data)), "X-Linked-Etag": head["ETag"]}
                return self.send(302, b"", {**head, **linked, "Location": f"{state.redirect}/storage{self.path}"}, body)
            data = state.sent.get(name, data)
            start = 0
            if "Range" in self.headers:
                start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
                head["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.send(
                206 if start else 200, data[start:], head, body, state.cut.pop(name, None) if body else None
            )

        def send(self, status: int, data: bytes, head: dict[str, str], body: bool, cut: int | None = None) -> None:
            self.send_response(status)
            for key, value in {**head, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            hold = state.hold.pop(self.path.rsplit("/", 1)[-1], None) if body else None
            if hold is not None:
                self.wfile.write(data[:hold])
                state.release.wait(30)
                self.close_connection = True
            elif body:
                self.wfile.write(data[:cut])
            if cut is not None:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        def refuse(self, status: int) -> None:
            code = {404: "EntryNotFound", 401: "RepoNotFound"}[status]
            self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": "no"}, body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def log_message(self, *args) -> None:
            pass

    return Handler


@pytest.fixture
def server(monkeypatch):
    """A hub on localhost; any other address is out of reach and fails the test."""
    state = Hub()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    state.url = f"http://127.0.0.1:{httpd.server_port}"
    state.httpd = httpd
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    yield state
    state.release.set()
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(autouse=True)
def closed_world(monkeypatch, tmp_path):
    """No real network, no real cache, no token; small reads so that cuts fall inside a file."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    # huggingface_hub has errands of its own at the address it saw when it was imported.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "AGENT_HARNESSES_PATH", str(tmp_path / "none"), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(download, "SPACE_MARGIN", 1000)
    monkeypatch.setattr(download, "RETRY_PAUSE", 0)
    real, strangers = socket.getaddrinfo, []

    def local_only(host, *args, **kwargs):
        if host not in ("127.0.0.1", b"127.0.0.1", "localhost", None):
            strangers.append(host)
            raise OSError(f"the test asked for {host}")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", local_only)
    yield
    assert not strangers, strangers


def contents() -> dict[str, bytes]:
    names = ("dit.safetensors", "LQ_proj_in.ckpt", "TCDecoder.ckpt", "Wan2.1_VAE.pth", "Prompt.safetensors")
    return {name: hashlib.shake_256(name.encode()).digest(20_000 + 7 * i) for i, name in enumerate(names)}


def make_release(**changes) -> Release:
    """A release laid out as the real ones, of 20 kB files."""
    data = contents()
    parts = dict(zip(("dit", "projector", "tcdecoder", "vae", "prompt"), data, strict=True))
    files = []
    for part, name in parts.items():
        repack = WeightFile(part, name.rsplit(".", 1)[0] + ".safetensors")
        alternatives = (WeightFile(part, "posi_prompt.pth"),) if part == "prompt" else (repack,)
        repo = PROMPT_REPO if part == "prompt" else REPO
        files.append(WeightFile(part, name, repo, len(data[name]), sha(data[name]), alternatives))
    return replace(Release("9", "Model-v9", tuple(files)), **changes)


@pytest.fixture
def release(server, monkeypatch) -> Release:
    made = make_release()
    for name, data in contents().items():
        server.put(PROMPT_REPO if name.startswith("Prompt") else REPO, name, data)
    monkeypatch.setitem(releases.RELEASES, "9", made)
    return made


def only(release: Release, part: str) -> WeightFile:
    return next(file for file in release.files if file.part == part)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text
