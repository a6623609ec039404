"""Downloading weight files, against a hub served on localhost."""

# ruff: noqa: F811 (fixtures are imported, and used as arguments)

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from src import download, hub
from src.errors import Cancelled, DownloadError
from tests.hub_server import (  # noqa: F401 (fixtures)
    PROMPT_REPO,
    REPO,
    closed_world,
    contents,
    make_release,
    names_in,
    one_line,
    only,
    release,
    server,
    sha,
)

ROOT = Path(__file__).resolve().parent.parent


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


KILLED = """
import sys
from pathlib import Path
import huggingface_hub.constants
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1000
from src import hub
hub.fetch_file(hub.WeightFile("dit", "dit.safetensors", "someone/Model-v9"), Path(sys.argv[1]))
"""


def test_resumes_after_the_program_was_killed(server, release, tmp_path):
    """Another process is killed in the middle: its lock is free, its bytes are used."""
    server.hold["dit.safetensors"] = 18_000
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 20
        while not any(path.stat().st_size for path in tmp_path.rglob("*.part")):
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.02)
    finally:
        child.kill()
        child.wait()
    (part,) = tmp_path.rglob("*.part")
    kept = part.stat().st_size
    assert 0 < kept <= 18_000
    path = hub.fetch_file(only(release, "dit"), tmp_path)
    assert path.read_bytes() == contents()["dit.safetensors"]
    assert server.requests[-1][2]["Range"] == f"bytes={kept}-"


def test_survives_a_hub_that_goes_away_for_a_while(server, release, tmp_path, monkeypatch, caplog):
    """A reset connection, then a hub that does not answer, then the rest."""
    real, answers = download.look_up, iter([None, DownloadError("the hub is away"), None])

    def shaky(file, timeout):
        answer = next(answers)
        if answer:
            raise answer
        return real(file, timeout)

    monkeypatch.setattr(hub, "look_up", shaky)
    monkeypatch.setattr(download, "look_up", shaky)
    from huggingface_hub import file_download

    get, breaks = file_download.http_get, [ConnectionResetError(104, "reset"), ConnectionResetError(104, "reset"), None]

    def broken(url, out, **options):
        if error := breaks.pop(0):
            out.write(b"") if options["resume_size"] else out.write(contents()["dit.safetensors"][:5000])
            raise error
        return get(url, out, **options)

    monkeypatch.setattr(file_download, "http_get", broken)
    path = hub.fetch_file(only(release, "dit"), tmp_path)
    assert path.read_bytes() == contents()["dit.safetensors"]
    assert server.requests[-1][2]["Range"] == "bytes=5000-"
    assert "the hub is away" in caplog.text


def test_gives_up_in_the_end_and_keeps_what_came(server, release, tmp_path, monkeypatch):
    from huggingface_hub import file_download

    tries = []

    def dead(url, out, **options):
        tries.append(options["resume_size"])
        out.write(b"x" * 10)
        raise ConnectionResetError(104, "reset")

    monkeypatch.setattr(file_download, "http_get", dead)
    with pytest.raises(DownloadError) as error:
        hub.fetch_file(only(release, "dit"), tmp_path)
    assert "run again to resume" in one_line(error)
    assert tries == [0, 10, 20, 30, 40]
    assert [path.stat().st_size for path in tmp_path.rglob("*.part")] == [50]


def test_a_full_disk_is_not_tried_again(server, release, tmp_path, monkeypatch):
    from huggingface_hub import file_download

    tries = []

    def full(url, out, **options):
        tries.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    with pytest.raises(DownloadError) as error:
        hub.fetch_file(only(release, "dit"), tmp_path)
    assert "No space left" in one_line(error)
    assert tries == [1]


def test_a_file_that_changed_on_the_hub_is_not_continued(server, release, tmp_path):
    dit = replace(only(release, "dit"), sha256=None, bytes=None)

    def stop(part: str, name: str, done: int, total: int) -> None:
        if done > 3000:
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
    assert "not found (404)" in text
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
