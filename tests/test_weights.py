"""Reading weight files: formats, prefixes, everything that must be refused, and the versions."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from src import hub, releases, tensor_files
from src.errors import WeightsError
from src.models import weights
from src.models.weights import assign, check_versions, read_prompt, read_tensors
from src.releases import RELEASES, WeightFile

GOLDEN = Path(__file__).parent / "golden"
STATE = {
    "conv1.weight": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 7,
    "conv1.bias": torch.tensor([1.5, -2.25]),
    "norm1.gamma": torch.linspace(-1, 1, 5),
}
WANTED = {key: tuple(value.shape) for key, value in STATE.items()}
ALL_FORMATS = ("safetensors", "zip", "legacy")


def write(folder: Path, state: object, form: str = "safetensors", name: str = "part") -> Path:
    path = folder / {"safetensors": f"{name}.safetensors", "zip": f"{name}.ckpt", "legacy": f"{name}.pkl"}[form]
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    return path


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in STATE.items()}


def read(path: Path, part: str = "projector", **options):
    return read_tensors(path, WANTED, part, **options)


def assert_state(tensors: dict[str, torch.Tensor]) -> None:
    assert set(tensors) == set(STATE)
    for key, value in STATE.items():
        assert torch.equal(tensors[key], value)


def refusal(call, *words: str) -> str:
    """The one-line message of the WeightsError that ``call`` raises."""
    with pytest.raises(WeightsError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
    return text


# --------------------------------------------------------------------------- what is accepted


@pytest.mark.parametrize("form", ALL_FORMATS)
@pytest.mark.parametrize(
    ("part", "prefix"),
    [("projector", "LQ_proj_in."), ("vae", "model."), ("rife", "module."), ("dit", ""), ("projector", "")],
)
def test_formats_and_prefixes(tmp_path, form, part, prefix):
    assert_state(read(write(tmp_path, prefixed(prefix), form), part))


def test_a_prefix_of_another_part_is_foreign(tmp_path):
    path = write(tmp_path, prefixed("model."))
    refusal(lambda: read(path, "dit"), str(path), "'conv1.weight'", "model.conv1.bias")


def test_the_exact_name_wins_over_the_prefixed_one(tmp_path):
    other = {"model." + key: value + 1 for key, value in STATE.items()}
    assert_state(read(write(tmp_path, {**other, **STATE}), "vae"))


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("nest", ["state_dict", "model_state", "model"])
def test_nested_dicts(tmp_path, form, nest):
    assert_state(read(write(tmp_path, {nest: STATE, "epoch": 3, "lr": [1e-4]}, form)))
    assert_state(read(write(tmp_path, {"state_dict": {nest: prefixed("model.")}}, form), "vae"))


def test_a_parameter_is_read_as_a_plain_tensor(tmp_path):
    tensors = read(write(tmp_path, {key: nn.Parameter(value) for key, value in STATE.items()}, "zip"))
    assert not any(tensor.requires_grad for tensor in tensors.values())


def test_extra_keys_are_logged_once_and_ignored(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    extra = {f"encoder.{index}": torch.ones(1) for index in range(9)}
    path = write(tmp_path, {**STATE, **extra})
    assert_state(read(path))
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert f"{path}: 9 tensors beyond" in record.getMessage()
    assert "encoder.0" in record.getMessage()


@pytest.mark.parametrize("form", ALL_FORMATS)
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_dtype(tmp_path, form, stored):
    path = write(tmp_path, {key: value.to(stored) for key, value in STATE.items()}, form)
    for wanted in (torch.float32, torch.bfloat16, None):
        for key, tensor in read(path, dtype=wanted).items():
            assert tensor.dtype == (wanted or stored)
            assert torch.equal(tensor, STATE[key].to(stored).to(wanted or stored))


def test_safetensors_under_another_suffix(tmp_path):
    path = write(tmp_path, STATE)
    assert_state(read(path.rename(tmp_path / "part.ckpt")))


def test_only_the_wanted_tensors_are_read(tmp_path, monkeypatch):
    path = write(tmp_path, {**STATE, "encoder.huge": torch.ones(1000)})
    placed = []
    real = tensor_files.place
    monkeypatch.setattr(
        tensor_files, "place", lambda path, source, key, *rest: placed.append(key) or real(path, source, key, *rest)
    )
    read(path)
    assert sorted(placed) == sorted(STATE)


@pytest.mark.parametrize("part", ["dit", "lq_proj", "tcdecoder", "vae", "rife"])
def test_the_manifests_match_under_every_accepted_name(part):
    manifest = json.loads((GOLDEN / f"manifest_{part}.json").read_text())["tensors"]
    name = {"lq_proj": "projector"}.get(part, part)
    prefix = tensor_files.PREFIXES.get(name, "")
    manifest = {key.removeprefix(prefix): shape for key, shape in manifest.items()}
    for keys in (list(manifest), [prefix + key for key in manifest]):
        source = tensor_files.TensorSource(
            {key: tuple(manifest[key.removeprefix(prefix)]) for key in keys},
            dict.fromkeys(keys, "F32"),
            lambda key: None,
        )
        names = tensor_files._match(source, manifest, name)
        assert list(names) == list(manifest)
        assert sorted(names.values()) == sorted(keys)
        tensor_files._check_fit(Path("x"), source, names, manifest, name, None)


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("form", ALL_FORMATS)
def test_missing_key(tmp_path, form):
    path = write(tmp_path, {key: value for key, value in STATE.items() if key != "norm1.gamma"}, form)
    refusal(lambda: read(path), str(path), "1 of 3", "'norm1.gamma'", "(5,)", "projector", "README")


@pytest.mark.parametrize("form", ALL_FORMATS)
def test_wrong_shape(tmp_path, form):
    path = write(tmp_path, {**STATE, "conv1.bias": torch.ones(3)}, form)
    refusal(lambda: read(path), str(path), "'conv1.bias'", "(3,)", "(2,)", "README")


@pytest.mark.parametrize("form", ALL_FORMATS)
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.97])
def test_truncated(tmp_path, form, keep):
    path = write(tmp_path, {**STATE, "more": torch.ones(2000)}, form)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    refusal(lambda: read(path), str(path), "README")


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (bytes(range(256)) * 9, "README"),
        (b"\x00" * 4096, "README"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5676070392\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>please log in</html>", "web page"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{broken json.....", "README"),
        (pickle.dumps({"a": 1}, protocol=2), "README"),
        (b"PK\x03\x04 no archive", "README"),
    ],
    ids=["empty", "bytes", "zeros", "lfs", "html", "json", "pickle", "zip"],
)
def test_garbage(tmp_path, suffix, data, words):
    path = tmp_path / f"part{suffix}"
    path.write_bytes(data)
    refusal(lambda: read(path), str(path), words)
    refusal(lambda: read_prompt(path, 8), str(path), words)


def test_other_zip_archives_and_checkpoints_without_tensors(tmp_path):
    path = tmp_path / "part.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refusal(lambda: read(path), str(path))
    for content in ({"epoch": 1}, [1, 2], "text"):
        torch.save(content, path)
        refusal(lambda: read(path), str(path), "without a single tensor")


def test_no_file(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path / "none.ckpt", tmp_path):
        refusal(lambda path=path: read(path), str(path), "cannot be read")


class Trap:
    """Unpickling this touches a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "raw"])
