"""States of streams that take turns on a device: the others wait in main memory.

Works on any state object, whatever it is made of: it only looks for tensors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

S = TypeVar("S")


def swap_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with every tensor in it replaced by ``change`` of it, in place where it is an object, dict or list.

    A tensor or object that is reached twice is changed once. Returns what stands for ``value`` itself.
    """
    tensors: dict[int, tuple[Tensor, Tensor]] = {}  # the old one is kept: an id is only its own while it lives
    visited: set[int] = set()

    def walk(item: Any) -> Any:
        if isinstance(item, Tensor):
            if id(item) not in tensors:
                tensors[id(item)] = (item, change(item))
            return tensors[id(item)][1]
        if isinstance(item, tuple):
            walked = [walk(part) for part in item]
            unchanged = all(a is b for a, b in zip(walked, item, strict=True))
            return item if unchanged else tuple(walked)
        if id(item) in visited:
            return item
        if isinstance(item, dict):
            visited.add(id(item))
            for key in item:
                item[key] = walk(item[key])
        elif isinstance(item, list):
            visited.add(id(item))
            item[:] = [walk(part) for part in item]
        elif hasattr(item, "__dict__") and not isinstance(item, (torch.Generator, type)):
            visited.add(id(item))
            for key, part in vars(item).items():
                changed = walk(part)
                if changed is not part:
                    object.__setattr__(item, key, changed)  # frozen dataclasses too
        return item

    return walk(value)


class Parking(Generic[S]):
    """States visited one after the other, round and round; see ``visit``.

    ``park``: between visits a state's tensors lie in main memory (page-locked for CUDA), and while one is visited the
    next is already on its way, so that copies and arithmetic overlap. Otherwise all stay where they are.
    """

    def __init__(self, states: Sequence[S], device: torch.device, park: bool) -> None:
        self.states = list(states)
        self.device = device
        self.park = park
        self._cuda = device.type == "cuda"
        self._side = torch.cuda.Stream(device) if park and self._cuda else None
        self._ready: list[torch.cuda.Event | None] = [None] * len(self.states)
        self._stored: deque[torch.cuda.Event] = deque()  # states on their way to main memory
        self._here = [True] * len(self.states)  # a state that has not begun holds nothing

    @contextmanager
    def visit(self, index: int) -> Iterator[S]:
        """The state number ``index`` on the device; it goes back to main memory afterwards."""
        state = self.states[index]
        if not self.park:
            yield state
            return
        self._fetch(index)
        ready = self._ready[index]
        if ready is not None:
            torch.cuda.current_stream(self.device).wait_event(ready)
        if len(self.states) > 1:
            self._fetch((index + 1) % len(self.states))
        yield state
        self._store(index)

    def _fetch(self, index: int) -> None:
        if self._here[index]:
            return
        main = torch.cuda.current_stream(self.device) if self._cuda else None
        if len(self._stored) > 1:
            self._stored.popleft().synchronize()  # the host must not run ahead and fetch more than there is room for
        with self._copies():
            swap_tensors(self.states[index], lambda tensor: self._to_device(tensor, main))
        if self._side is not None:
            self._ready[index] = self._side.record_event()
        self._here[index] = True

    def _store(self, index: int) -> None:
        if self._side is not None:
            self._side.wait_stream(torch.cuda.current_stream(self.device))
        with self._copies():
            swap_tensors(self.states[index], self._to_host)
        if self._side is not None:
            self._stored.append(self._side.record_event())
        self._here[index] = False

    def _copies(self) -> Any:
        return nullcontext() if self._side is None else torch.cuda.stream(self._side)

    def _to_device(self, tensor: Tensor, main: torch.cuda.Stream | None) -> Tensor:
        there = tensor.to(self.device, non_blocking=self._cuda)
        if main is not None:
            there.record_stream(main)  # made on the side stream, used on the main one
        return there

    def _to_host(self, tensor: Tensor) -> Tensor:
        host = torch.empty_like(tensor, device="cpu", pin_memory=self._cuda)
        host.copy_(tensor, non_blocking=self._cuda)
        if self._side is not None and tensor.is_cuda:
            tensor.record_stream(self._side)
        return host
