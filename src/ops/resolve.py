"""Which backend a job gets: found out once, by trying, and logged with its reason."""

from __future__ import annotations

import logging
import time
from functools import cache

import torch
from torch import nn

from src.config import Options, SamplingConfig
from src.ops.attention import Attention
from src.ops.convs import ConvOps
from src.ops.fused import TORCH_OPS, triton_ops

log = logging.getLogger(__name__)

MIN_CAPABILITY = (8, 0)  # Triton compiles the int8 product for no older card


def resolve_attention(
    options: Options, sampling: SamplingConfig, device: torch.device, dtype: torch.dtype
) -> Attention:
    """The backend for this job, decided once and logged, with the time that compiling the kernels took.

    Triton keeps what it compiled on disk for the next program on this machine.
    "auto" is "sage" where the INT8 kernel runs, else "block", since 128-token blocks are what the model was
    trained with.
    """
    began = time.perf_counter()
    reason = why_no_triton(device, dtype)
    kind = options.attention
    if kind == "auto":
        kind = "block" if reason else "sage"
    attention = Attention(
        kind=kind,
        sparse_ratio=options.sparse_ratio or sampling.sparse_ratio,
        local_range=options.local_range or sampling.local_range,
        kv_len=options.kv_ratio or sampling.kv_ratio,
        kernels=reason is None and kind != "dense",
        ops=TORCH_OPS if reason else triton_ops(device),
    )
    what = {
        "dense": "dense (every cached token, PyTorch)",
        "sage": "sage (64-token key blocks)" if reason else "sage (64-token key blocks, INT8)",
        "block": "block (128-token key blocks)",
    }[kind]
    if reason:
        # On a GPU this costs half the speed, so it is a warning; a CPU has no choice.
        log.log(
            logging.INFO if device.type == "cpu" else logging.WARNING,
            "attention: %s, in plain PyTorch: %s",
            what,
            reason,
        )
    else:
        log.info("attention: %s, Triton kernels, ready in %.1f s", what, time.perf_counter() - began)
    return attention


@cache
def why_no_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the Triton kernels cannot be used here, or None after every one of them ran and gave its twin's numbers."""
    if device.type != "cuda":
        return f"there are no kernels for {device.type}"
    if dtype == torch.float32:
        return "the kernels are for 16-bit models"
    if torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0"
    try:
        from src.ops.triton_check import check_kernels

        return check_kernels(device, dtype)
    except ImportError as error:
        return f"Triton is not installed ({error})"
    except Exception as error:  # noqa: BLE001 (compilers fail in many ways; each is a reason, and it is logged)
        return f"a kernel failed: {type(error).__name__}: {_first_line(error)}"


def conv_ops(device: torch.device, dtype: torch.dtype) -> ConvOps:
    """The best there is for a device and dtype."""
    nvidia = device.type == "cuda" and torch.version.hip is None
    return ConvOps(cudnn_fuses(device, dtype), nvidia and why_no_triton(device, dtype) is None)


@cache
def cudnn_fuses(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether cuDNN computes convolution + sum + ReLU in one kernel here; found out by a trial, once, and logged."""
    if device.type != "cuda" or torch.version.hip is not None or dtype == torch.float32:
        return False
    conv = nn.Conv2d(64, 64, 3, padding=1).to(device, dtype)
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
    x = torch.randn(1, 64, 16, 16, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = ConvOps().conv_relu(x, conv, x)
        try:
            ours = ConvOps(cudnn=True).conv_relu(x, conv, x)
        except RuntimeError as error:
            log.warning("convolutions are not fused with what follows them: %s", str(error).strip().splitlines()[0])
            return False
    distance = float((ours - expected).float().norm() / expected.float().norm())
    if not distance < 1e-2:
        log.warning("convolutions are not fused with what follows them: cuDNN's are %.1e away", distance)
        return False
    return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
