"""The device and number format of a job: decided once, logged, handed down."""

from __future__ import annotations

import ctypes
import logging
import sys

import torch

from src.errors import DeviceError

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def resolve_device(name: str) -> torch.device:
    """``auto`` is the first CUDA card, else Apple's GPU, else the CPU. DeviceError if one asked for is not there."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        if not cuda:
            raise DeviceError(f"--device {name}: PyTorch {torch.__version__} sees no CUDA card; use --device cpu")
        if (device.index or 0) >= torch.cuda.device_count():
            raise DeviceError(f"--device {name}: there are only {torch.cuda.device_count()} CUDA cards, counted from 0")
    if device.type == "mps" and not mps:
        raise DeviceError("--device mps: this machine has no Apple GPU that PyTorch can use; use --device cpu")
    log.info("device: %s", device if device.type != "cuda" else f"{device} ({torch.cuda.get_device_name(device)})")
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bf16 where the device computes in it, else fp16 on a GPU, fp32 on a CPU. The reason is logged."""
    if name != "auto":
        log.info("dtype: %s (asked for)", name)
        return DTYPES[name]
    if device.type == "cpu":
        fast = _cpu_has_bf16()
        choice, why = ("bf16", "this CPU computes in it") if fast else ("fp32", "this CPU has no bf16 arithmetic")
    elif device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        choice, why = "bf16", "this card computes in it"
    else:
        choice, why = "fp16", "no bf16 arithmetic here"
    log.info("dtype: %s (%s)", choice, why)
    return DTYPES[choice]


def _cpu_has_bf16() -> bool:
    """AVX512-BF16 or AMX. PyTorch knows, under names that have no public form yet."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks for reuse instead of giving each back to the kernel.

    Activations of tens of MB come and go with every layer; mapping and zeroing them anew costs a quarter
    of the time on a CPU. Only glibc needs it; elsewhere nothing is done.
    """
    if sys.platform != "linux":
        return
    mmap_threshold, trim_threshold, mmap_max = -3, -1, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError) as error:
        log.debug("memory is given back to the system after every layer: no mallopt here (%s)", error)
        return
    done = [mallopt(mmap_max, 0), mallopt(trim_threshold, 2**31 - 1), mallopt(mmap_threshold, 32 << 20)]
    log.debug("mallopt: %s", done)


def peak_memory(device: torch.device) -> int | None:
    """Bytes: the GPU's peak of this process, or the process's largest resident size. None where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
