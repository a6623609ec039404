"""Read weight files into tensors, whatever model or tool they belong to.

Formats: safetensors, and PyTorch checkpoints with ``weights_only=True`` (a pickle may hold code; it is never
run). Tensors are read one at a time, straight to the wanted dtype and device.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.errors import WeightsError

log = logging.getLogger(__name__)

Shape = Sequence[int]

PREFIXES = {"projector": "LQ_proj_in.", "vae": "model.", "rife": "module."}
NESTS = ("state_dict", "model_state", "model")
FLOATS = ("float64", "float32", "float16", "bfloat16", "F64", "F32", "F16", "BF16")
REPLACE = "replace it with the release's own file (models/README.md says from where)"


@dataclass(frozen=True)
class TensorSource:
    """An open file: names, shapes and dtypes are known, a tensor is read when asked for."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    read: Callable[[str], Tensor]


# --------------------------------------------------------------------------- reading


def read_tensors(
    path: Path,
    wanted: Mapping[str, Shape],
    part: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    mismatch: str | None = None,
) -> dict[str, Tensor]:
    """The tensors ``wanted`` (name -> shape) of the file at ``path``, on ``device`` as ``dtype``.

    ``part`` names the prefixes that the file's keys may carry. ``mismatch``: what ``hub.verify`` found: a warning if
    the file fits all the same, part of the error if not. Keys beyond the wanted ones are logged and ignored.
    A tensor that stays on the CPU in its stored dtype is the mapped file itself and takes no memory of its own, so
    the file must not be overwritten in place while it is in use (replacing it is fine).
    Raises WeightsError: unreadable, truncated, foreign or quantised file, missing key, wrong shape.
    """
    path = Path(path)
    with open_tensors(path) as source:
        names = _match(source, wanted, part)
        _check_fit(path, source, names, wanted, part, mismatch)
        extra = sorted(set(source.shapes) - set(names.values()))
        if extra:
            log.info("%s: %d tensors beyond the %s ignored (%s)", path, len(extra), part, _some(extra))
        tensors = {name: place(path, source, key, device, dtype) for name, key in names.items()}
    if mismatch:
        log.warning("%s: keys and shapes fit, but %s", path, mismatch)
    return tensors


def _match(source: TensorSource, wanted: Mapping[str, Shape], part: str) -> dict[str, str]:
    """Wanted name -> key in the file, for those that are there."""
    prefix = PREFIXES.get(part, "")
    return {
        name: next(key for key in (name, prefix + name) if key in source.shapes)
        for name in wanted
        if name in source.shapes or prefix + name in source.shapes
    }


def _check_fit(
    path: Path,
    source: TensorSource,
    names: Mapping[str, str],
    wanted: Mapping[str, Shape],
    part: str,
    mismatch: str | None,
) -> None:
    note = f" ({mismatch})" if mismatch else ""
    missing = [name for name in wanted if name not in names]
    if missing:
        raise WeightsError(
            f"{path}: {len(missing)} of {len(wanted)} tensors of the {part} are missing, first {missing[0]!r} of shape"
            f" {tuple(wanted[missing[0]])}; the file has {_some(list(source.shapes)) or 'none'}{note}: {REPLACE}"
        )
    for name, key in names.items():
        if source.shapes[key] != tuple(wanted[name]):
            raise WeightsError(
                f"{path}: {key!r} of the {part} has the shape {source.shapes[key]}, expected {tuple(wanted[name])}"
                f"{note}: {REPLACE}"
            )
        check_dtype(path, source, key)


def check_dtype(path: Path, source: TensorSource, key: str) -> None:
    # Quantised repacks keep names and shapes but need scales stored elsewhere: read plainly they give noise.
    if source.dtypes[key] not in FLOATS:
        raise WeightsError(
            f"{path}: {key!r} is stored as {source.dtypes[key]}, which looks like a quantised repack: {REPLACE}"
        )


