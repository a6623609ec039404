"""The device and number format of a job: decided once, logged, handed down."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys

import torch

from src.errors import DeviceError

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def resolve_device(name: str) -> torch.device:
    """``auto`` is the first CUDA card, else an Intel or Apple GPU, else the CPU. Raises DeviceError."""
    # Segments that grow leave no gaps between tensors of changing size. Read by PyTorch when it first allocates.
    if sys.platform == "linux":
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    cuda, mps, xpu = torch.cuda.is_available(), torch.backends.mps.is_available(), torch.xpu.is_available()
    if name == "auto":
        name = "cuda" if cuda else "xpu" if xpu else "mps" if mps else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        if not cuda:
            raise DeviceError(f"--device {name}: PyTorch {torch.__version__} sees no CUDA card; use --device cpu")
        if (device.index or 0) >= torch.cuda.device_count():
            raise DeviceError(f"--device {name}: there are only {torch.cuda.device_count()} CUDA cards, counted from 0")
    if device.type == "xpu":
        count = torch.xpu.device_count() if xpu else 0
        if (device.index or 0) >= count:
            raise DeviceError(f"--device {name}: PyTorch {torch.__version__} sees {count} Intel GPUs; use --device cpu")
    if device.type == "mps" and not mps:
        raise DeviceError("--device mps: this machine has no Apple GPU that PyTorch can use; use --device cpu")
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        use_card(device)
    log.info("device: %s", device if device.type != "cuda" else f"{device} ({torch.cuda.get_device_name(device)})")
    return device


def use_card(device: torch.device) -> None:
    """Make a CUDA card the present one of this thread: kernels and graphs start there, wherever their tensors lie."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bf16 where the device computes in it, else fp16 on a GPU, fp32 on a CPU. The reason is logged."""
    if name != "auto":
        log.info("dtype: %s (asked for)", name)
        return DTYPES[name]
    if device.type == "cpu":
        fast = _cpu_has_bf16()
        choice, why = ("bf16", "this CPU computes in it") if fast else ("fp32", "this CPU has no bf16 arithmetic")
    elif _gpu_has_bf16(device):
        choice, why = "bf16", "this card computes in it"
    else:
        choice, why = "fp16", "no bf16 arithmetic here; a job goes on in fp32 should its numbers be too large"
    log.info("dtype: %s (%s)", choice, why)
    return DTYPES[choice]


def _gpu_has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "xpu" and torch.xpu.is_bf16_supported()


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


def memory_budget(device: torch.device, vram: float | None) -> int:
    """Bytes that this process may use on ``device``: what is free plus what it holds already, at most ``vram`` GiB.

    On a CPU it is main memory, of which a tenth is left to the system.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        budget = free + torch.cuda.memory_reserved(device)
    elif device.type == "xpu":
        free, _ = torch.xpu.mem_get_info(device)
        budget = free + torch.xpu.memory_reserved(device)
    elif device.type == "mps":
        budget = torch.mps.recommended_max_memory()
    else:
        budget = main_memory() + own_memory()
    return budget if vram is None else min(budget, int(vram * 2**30))


def main_memory() -> int:
    """Bytes of main memory that a job may take: nine tenths of what is available now."""
    import psutil

    return int(psutil.virtual_memory().available * 0.9)


def own_memory() -> int:
    """Bytes of main memory that this process holds now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def limit_memory(device: torch.device, vram: float | None) -> None:
    """Make PyTorch itself refuse more than ``vram`` GiB of a CUDA card, so that a large card behaves like a small one.

    None lifts a limit set before. Other devices have no such limit: there the plan keeps to the budget.
    """
    if device.type != "cuda":
        return
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (vram or 1e9) * 2**30 / total), device.index or 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Only CUDA has a type of its own for it; on a CPU and on Apple's GPU there are just the words."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = ("can't allocate memory", "out of memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def free_memory(device: torch.device) -> None:
    """Give back what nobody holds any more, after a failure."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "xpu":
        torch.xpu.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


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
