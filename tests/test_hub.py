"""Finding, choosing, downloading and verifying weight files, against a hub served on localhost."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest

from src import checksum, download, hub, releases
from src.errors import Cancelled, DownloadError, InputError, WeightsError
from src.releases import RELEASES, Release, WeightFile

ROOT = Path(__file__).resolve().parent.parent
REPO, PROMPT_REPO = "someone/Model-v9", "someone/Prompts"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Hub:
    """What the tests put on the server, how it misbehaves, and what it was asked."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}  # send only so many bytes of the body, once
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
                return self.send(200, data, {}, body)
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
            if body:
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


# --------------------------------------------------------------------------- downloading


def test_fresh_download_then_no_request(server, release, tmp_path):
    seen = []
    paths = hub.fetch(release, "tiny", tmp_path, lambda *report: seen.append(report))
    assert set(paths) == {"dit", "projector", "tcdecoder", "prompt"}
    for path in paths.values():
        assert path.parent == tmp_path / "Model-v9"
        assert path.read_bytes() == contents()[path.name]
    assert not list(tmp_path.rglob("*.part"))
    size = len(contents()["dit.safetensors"])
    assert ("dit", "dit.safetensors", size, size) in seen
    assert all(done <= total for _, _, done, total in seen)
    server.requests.clear()
    assert hub.fetch(release, "tiny", tmp_path) == paths
    assert server.requests == []
    hub.fetch(release, "full", tmp_path)
    assert server.asked("GET") == ["Wan2.1_VAE.pth"]


def test_resumes_after_a_cut_connection(server, release, tmp_path):
    server.cut["dit.safetensors"] = 12_500
    path = hub.fetch(release, "tiny", tmp_path)["dit"]
    assert path.read_bytes() == contents()["dit.safetensors"]
    ranges = [
        head.get("Range") for verb, url, head in server.requests if verb == "GET" and url.endswith("dit.safetensors")
    ]
    assert ranges == [None, "bytes=12000-"]


def test_resumes_after_the_program_was_stopped(server, release, tmp_path):
    def stop(part: str, name: str, done: int, total: int) -> None:
        if done >= 8000:
            raise Cancelled("enough")

    dit = only(release, "dit")
    with pytest.raises(Cancelled):
        hub.fetch_file(dit, tmp_path, stop)
    assert names_in(tmp_path) == set()
    seen = []
    hub.fetch_file(dit, tmp_path, lambda *report: seen.append(report[2]))
    assert server.requests[-1][2]["Range"] == "bytes=7000-"
    assert seen[0] == 8000
    assert (tmp_path / dit.name).read_bytes() == contents()[dit.name]


def test_a_file_that_changed_on_the_hub_is_not_continued(server, release, tmp_path):
    dit = replace(only(release, "dit"), sha256=None, bytes=None)

    def stop(part: str, name: str, done: int, total: int) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        hub.fetch_file(dit, tmp_path, stop)
    server.put(REPO, dit.name, b"new" * 5000)
    assert hub.fetch_file(dit, tmp_path).read_bytes() == b"new" * 5000
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("known", [True, False], ids=["registered", "unregistered"])
def test_a_damaged_download_is_removed(server, release, tmp_path, known):
    dit = only(release, "dit") if known else replace(only(release, "dit"), sha256=None, bytes=None)
    good = contents()[dit.name]
    server.sent[dit.name] = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(DownloadError) as error:
        hub.fetch_file(dit, tmp_path)
    assert sha(good) in one_line(error)
    assert sha(server.sent[dit.name]) in str(error.value)
    assert names_in(tmp_path) == set()
    assert not list(tmp_path.rglob("*.part"))
    server.sent.clear()
    assert hub.fetch_file(dit, tmp_path).read_bytes() == good


def test_registered_hash_counts_where_the_hub_gives_none(server, release, tmp_path):
    dit = replace(only(release, "dit"), sha256="0" * 64)
    server.claimed[dit.name] = "a" * 40  # as of a file outside the large-file storage
    with pytest.raises(DownloadError, match="0" * 64):
        hub.fetch_file(dit, tmp_path)
    assert names_in(tmp_path) == set()