def place(path: Path, source: TensorSource, key: str, device: torch.device | str, dtype: torch.dtype | None) -> Tensor:
    try:
        tensor = source.read(key)
    except Exception as error:
        raise WeightsError(f"{path}: {key!r} cannot be read ({_line(error)}): {REPLACE}") from error
    # Two steps: the stored bytes travel, and the conversion happens on the device.
    return tensor.to(device=device).to(dtype=dtype or tensor.dtype)


# --------------------------------------------------------------------------- formats


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorSource]:
    """Open a file by what it holds. Raises WeightsError."""
    head = _head(path)
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        yield from _open_safetensors(path)
    else:
        yield _open_pickle(path, head)


def _head(path: Path) -> bytes:
    """The first bytes; the usual accidents of files placed by hand get a name. Raises WeightsError."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not head:
        raise WeightsError(f"{path}: the file is empty: delete it and run again, or {REPLACE}")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: this is a Git LFS pointer, not the weights: run git lfs pull, or {REPLACE}")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise WeightsError(f"{path}: this is a web page, not weights: {REPLACE}")
    return head


def _open_safetensors(path: Path) -> Iterator[TensorSource]:
    from safetensors import safe_open

    try:
        file = safe_open(path, framework="pt")
    except Exception as error:
        raise WeightsError(
            f"{path}: truncated, or no safetensors file ({_line(error)}): delete it and run again, or {REPLACE}"
        ) from error
    with file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (the file object is no mapping)
        shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
        dtypes = {key: part.get_dtype() for key, part in slices.items()}
        yield TensorSource(shapes, dtypes, file.get_tensor)


def _open_pickle(path: Path, head: bytes) -> TensorSource:
    zipped = head.startswith(b"PK\x03\x04")
    try:
        # Only the zipped format can be mapped; then nothing is read before it is asked for.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:
        raise WeightsError(f"{path}: {_why_unreadable(head, error)}: {REPLACE}") from error
    tensors = {key: value.detach() for key, value in _unwrap(content).items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: a PyTorch file without a single tensor: {REPLACE}")
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    dtypes = {key: str(value.dtype).removeprefix("torch.") for key, value in tensors.items()}
    return TensorSource(shapes, dtypes, tensors.__getitem__)


def _unwrap(content: Any) -> dict[str, Any]:
    """The innermost dict of tensors; a bare tensor counts as one without a name."""
    if isinstance(content, Tensor):
        return {"": content}
    while isinstance(content, Mapping):
        inner = next((content[nest] for nest in NESTS if isinstance(content.get(nest), Mapping)), None)
        if inner is None:
            return {str(key): value for key, value in content.items()}
        content = inner
    return {}


def _why_unreadable(head: bytes, error: Exception) -> str:
    blocked = re.search(r"GLOBAL:? (\S+)", str(error))
    if blocked:
        return f"it holds more than tensors ({blocked[1]}); nothing in it was executed"
    if head.startswith(b"PK"):
        return "truncated, or no PyTorch checkpoint (" + _line(error) + ")"
    if head.startswith(b"\x80"):
        return "a truncated pickle, or one that holds more than tensors; nothing in it was executed"
    return "no weights file of a known format"


def assign(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a module built on the meta device its tensors, without a copy. Raises WeightsError if one is left out."""
    try:
        module.load_state_dict(dict(tensors), strict=True, assign=True)
    except RuntimeError as error:
        raise WeightsError(
            f"{type(module).__name__}: the tensors do not fit: {' '.join(str(error).split())}"
        ) from error
    named = [*module.named_parameters(), *module.named_buffers()]
    empty = [name for name, tensor in named if tensor.is_meta]
    if empty:
        raise WeightsError(f"{type(module).__name__}: no weights for {_some(empty)}")


def _some(names: Sequence[str], count: int = 4) -> str:
    return ", ".join(map(repr, names[:count])) + (", ..." if len(names) > count else "")


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
