"""Finding, choosing and verifying weight files."""

# ruff: noqa: F811 (fixtures are imported, and used as arguments)

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from src import checksum, download, hub, releases
from src.errors import DownloadError, InputError, WeightsError
from src.releases import RELEASES, Release
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
    for known in RELEASES.values():
        assert RELEASES[known.name] is known
        for file in known.files:
            assert file.sha256 is None or len(file.sha256) == 64
            assert all(other.part == file.part for other in file.candidates())
    folders = [known.folder for known in RELEASES.values()]
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
        ("some", False, True, None, "nano", "1.1 lacks Prompt.safetensors in"),
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
