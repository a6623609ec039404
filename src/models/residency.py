"""Where the DiT's weights are: on the device, on it only while the DiT runs, or streamed to it block by block.

Weights never change, so nothing is ever copied back: main memory keeps the one copy that counts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from src.parking import host_room

log = logging.getLogger(__name__)

PLACES = ("resident", "unload", "blocks")


class Residency:
    """Moves the weights of a DiT. One per loaded DiT; ``set`` may be called between two chunks.

    resident: all on the device, always. unload: all on the device inside ``at_hand`` only. blocks: two blocks at a time
    on the device, the next one copied (from page-locked memory, by a stream of its own) while one computes.
    """

    def __init__(self, dit: nn.Module, device: torch.device) -> None:
        self.dit, self.device = dit, device
        self.place = "resident"
        self._host: dict[nn.Parameter, Tensor] = {}
        self._hooks: list[RemovableHandle] = []

    def set(self, place: str) -> None:
        """Bring the weights to another place. ValueError for an unknown one."""
        if place not in PLACES:
            raise ValueError(f"{place!r} is not one of {', '.join(PLACES)}")
        if place == self.place:
            return
        self.place = ""  # should memory run out on the way, the next call starts over
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for parameter, host in self._host.items():
            parameter.data = host.to(self.device)
        self._host = {}
        if place == "unload":
            self._take_off(self.dit)
        elif place == "blocks":
            blocks: Any = self.dit.blocks
            for block in blocks:
                self._take_off(block)
            self._hooks = _Streamer(list(blocks), self._host, self.device).hooks
        self.place = place
        log.debug("weights of the DiT: %s", place)

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        """The DiT can run inside."""
        if self.place != "unload":
            yield
            return
        try:
            for parameter, host in self._host.items():
                parameter.data = host.to(self.device, non_blocking=self.device.type == "cuda")
            yield
        finally:
            for parameter, host in self._host.items():
                parameter.data = host

    def _take_off(self, module: nn.Module) -> None:
        """Leave the only copy of a module's weights in main memory, page-locked for CUDA."""
        for parameter in module.parameters():
            host = host_room(parameter.data)
            host.copy_(parameter.data)
            self._host[parameter] = parameter.data = host


class _Streamer:
    """Hooks of the blocks that fetch a block's weights just before it runs, and the next block's meanwhile.

    Room is taken on the main stream and reused in the order of its work, so the device never holds more than two blocks
    and the host waits for nothing; the side stream only copies.
    """

    def __init__(self, blocks: list[nn.Module], host: dict[nn.Parameter, Tensor], device: torch.device) -> None:
        self.blocks, self.host, self.device = blocks, host, device
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.fetched: dict[int, list[Tensor]] = {}
        self.hooks: list[RemovableHandle] = []
        for index, block in enumerate(blocks):
            self.hooks.append(block.register_forward_pre_hook(lambda *_, i=index: self._enter(i)))
            self.hooks.append(block.register_forward_hook(lambda *_, i=index: self._leave(i), always_call=True))

    def _enter(self, index: int) -> None:
        self._fetch(index)
        self._arrived()
        for parameter, there in zip(self.blocks[index].parameters(), self.fetched[index], strict=True):
            parameter.data = there
        if len(self.blocks) > 1:
            self._fetch((index + 1) % len(self.blocks))

    def _leave(self, index: int) -> None:
        self._arrived()  # also when the block failed: the copies have ended before their memory is anyone else's
        for parameter in self.blocks[index].parameters():
            parameter.data = self.host[parameter]
        self.fetched.pop(index, None)

    def _arrived(self) -> None:
        """The main stream's further work waits for what has been fetched."""
        if self.side is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.side)

    def _fetch(self, index: int) -> None:
        if index in self.fetched:
            return
        hosts = [self.host[parameter] for parameter in self.blocks[index].parameters()]
        there = [torch.empty_like(host, device=self.device) for host in hosts]
        if self.side is None:
            for room, host in zip(there, hosts, strict=True):
                room.copy_(host)
        else:
            self.side.wait_stream(torch.cuda.current_stream(self.device))  # whose work may still use that memory
            with torch.cuda.stream(self.side):
                for room, host in zip(there, hosts, strict=True):
                    room.copy_(host, non_blocking=True)
        self.fetched[index] = there
