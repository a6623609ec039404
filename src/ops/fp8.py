"""Matrix products in 8-bit floating point (e4m3), for cards that have them (compute capability 8.9 and up).

Weights get one scale per output, activations one per token as they come. Half the memory and up to twice the speed of
16-bit products, for an error that is stated in the README; so nothing uses it unless it is asked for.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.ops.resolve import why_no_triton

FORMAT = torch.float8_e4m3fn
TOP = 448.0  # its largest number
MIN_CAPABILITY = (8, 9)
TOLERANCE = 5e-2  # 3 mantissa bits on either side: 3.7e-2 for random numbers


class FP8Linear(nn.Module):
    """A linear layer whose product is taken in 8 bits; made from one that is then no longer needed."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        rows, scale = quantise_rows(linear.weight.data)
        # Parameters, not buffers, so that whoever moves weights moves these too.
        self.weight = nn.Parameter(rows, requires_grad=False)
        self.scale = nn.Parameter(scale.t().contiguous(), requires_grad=False)  # (1, out)
        self.bias = linear.bias
        self.out_features = linear.out_features

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """(L, in) -> (L, out); with ``gelu`` GELU(tanh) is applied to x first, in the pass that quantises it."""
        rows, scale = _quantise(x, gelu)
        factors = {"scale_a": scale, "scale_b": self.scale}
        return torch._scaled_mm(
            rows, self.weight.t(), **factors, bias=self.bias, out_dtype=x.dtype, use_fast_accum=True
        )


def quantise_rows(x: Tensor, gelu: bool = False) -> tuple[Tensor, Tensor]:
    """(L, D) -> e4m3 of the same shape and scales (L, 1) float32, x ~ rows * scale; GELU(tanh) first if asked for."""
    y = F.gelu(x.float(), approximate="tanh") if gelu else x.float()
    scale = y.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / TOP
    return (y / scale).clamp_(-TOP, TOP).to(FORMAT), scale


def _quantise(x: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    if x.device.type == "cuda" and why_no_triton(x.device, x.dtype) is None:
        from src.ops import triton_norms

        return triton_norms.quantise_rows(x, gelu)
    return quantise_rows(x, gelu)


def convert(module: nn.Module) -> None:
    """Replace the linear layers of a module, of whatever depth, in place."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            module._modules[name] = FP8Linear(child)
        else:
            convert(child)


@cache
def why_no_fp8(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why 8-bit products cannot be used here, or None after a trial gave the right numbers."""
    if device.type != "cuda":
        return f"{device.type} has no 8-bit matrix products"
    if dtype != torch.bfloat16:
        return "8-bit matrix products go with bf16 only"
    if torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than compute capability 8.9"
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(256, 128)
    linear.weight.data = torch.randn(128, 256, generator=generator) / 16
    linear = linear.to(device, dtype).requires_grad_(False)
    x = torch.randn(64, 256, generator=generator).to(device, dtype)
    try:
        ours = FP8Linear(linear)(x, gelu=True)
    except RuntimeError as error:
        return f"a trial failed: {str(error).strip().splitlines()[0]}"
    twin = linear(F.gelu(x, approximate="tanh"))
    distance = float((ours - twin).float().norm() / twin.float().norm())
    return None if distance < TOLERANCE else f"a trial was {distance:.1e} away from the 16-bit product"
