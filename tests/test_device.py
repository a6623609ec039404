"""Device and dtype: decided once, with a reason, or refused with one."""

import pytest
import torch

from src import device as module
from src.device import keep_freed_memory, peak_memory, resolve_device, resolve_dtype
from src.errors import DeviceError

CPU = torch.device("cpu")


def test_auto_without_a_gpu(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    assert "device: cpu" in caplog.text


def test_auto_with_apples_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto").type == "mps"


@pytest.mark.parametrize("name", ["cuda", "cuda:3", "mps"])
def test_what_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=f"--device {name}.*use --device cpu"):
        resolve_device(name)


def test_a_card_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match="only 2"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(("bf16", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_dtype_on_a_cpu(monkeypatch, caplog, bf16, expected):
    caplog.set_level("INFO")
    monkeypatch.setattr(module, "_cpu_has_bf16", lambda: bf16)
    assert resolve_dtype("auto", CPU) == expected
    assert "this CPU" in caplog.text


@pytest.mark.parametrize(
    ("name", "expected"), [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_a_dtype_asked_for_is_taken(name, expected):
    assert resolve_dtype(name, CPU) == expected


def test_memory_is_measured():
    keep_freed_memory()
    assert peak_memory(CPU) is None or peak_memory(CPU) > 50 << 20