def test_a_malicious_pickle_is_not_executed(tmp_path, form):
    mark, path = tmp_path / "executed", tmp_path / "part.ckpt"
    content = {**STATE, "trap": Trap(mark)}
    if form == "raw":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        path = write(tmp_path, content, form)
    refusal(lambda: read(path), str(path), "more than tensors", "nothing in it was executed")
    refusal(lambda: read_prompt(path, 8), "nothing in it was executed")
    assert not mark.exists()
    torch.load(io.BytesIO(path.read_bytes()), weights_only=False) if form != "raw" else pickle.loads(path.read_bytes())
    assert mark.exists()  # the trap does work where it is let loose


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("form", ["safetensors", "zip"])
def test_quantised_repacks(tmp_path, form, dtype):
    path = write(tmp_path, {**STATE, "conv1.weight": STATE["conv1.weight"].to(dtype)}, form)
    refusal(lambda: read(path), str(path), "'conv1.weight'", "quantised")


def test_a_different_hash_warns_if_the_file_fits_and_is_named_if_not(tmp_path, caplog):
    path = write(tmp_path, STATE)
    data = path.read_bytes()
    registered = WeightFile("projector", path.name, sha256="0" * 64)
    note = hub.verify(registered, path, tmp_path)
    assert_state(read(path, mismatch=note))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for text in (record.getMessage(), refusal(lambda: read_tensors(path, {"x": (1,)}, "dit", mismatch=note))):
        assert "0" * 64 in text
        assert weights.digest_of(path, tmp_path) in text
    assert path.read_bytes() == data


# --------------------------------------------------------------------------- prompt


@pytest.mark.parametrize("form", ALL_FORMATS)
@pytest.mark.parametrize("name", ["context", "prompt", "posi_prompt", "whatever"])
@pytest.mark.parametrize("shape", [(5, 8), (1, 5, 8)])
def test_prompt(tmp_path, form, name, shape):
    value = torch.arange(40, dtype=torch.float32).reshape(shape)
    prompt = read_prompt(write(tmp_path, {name: value}, form), 8, dtype=torch.float32)
    assert prompt.shape == (1, 5, 8)
    assert torch.equal(prompt.flatten(), value.flatten())


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_prompt_as_a_bare_tensor(tmp_path, form):
    value = torch.arange(40, dtype=torch.bfloat16).reshape(5, 8)
    prompt = read_prompt(write(tmp_path, value, form), 8, dtype=torch.float32)
    assert prompt.dtype == torch.float32
    assert torch.equal(prompt[0], value.float())


