"""What waits in main memory: no bit of a stream changes by it, and no memory is held that was given up."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from src.memory import Placement
from src.ops.attention import Attention
from src.parking import AHEAD, Parking, swap_tensors
from tests.tiny_models import ATTENTION, CONFIG, CPU, clip, run, tiny_pipeline

# More layers and tiles than are ever on the device at once.
DEEP = replace(CONFIG, dit=replace(CONFIG.dit, num_layers=AHEAD + 2))
TILED = Placement(tile=256, overlap=64, decoder_tile=64)


class State:
    """As a stream's: tensors that several places share, in objects, dicts, lists and tuples."""

    def __init__(self) -> None:
        self.own = torch.arange(3.0)
        self.held = {"list": [self.own, torch.ones(2)], "pair": (torch.zeros(1), 5)}


def test_every_tensor_is_swapped_once():
    state = State()
    state.held["self"] = state
    swap_tensors(state, lambda tensor: tensor + 1)
    assert state.held["list"][0] is state.own
    assert state.own.tolist() == [1, 2, 3]
    assert state.held["list"][1].tolist() == [2, 2]
    assert state.held["pair"][0].tolist() == [1]
    assert state.held["pair"][1] == 5


def test_what_was_swapped_out_is_gone_at_once():
    """Without waiting for the garbage collector, which knows nothing of a card's memory."""
    state = State()
    old = weakref.ref(state.own)
    gc.disable()
    try:
        swap_tensors(state, torch.clone)
        assert old() is None
    finally:
        gc.enable()


def test_visits_keep_what_is_written():
    parking = Parking([State() for _ in range(5)], CPU, park=True)
    places = []
    for turn in range(3):
        for index in range(5):
            with parking.visit(index) as state:
                assert state is parking.states[index]
                assert state.own.tolist() == [turn, turn + 1, turn + 2]
                state.own += 1
                assert sum(parking._here) <= AHEAD or turn == 0, "before the first visit there is nothing to hold"
        assert not any(parking._here)
        places.append([host.data_ptr() for hosts in parking._hosts for host in hosts])
    assert places[0] == places[1] == places[2], "every tensor has one place in main memory"


def test_one_at_a_time():
    parking = Parking([State(), State()], CPU, park=True, ahead=False)
    for _ in range(2):
        for index in range(2):
            with parking.visit(index):
                pass
    with parking.visit(0):
        assert parking._here == [True, False]


def test_few_states_stay():
    parking = Parking([State() for _ in range(AHEAD)], CPU, park=True)
    own = parking.states[0].own
    for index in range(AHEAD):
        with parking.visit(index):
            pass
    assert parking.states[0].own is own


@pytest.mark.parametrize("mode", ["tiny", "full"])
@pytest.mark.parametrize("plain", [Placement(), TILED], ids=["whole", "tiled"])
def test_what_waits_in_main_memory_changes_no_bit(mode, plain):
    pipeline, frames = tiny_pipeline(mode, config=DEEP), clip(38, 8, 300)
    expected = run(pipeline.placed(plain), frames, 1)
    for park, weights in ((True, "resident"), (False, "unload"), (True, "blocks")):
        placement = replace(plain, park=park, weights=weights)
        pipeline.residency.set(weights)
        assert torch.equal(run(pipeline.placed(placement), frames, 1), expected), placement.text()


def test_parked_caches_of_the_kernels_change_no_bit():
    """Every layer with a pool of its own, against one pool for all."""
    attention = Attention("sage", sparse_ratio=0.02, local_range=3, kv_len=3, kernels=True)
    pipeline, frames = tiny_pipeline(attention=attention), clip(22, 32, 32)
    together, apart = (run(pipeline.placed(Placement(int8_values=True, park=park)), frames) for park in (False, True))
    assert torch.equal(together, apart)


@pytest.mark.parametrize("mode", ["tiny", "full"])
def test_nothing_waits_for_the_garbage_collector(mode):
    """A stream that ends gives up all of its tensors at once: none is part of a reference cycle."""
    pipeline, frames = tiny_pipeline(mode, config=DEEP, attention=ATTENTION), clip(30, 8, 300)
    for placement in (Placement(), Placement(park=True, weights="blocks"), replace(TILED, park=True)):
        pipeline.residency.set(placement.weights)
        placed = pipeline.placed(placement)
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            run(placed, frames, 1)
            gc.collect()
            waiting = [item for item in gc.garbage if isinstance(item, torch.Tensor)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
        assert not waiting, placement.text()
