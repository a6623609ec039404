"""States of streams that take turns on a device: the others wait in main memory.

Works on any state object, whatever it is made of: it only looks for tensors.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)

S = TypeVar("S")


def swap_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with every tensor in it replaced by ``change`` of it, in place where it is an object, dict or list.

    A tensor or object that is reached twice is changed once. Returns what stands for ``value`` itself.
    """
    # Not a function inside this one: that would refer to itself, and with it the old tensors would wait for the
    # garbage collector, gigabytes of a card's memory among them.
    return _swap(value, change, {}, set())


def _swap(item: Any, change: Callable[[Tensor], Tensor], done: dict[int, tuple[Tensor, Tensor]], seen: set[int]) -> Any:
    if isinstance(item, Tensor):
        if id(item) not in done:
            done[id(item)] = (item, change(item))  # the old one is kept: an id is only its own while it lives
        return done[id(item)][1]
    if isinstance(item, tuple):
        swapped = [_swap(part, change, done, seen) for part in item]
        unchanged = all(a is b for a, b in zip(swapped, item, strict=True))
        return item if unchanged else tuple(swapped)
    if id(item) in seen:
        return item
    if isinstance(item, dict):
        seen.add(id(item))
        for key in item:
            item[key] = _swap(item[key], change, done, seen)
    elif isinstance(item, list):
        seen.add(id(item))
        item[:] = [_swap(part, change, done, seen) for part in item]
    elif hasattr(item, "__dict__") and not isinstance(item, (torch.Generator, type)):
        seen.add(id(item))
        for key, part in vars(item).items():
            changed = _swap(part, change, done, seen)
            if changed is not part:
                object.__setattr__(item, key, changed)  # frozen dataclasses too
    return item


LARGE = 1 << 20  # bytes from which on a tensor gets main memory of exactly its size
AHEAD = 3  # states on the device at once: the one at work, the next one coming, the last one leaving


@cache
def copy_streams(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """A card's streams for copies to it and from it: a bus carries both at once."""
    return torch.cuda.Stream(device), torch.cuda.Stream(device)


class Parking(Generic[S]):
    """States visited one after the other, from the first to the last, again and again; see ``visit``.

    ``park``: between visits a state's tensors lie in main memory (page-locked for CUDA). ``ahead``: while one state is
    visited the next comes and the last one leaves, so that copies both ways and arithmetic overlap; with no more
    than three states all stay on the device, since that takes as much. Without ``ahead`` only one is there at a time.
    Without ``park`` all stay where they are. After the last visit of a round nothing is on the device.
    """

    def __init__(self, states: Sequence[S], device: torch.device, park: bool, ahead: bool = True) -> None:
        self.states = list(states)
        self.device = device
        self.park = park and not (ahead and len(self.states) <= AHEAD)
        self.ahead = ahead
        # Every tensor is allocated on the main stream, so that there is one pool of memory for all, reused in the order
        # of the main stream's work; the others only copy.
        self._streams = copy_streams(device) if self.park and device.type == "cuda" else None
        self._hosts: list[list[Tensor]] = [[] for _ in self.states]  # their places in main memory, kept for good
        self._stored: list[torch.cuda.Event | None] = [None] * len(self.states)
        self._leaving: deque[tuple[torch.cuda.Event, list[Tensor]]] = deque()
        self._here = [True] * len(self.states)  # a state that has not begun holds nothing

    def __len__(self) -> int:
        return len(self.states)

    @contextmanager
    def visit(self, index: int) -> Iterator[S]:
        """The state number ``index`` on the device; it goes back to main memory afterwards.

        After an error inside, the states are lost.
        """
        if not self.park:
            yield self.states[index]
            return
        last = index + 1 == len(self.states)
        try:
            self._let_go(1 if self.ahead else 0)
            self._fetch(index)
            self._arrived()
            if self.ahead and not last:
                self._fetch(index + 1)
            yield self.states[index]
        finally:
            self._arrived()  # on errors too: memory that a copy is still on its way to must not be reused before
        self._store(index)
        if last:
            self._let_go(0)

    def _arrived(self) -> None:
        """The main stream's further work waits for what has been fetched."""
        if self._streams is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._streams[0])

    def _let_go(self, keep: int) -> None:
        """Give the memory of all but the last ``keep`` states that left back to the main stream."""
        while len(self._leaving) > keep:
            stored, tensors = self._leaving.popleft()
            torch.cuda.current_stream(self.device).wait_event(stored)
            tensors.clear()

    def _fetch(self, index: int) -> None:
        if self._here[index]:
            return
        copies: list[tuple[Tensor, Tensor]] = []

        def room(host: Tensor) -> Tensor:
            there = torch.empty_like(host, device=self.device)
            copies.append((there, host))
            return there

        swap_tensors(self.states[index], room)
        self._here[index] = True
        if self._streams is None:
            for there, host in copies:
                there.copy_(host)
            return
        coming, stored = self._streams[0], self._stored[index]
        coming.wait_stream(torch.cuda.current_stream(self.device))  # whose work may still use that memory
        if stored is not None:
            coming.wait_event(stored)
        with torch.cuda.stream(coming):
            for there, host in copies:
                there.copy_(host, non_blocking=True)

    def _store(self, index: int) -> None:
        copies: list[tuple[Tensor, Tensor]] = []
        known = self._hosts[index]

        def room(tensor: Tensor) -> Tensor:
            before = known[len(copies)] if len(copies) < len(known) else None
            if before is None or not _alike(before, tensor):
                before = host_room(tensor)
            copies.append((before, tensor))
            return before

        swap_tensors(self.states[index], room)
        self._hosts[index] = [host for host, _ in copies]
        self._here[index] = False
        if self._streams is None:
            for host, tensor in copies:
                host.copy_(tensor)
            return
        going = self._streams[1]
        going.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(going):
            for host, tensor in copies:
                host.copy_(tensor, non_blocking=True)
        self._stored[index] = stored = going.record_event()
        self._leaving.append((stored, [tensor for _, tensor in copies]))


def at_hand(states: Sequence[S] | Parking[S], index: int) -> AbstractContextManager[S]:
    """One of several states, wherever it waits."""
    return states.visit(index) if isinstance(states, Parking) else nullcontext(states[index])


def host_room(tensor: Tensor) -> Tensor:
    """Main memory for a tensor like ``tensor``: page-locked if that one is on a CUDA card, so that copies run beside
    arithmetic. Where the system refuses to lock it, they take turns; that is logged.
    """
    if not tensor.is_cuda:
        return torch.empty_like(tensor, device="cpu")
    if tensor.nbytes < LARGE:
        return torch.empty_like(tensor, device="cpu", pin_memory=True)
    # PyTorch's own page-locked memory comes in powers of two, which would waste a third of many gigabytes.
    host = torch.empty_like(tensor, device="cpu")
    address, cudart = host.data_ptr(), torch.cuda.cudart()
    error = int(cudart.cudaHostRegister(address, host.nbytes, 0))
    if error:
        log.warning("%.1f MiB of main memory cannot be page-locked (CUDA error %d)", host.nbytes / 2**20, error)
        with suppress(RuntimeError):  # CUDA reports the same error once more, at the next launch
            torch.zeros(1, device=tensor.device)
        return host

    def release(device: torch.device = tensor.device) -> None:
        torch.cuda.synchronize(device)  # copies may be on their way
        cudart.cudaHostUnregister(address)

    weakref.finalize(host, release).atexit = False
    return host


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.stride() == b.stride()