def test_prompt_among_others(tmp_path):
    value = torch.ones(5, 8)
    assert torch.equal(read_prompt(write(tmp_path, {"a": torch.zeros(2), "context": value}), 8)[0], value)
    refusal(lambda: read_prompt(write(tmp_path, {"a": value, "b": value + 1}), 8), "2 tensors")


@pytest.mark.parametrize("shape", [(8,), (5, 9), (2, 5, 8), (1, 1, 5, 8), (0, 8)])
def test_prompt_of_another_shape(tmp_path, shape):
    path = write(tmp_path, {"prompt": torch.ones(shape)})
    refusal(lambda: read_prompt(path, 8), str(path), str(tuple(shape)), "(1, L, 8)")


def test_the_prompt_of_nano():
    nano = RELEASES["nano"]
    path = hub.fetch(nano, "tiny", Path("models"))["prompt"]
    assert read_prompt(path, nano.config.dit.text_dim).shape == (1, 4, 64)


# --------------------------------------------------------------------------- modules


def meta(*sizes: int) -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(*sizes)


def test_assign():
    module = meta(3, 2)
    state = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    assign(module, state)
    assert module.weight.data_ptr() == state["weight"].data_ptr()  # no copy
    assert torch.equal(module(torch.ones(1, 3)), torch.full((1, 2), 3.0))


def test_assign_what_does_not_fit():
    refusal(lambda: assign(meta(3, 2), {"weight": torch.ones(2, 3)}), "Linear", "bias")
    refusal(lambda: assign(meta(3, 2), {"weight": torch.ones(3, 3), "bias": torch.ones(2)}), "Linear", "weight")
    refusal(lambda: assign(meta(3, 2), {"weight": torch.ones(2, 3, device="meta"), "bias": torch.ones(2)}), "'weight'")
    hidden = nn.Module()
    hidden.register_buffer("table", torch.ones(2, device="meta"), persistent=False)
    refusal(lambda: assign(hidden, {}), "'table'")


# --------------------------------------------------------------------------- versions


@pytest.fixture
def versions(monkeypatch, tmp_path):
    """The two releases with small files: 1.1's are registered, 1.0's are not, all of one size."""
    known = []
    for file in RELEASES["1.1"].files:
        data = f"1.1 {file.part}".encode()
        known.append(replace(file, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    monkeypatch.setitem(releases.RELEASES, "1.1", replace(RELEASES["1.1"], files=tuple(known)))

    def lay(name: str, odd: dict[str, str] | None = None) -> dict[str, Path]:
        """A folder of release ``name`` in which ``odd`` parts hold another version's bytes."""
        release = releases.RELEASES[name]
        paths = {}
        for file in release.files:
            path = tmp_path / release.folder / file.name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(f"{(odd or {}).get(file.part, name)} {file.part}".encode())
            paths[file.part] = path
        return paths

    return lay


def test_unmixed_versions_pass(versions, tmp_path):
    for name in ("1.0", "1.1"):
        check_versions(releases.RELEASES[name], versions(name), tmp_path)
    nano = RELEASES["nano"]
    check_versions(nano, hub.fetch(nano, "tiny", tmp_path), tmp_path)


@pytest.mark.parametrize("part", ["dit", "projector"])
def test_a_mix_is_refused(versions, tmp_path, part):
    paths = versions("1.0", {part: "1.1"})
    refusal(
        lambda: check_versions(releases.RELEASES["1.0"], paths, tmp_path),
        str(paths[part]),
        "belongs to release 1.1",
        "1.0 was asked for",
        "--model 1.1",
    )


def test_what_the_versions_share_is_no_mix(versions, tmp_path):
    paths = versions("1.0", {"vae": "1.1", "prompt": "1.1", "tcdecoder": "1.1"})
    check_versions(releases.RELEASES["1.0"], paths, tmp_path)


def test_files_outside_a_release_folder_need_a_known_hash(versions, tmp_path):
    known = {part: path.rename(tmp_path / path.name) for part, path in versions("1.1").items()}
    check_versions(releases.RELEASES["1.1"], known, tmp_path)
    refusal(lambda: check_versions(releases.RELEASES["1.0"], known, tmp_path), "belongs to release 1.1")
    known["projector"].write_bytes(b"who knows")
    refusal(
        lambda: check_versions(releases.RELEASES["1.1"], known, tmp_path),
        "LQ_proj_in.ckpt",
        "move it into",
        "FlashVSR-v1.1",
    )


def test_only_files_of_a_registered_size_are_hashed(versions, tmp_path, monkeypatch):
    paths = versions("1.0")
    paths["dit"].write_bytes(b"a size that nobody registered")
    hashed = []
    monkeypatch.setattr(weights, "digest_of", lambda path, folder: hashed.append(path.name) or "x")
    check_versions(releases.RELEASES["1.0"], paths, tmp_path)
    assert hashed == ["LQ_proj_in.ckpt"]


def test_a_projector_that_vanished(versions, tmp_path):
    paths = versions("1.0")
    paths["projector"].unlink()
    refusal(
        lambda: check_versions(releases.RELEASES["1.0"], paths, tmp_path), str(paths["projector"]), "cannot be read"
    )