def test_a_new_file_of_the_authors_is_kept_with_a_warning(server, release, tmp_path, caplog):
    dit = replace(only(release, "dit"), sha256="0" * 64)
    path = hub.fetch_file(dit, tmp_path)
    assert path.is_file()
    warning = next(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert "0" * 64 in warning
    assert sha(contents()[dit.name]) in warning


def test_wrong_size_is_an_error_and_leaves_nothing(server, release, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    dit = only(release, "dit")
    server.claimed[dit.name] = sha(contents()[dit.name])
    real = download.look_up

    def grown(file, timeout):
        found = real(file, timeout)
        return replace(found, size=found.size + 5)

    monkeypatch.setattr(download, "look_up", grown)
    monkeypatch.setattr(hub, "look_up", grown)
    with pytest.raises(DownloadError) as error:
        hub.fetch_file(dit, tmp_path)
    assert f"{dit.name} of {REPO}" in one_line(error)
    assert "run again to resume" in str(error.value)
    assert names_in(tmp_path) == set()


def test_missing_on_the_server(server, release, tmp_path):
    del server.files[f"/{REPO}/resolve/main/TCDecoder.ckpt"]
    with pytest.raises(DownloadError) as error:
        hub.fetch(release, "tiny", tmp_path)
    text = one_line(error)
    assert "TCDecoder.ckpt" in text
    assert "404" in text
    assert f"https://huggingface.co/{REPO}" in text
    assert server.asked("GET") == []  # nothing is begun that cannot be finished


def test_not_a_hub(server, release, tmp_path):
    server.plain = True
    with pytest.raises(DownloadError, match="HF_ENDPOINT"):
        hub.fetch(release, "tiny", tmp_path)
    assert server.asked("GET") == []


def test_offline_lists_the_files(server, release, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "Model-v9").mkdir()
    (tmp_path / "Model-v9" / "dit.safetensors").write_bytes(b"x")
    with pytest.raises(DownloadError) as error:
        hub.fetch(release, "tiny", tmp_path)
    text = one_line(error)
    for part in ("LQ_proj_in.ckpt", "TCDecoder.ckpt", "Prompt.safetensors", REPO, PROMPT_REPO, "Model-v9", "OFFLINE"):
        assert part in text
    assert "dit.safetensors" not in text
    assert server.requests == []


def test_unreachable(release, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:9: cannot be fetched"):
        hub.fetch(release, "tiny", tmp_path)


def test_no_space(server, release, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    wanted = sum(len(data) for name, data in contents().items() if "VAE" not in name)
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage(10**6, 0, wanted + 999))
    with pytest.raises(DownloadError) as error:
        hub.fetch(release, "tiny", tmp_path / "deep" / "er")
    text = one_line(error)
    assert f"{(wanted + 999) / 1e6:.2f} MB free" in text
    assert f"needs {wanted / 1e6:.2f} MB" in text
    assert asked == [tmp_path]  # the nearest folder that exists: nothing was made yet
    assert server.asked("GET") == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 0, wanted + 1000))
    hub.fetch(release, "tiny", tmp_path / "deep" / "er")


def test_unwritable_folder(server, release, tmp_path):
    (tmp_path / "Model-v9").write_text("a file where the folder should be")
    with pytest.raises(DownloadError) as error:
        hub.fetch(release, "tiny", tmp_path)
    assert "cannot be written" in one_line(error)


def test_token_goes_to_the_hub_and_not_to_the_storage(server, release, tmp_path, monkeypatch):
    server.token = "hf_secret"
    with pytest.raises(DownloadError, match="HF_TOKEN"):
        hub.fetch_file(only(release, "dit"), tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.fetch_file(only(release, "dit"), tmp_path)
    server.requests.clear()
    server.token, server.redirect = None, server.url.replace("127.0.0.1", "localhost")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    path = hub.fetch_file(only(release, "projector"), tmp_path)
    assert path.read_bytes() == contents()["LQ_proj_in.ckpt"]
    sent = {verb: {key.lower() for key in head} for verb, _, head in server.requests}
    assert "authorization" in sent["HEAD"]
    assert "authorization" not in sent["GET"]


def test_two_at_once_download_once(server, release, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: hub.fetch(release, "tiny", tmp_path), range(4)))
    assert all(path == paths[0] for path in paths)
    assert sorted(server.asked("GET")) == sorted(path.name for path in paths[0].values())


# --------------------------------------------------------------------------- finding


def test_files_dropped_by_hand(release, tmp_path):
    folder = tmp_path / "Model-v9"
    folder.mkdir()
    placed = [folder / name for name in ("dit.safetensors", "LQ_proj_in.safetensors", "TCDecoder.safetensors")]
    placed.append(tmp_path / "posi_prompt.pth")
    for path in placed:
        path.write_bytes(b"x")
    found, missing = hub.find(release, "tiny", tmp_path)
    assert list(found.values()) == placed
    assert missing == []
    assert [file.name for file in hub.find(release, "full", tmp_path)[1]] == ["Wan2.1_VAE.pth"]


def test_never_from_another_releases_folder(release, tmp_path, monkeypatch):
    other = make_release(name="8", folder="Model")
    monkeypatch.setitem(releases.RELEASES, "8", other)
    folder = tmp_path / "Model-v9"
    folder.mkdir()
    for name in contents():
        (folder / name).write_bytes(b"x")
    assert len(hub.find(other, "tiny", tmp_path)[1]) == 4
    assert len(hub.find(other, "tiny", folder)[1]) == 4
    assert hub.find(release, "tiny", folder)[1] == []  # the very folder may be named
    assert hub.fetch(release, "tiny", folder)["dit"] == folder / "dit.safetensors"


def test_found_in_the_hub_cache(server, release, tmp_path):
    for name, data in contents().items():
        repo = (PROMPT_REPO if name.startswith("Prompt") else REPO).replace("/", "--")
        base = tmp_path / "hf" / "hub" / f"models--{repo}"
        (base / "refs").mkdir(parents=True, exist_ok=True)
        (base / "refs" / "main").write_text("c" * 40)
        (base / "snapshots" / ("c" * 40)).mkdir(parents=True, exist_ok=True)
        (base / "snapshots" / ("c" * 40) / name).write_bytes(data)
    paths = hub.fetch(release, "full", tmp_path / "models")
    assert {path.name for path in paths.values()} == set(contents()) - {"TCDecoder.ckpt"}
    assert server.requests == []
    assert not (tmp_path / "models").exists()


def test_nano_is_found_from_anywhere_and_is_what_was_registered(tmp_path):
    nano = RELEASES["nano"]
    paths = hub.fetch(nano, "tiny", tmp_path / "nowhere")
    assert paths == hub.fetch(nano, "tiny-long", Path("models"))
    for file in nano.files:
        data = paths[file.part].read_bytes()
        assert (file.bytes, file.sha256) == (len(data), sha(data))
        assert hub.verify(file, paths[file.part], tmp_path) is None
    with pytest.raises(InputError, match=r"nano has no VAE decoder: use --mode tiny or --model 1\.1"):
        hub.find(nano, "full", tmp_path)


def test_nano_without_its_files(tmp_path):
    with pytest.raises(WeightsError, match="reinstall"):
        hub.fetch(replace(RELEASES["nano"], embedded=tmp_path), "tiny", tmp_path)


def test_the_registry():
    assert {name: release.config.projector.kind for name, release in RELEASES.items()} == {
        "nano": "causal",
        "1.0": "buffer",
        "1.1": "causal",
    }
    for release in RELEASES.values():
        assert RELEASES[release.name] is release
        for file in release.files:
            assert file.sha256 is None or len(file.sha256) == 64
            assert all(other.part == file.part for other in file.candidates())
    folders = [release.folder for release in RELEASES.values()]
    assert len(set(folders)) == len(folders)
    assert {file.repo for file in RELEASES["1.0"].files} == {"JunhaoZhuang/FlashVSR", "1038lab/FlashVSR"}


# --------------------------------------------------------------------------- choosing


@pytest.fixture
def real_11(server, monkeypatch):
    """The real registry with 1.1's files on the server."""
    for file in RELEASES["1.1"].files:
        server.put(file.repo, file.name, b"x" * 100)
    return server


def put_files(release: Release, folder: Path, skip: str = "") -> None:
    (folder / release.folder).mkdir(parents=True)
    for file in release.files:
        if file.part != skip:
            (folder / release.folder / file.name).write_bytes(b"x")


@pytest.mark.parametrize(
    ("files", "gpu", "reach", "vram", "chosen", "words"),
    [
        ("all", False, False, None, "1.1", "its files are in"),
        ("all", True, False, None, "1.1", "its files are in"),
        ("none", True, True, None, "1.1", "there is a GPU"),
        ("none", True, True, 8 * 2**30, "1.1", "there is a GPU"),
        ("none", True, True, 4 * 2**30, "nano", "of memory, less than"),
        ("none", True, False, None, "nano", "cannot be fetched"),
        ("none", False, True, None, "nano", "no GPU"),
        ("some", False, True, None, "nano", "(no Prompt.safetensors) and there is no GPU"),
        ("some", True, True, None, "1.1", "there is a GPU"),
    ],
)
def test_auto(real_11, tmp_path, monkeypatch, caplog, files, gpu, reach, vram, chosen, words):
    caplog.set_level(logging.INFO)
    if files != "none":
        put_files(RELEASES["1.1"], tmp_path, skip="prompt" if files == "some" else "")
    if not reach:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    release, reason = hub.choose_release("auto", "tiny", tmp_path, gpu, vram)
    assert release.name == chosen
    assert words in reason
    lines = [record for record in caplog.records if record.name.startswith("src")]
    assert [record.getMessage() for record in lines] == [f"weights: {chosen} ({reason})"]
    assert (lines[0].levelno == logging.WARNING) == (chosen == "nano" and gpu)
    assert real_11.asked("GET") == []
    if not gpu or files == "all":
        assert real_11.requests == []


def test_auto_offline_with_a_gpu(real_11, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    release, reason = hub.choose_release("auto", "tiny", tmp_path, has_gpu=True)
    assert release.name == "nano"
    assert "HF_HUB_OFFLINE" in reason
    assert real_11.requests == []


def test_auto_full_without_a_vae(tmp_path):
    with pytest.raises(InputError) as error:
        hub.choose_release("auto", "full", tmp_path, has_gpu=False)
    text = one_line(error)
    assert "no VAE" in text
    assert "no GPU" in text
    assert "--model 1.1" in text


def test_a_named_release_never_falls_back(tmp_path, monkeypatch):
    for name in ("1.0", "1.1"):
        release, _ = hub.choose_release(name, "tiny", tmp_path, has_gpu=False)
        assert release is RELEASES[name]
        with pytest.raises(DownloadError, match="cannot be fetched"):
            hub.fetch(release, "tiny", tmp_path)
    with pytest.raises(InputError, match="no VAE"):
        hub.choose_release("nano", "full", tmp_path, has_gpu=True)
    with pytest.raises(InputError, match=r"'2\.0'"):
        hub.choose_release("2.0", "tiny", tmp_path, has_gpu=True)


# --------------------------------------------------------------------------- verifying


@pytest.fixture
def hashed(monkeypatch):
    """Counts the files that are really hashed; every size is remembered."""
    monkeypatch.setattr(checksum, "MEMORY_FROM", 0)
    real, calls = checksum.sha256_of, []
    monkeypatch.setattr(checksum, "sha256_of", lambda path: calls.append(path.name) or real(path))
    monkeypatch.setattr(download, "sha256_of", checksum.sha256_of)
    return calls


def test_a_hash_is_computed_once(release, tmp_path, hashed):
    dit = only(release, "dit")
    path = tmp_path / dit.name
    path.write_bytes(contents()[dit.name])
    assert hub.verify(dit, path, tmp_path) is None
    assert hub.verify(dit, path, tmp_path) is None
    assert hashed == [dit.name]
    changed = b"y" + contents()[dit.name][1:]
    path.write_bytes(changed)
    os.utime(path, ns=(1, 1))
    note = hub.verify(dit, path, tmp_path)
    assert note is not None
    assert sha(changed) in note
    assert dit.sha256 in note
    assert len(hashed) == 2


def test_a_download_is_not_hashed_again(release, tmp_path, hashed):
    paths = hub.fetch(release, "tiny", tmp_path)
    assert len(hashed) == 4
    for file in release.files:
        if file.part in paths:
            assert hub.verify(file, paths[file.part], tmp_path) is None
    assert len(hashed) == 4


def test_the_memory_may_be_broken_or_unwritable(release, tmp_path, hashed):
    dit = only(release, "dit")
    path = tmp_path / dit.name
    path.write_bytes(contents()[dit.name])
    for broken in ("{", "[]", f'{{"{path.resolve()}": 3}}'):
        (tmp_path / checksum.MEMORY).write_text(broken)
        assert hub.verify(dit, path, tmp_path) is None
    assert len(hashed) == 3
    assert hub.verify(dit, path, tmp_path / "not" / "there") is None
    assert not (tmp_path / "not").exists()
    assert names_in(tmp_path) == {dit.name, checksum.MEMORY}


def test_size_is_compared_before_anything_is_hashed(release, tmp_path, hashed):
    dit = only(release, "dit")
    (tmp_path / dit.name).write_bytes(b"short")
    note = hub.verify(dit, tmp_path / dit.name, tmp_path)
    assert note == f"it has 5 bytes, the published {dit.name} has {dit.bytes}"
    assert hashed == []


def test_a_repack_is_not_measured_by_the_original(release, tmp_path):
    path = tmp_path / "LQ_proj_in.safetensors"
    path.write_bytes(b"other")
    assert hub.verify(only(release, "projector"), path, tmp_path) is None


# --------------------------------------------------------------------------- import


def test_nothing_heavy_at_import():
    heavy = ("torch", "huggingface_hub", "tqdm", "safetensors")
    code = f"import sys, src.hub; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
