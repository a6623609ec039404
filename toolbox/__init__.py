"""The toolbox: what people do with a clip after upscaling it. Importing the package costs nothing.

``TOOLS`` lists every tool with its parameters; ``run_chain`` runs one or several of them on a file.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "BatchItem": "toolbox.chain",
    "Outcome": "toolbox.chain",
    "Parameter": "toolbox.parameters",
    "Progress": "toolbox.clip",
    "Step": "toolbox.chain",
    "TOOLS": "toolbox.registry",
    "Tool": "toolbox.parameters",
    "make_steps": "toolbox.chain",
    "run_batch": "toolbox.chain",
    "run_chain": "toolbox.chain",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
