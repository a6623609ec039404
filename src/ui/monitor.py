"""How busy the machine is: CPU, main memory, GPU."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

log = logging.getLogger(__name__)

_FRESH_SECONDS = 0.9


class Monitor:
    """``read`` is cheap however many pages ask: figures younger than a second are given again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = 0.0
        self._last: dict[str, Any] = {}
        self._nvml: Any = None
        self._opened = False

    def read(self) -> dict[str, Any]:
        """cpu (percent), ram_used and ram_total (bytes), gpus: name, load (percent), used and total (bytes)."""
        import psutil

        with self._lock:
            if time.monotonic() - self._at > _FRESH_SECONDS:
                memory = psutil.virtual_memory()
                self._last = {
                    "cpu": psutil.cpu_percent(),
                    "ram_used": memory.total - memory.available,
                    "ram_total": memory.total,
                    "gpus": self._gpus(),
                }
                self._at = time.monotonic()
            return self._last

    def _gpus(self) -> list[dict[str, Any]]:
        if not self._opened:
            self._opened = True
            self._nvml = _open_nvml()
        if self._nvml is None:
            return []
        nvml, found = self._nvml, []
        try:
            for index in range(nvml.nvmlDeviceGetCount()):
                card = nvml.nvmlDeviceGetHandleByIndex(index)
                memory = nvml.nvmlDeviceGetMemoryInfo(card)
                load = nvml.nvmlDeviceGetUtilizationRates(card).gpu
                name = nvml.nvmlDeviceGetName(card)
                name = name.decode() if isinstance(name, bytes) else name
                found.append({"name": name, "load": load, "used": memory.used, "total": memory.total})
        except nvml.NVMLError as error:
            log.warning("the GPU's load is not shown any more: %s", error)
            self._nvml = None
        return found


def _open_nvml() -> Any:
    """NVIDIA's library, ready to use; None where the package or a driver is missing."""
    try:
        import pynvml
    except ImportError:
        log.info("the load of NVIDIA cards is not shown: the package nvidia-ml-py is not installed")
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.info("no NVIDIA card is shown: %s", error)
        return None
    return pynvml
