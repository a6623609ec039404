"""Importing Gradio without the half that only editors and its documentation need.

Loading Gradio writes a ``.pyi`` file beside each of its components again, from the parsed source, and fills in a
docstring for each event of each component, at every start of every program. That is most of the time until the page
is there, it fails noisily where the installation is read-only, and nothing at run time reads either.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType


def _no_stub_files(module: ModuleType) -> None:
    if hasattr(module, "create_or_modify_pyi"):
        module.create_or_modify_pyi = lambda *_: None  # type: ignore[attr-defined]


def _no_docstrings(module: ModuleType) -> None:
    listener = getattr(module, "EventListener", None)
    if hasattr(listener, "set_doc"):
        listener.set_doc = lambda *_args, **_named: None  # type: ignore[union-attr]


_CHANGES = {"gradio.component_meta": _no_stub_files, "gradio.events": _no_docstrings}


class _Changing(Loader):
    """Loads a module as ever, then changes it, before anything imports a name of it."""

    def __init__(self, loader: Loader, name: str) -> None:
        self._loader, self._name = loader, name

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _CHANGES[self._name](module)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Changing(spec.loader, fullname)
        return spec


@contextlib.contextmanager
def quick_start() -> Iterator[None]:
    """While it holds, Gradio is imported without those two, and objects are made without the collector looking on.

    A Gradio that has neither any more is imported as it is.
    """
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        gc.freeze()  # modules stay: the collector need not walk over them again
        if collected:
            gc.enable()
