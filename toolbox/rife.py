"""RIFE on frames: its weights, and the frames between two others."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.errors import DeviceError, InputError
from src.hub import WeightFile, fetch_file
from src.tensor_files import assign, read_tensors
from toolbox.rife_net import MULTIPLE, IFNet, pad_to_multiple

log = logging.getLogger(__name__)

FOLDER = "RIFE"  # under the models folder
WEIGHTS = WeightFile("rife", "flownet.pkl", repo="AlexWortega/RIFE", by_hand="https://github.com/hzwer/ECCV2022-RIFE")
DEPTH = 3  # halvings of the time between two frames: the nearest eighth is computed


def weights_here(models_dir: Path) -> bool:
    """True when no download is needed."""
    return (models_dir / FOLDER / WEIGHTS.name).is_file()


def pick_device(name: str) -> torch.device:
    """``auto``, cpu, cuda, cuda:N or mps. DeviceError for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = (str(error).strip().splitlines() or ["unknown"])[0]
        raise DeviceError(f"--device {name}: cannot be used here ({first}); use --device cpu") from error
    return device


def load(models_dir: Path, device: torch.device, dtype: torch.dtype | None = None) -> IFNet:
    """The network with its weights, downloaded if they are not in ``models_dir``/RIFE.

    ``dtype`` None: float16 on a GPU, float32 on a CPU. Raises WeightsError and DownloadError.
    """
    path = fetch_file(WEIGHTS, models_dir / FOLDER)
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.float16)
    with torch.device("meta"):
        net = IFNet()
    wanted = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    tensors = read_tensors(path, wanted, "rife", device, dtype)
    assign(net, {name: _channels_last(tensor) for name, tensor in tensors.items()})
    log.debug("RIFE from %s on %s in %s", path, device, dtype)
    return net.eval().requires_grad_(False)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


class Rife:
    """Frames between two frames. ``scale``: of the flow, 1, 0.5 or 0.25 (for 4K and large motion)."""

    def __init__(self, net: IFNet, device: torch.device, scale: float = 1.0) -> None:
        if scale not in (0.25, 0.5, 1.0, 2.0):
            raise InputError(f"--flow-scale {scale:g} is not one of 0.25, 0.5, 1, 2")
        self.net, self.device, self.scale = net, device, scale
        self.multiple = max(MULTIPLE, round(MULTIPLE / scale))
        self._last: tuple[np.ndarray, Tensor] | None = None

    def between(self, first: np.ndarray, second: np.ndarray, times: Iterable[Fraction]) -> Iterator[np.ndarray]:
        """The frames at ``times`` (0 < t < 1, ascending), like ``first`` in shape and type.

        The network knows only the middle of two frames: other times are reached by halving, and rounded to
        eighths. A time that rounds to 0 or 1 gives the frame itself. Raises DeviceError when memory is short.
        """
        steps = 2**DEPTH
        known: dict[int, Tensor] = {}
        for time in times:
            place = int(time * steps + Fraction(1, 2))
            if place in (0, steps):
                yield second if place else first
                continue
            if not known:
                known = {0: self._tensor(first), steps: self._tensor(second)}
            yield self._frame(self._at(place, known), first)

    def _at(self, place: int, known: dict[int, Tensor]) -> Tensor:
        """The padded picture at ``place`` eighths; what it needed on the way is kept in ``known``."""
        low, high = 0, 2**DEPTH
        while place not in known:
            middle = (low + high) // 2
            if middle not in known:
                known[middle] = self._middle(known[low], known[high])
            low, high = (middle, high) if place > middle else (low, middle)
        return known[place]

    def _middle(self, one: Tensor, two: Tensor) -> Tensor:
        try:
            with torch.inference_mode():
                return self.net(one, two, self.scale).clamp_(0, 1)
        except torch.OutOfMemoryError as error:
            size = f"{one.shape[3]}x{one.shape[2]}"
            raise DeviceError(f"RIFE has not enough memory for {size}; use --flow-scale 0.5 or --device cpu") from error

    def _tensor(self, frame: np.ndarray) -> Tensor:
        """(1, 3, H, W) float32 in [0, 1], padded. The second frame of a pair is the first of the next."""
        if self._last is not None and self._last[0] is frame:
            return self._last[1]
        white = 65535 if frame.dtype == np.uint16 else 255
        samples = torch.from_numpy(frame.astype(np.float32) if white > 255 else np.ascontiguousarray(frame))
        tensor = (samples.to(self.device).float() / white).permute(2, 0, 1)[None]
        (padded,) = pad_to_multiple([tensor], self.multiple)
        self._last = (frame, padded)
        return padded

    def _frame(self, tensor: Tensor, like: np.ndarray) -> np.ndarray:
        height, width = like.shape[:2]
        white = 65535 if like.dtype == np.uint16 else 255
        samples = (tensor[0, :, :height, :width] * white).round_().permute(1, 2, 0)
        if white == 255:
            return np.ascontiguousarray(samples.to(torch.uint8).cpu().numpy())
        return np.ascontiguousarray(samples.cpu().numpy().astype(np.uint16))
