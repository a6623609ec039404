"""Threads beside the computation: order, bounds, errors, no hanging."""

import threading
import time

import pytest

from src.overlap import Ahead, Behind


def test_ahead_keeps_order_and_bound():
    made = []

    def items():
        for i in range(50):
            made.append(i)
            yield i

    with Ahead(items(), depth=3) as ahead:
        iterator = iter(ahead)
        assert next(iterator) == 0
        time.sleep(0.2)
        assert len(made) <= 6, "one handed out, three waiting, one in hand, one to spare"
        assert list(iterator) == list(range(1, 50))


def test_ahead_raises_where_the_item_would_have_come():
    def items():
        yield 1
        raise OSError("gone")

    with Ahead(items(), depth=2) as ahead:
        iterator = iter(ahead)
        assert next(iterator) == 1
        with pytest.raises(OSError, match="gone"):
            next(iterator)


def test_leaving_early_stops_the_thread():
    before = threading.active_count()

    def endless():
        while True:
            yield 0

    with Ahead(endless(), depth=1) as ahead:
        next(iter(ahead))
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() == before


def test_behind_consumes_everything_in_order():
    done = []
    with Behind(done.append, depth=2) as behind:
        for i in range(20):
            behind.put(i)
    assert done == list(range(20))


def test_behind_raises_what_the_consumer_raised():
    def consume(item):
        if item == 3:
            raise OSError("disk full")

    def feed():
        with Behind(consume, depth=1) as behind:
            for i in range(100):
                behind.put(i)

    with pytest.raises(OSError, match="disk full"):
        feed()


def test_behind_raises_at_the_end_too():
    def consume(item):
        time.sleep(0.05)
        raise OSError("late")

    behind = Behind(consume, depth=4)

    def feed():
        with behind:
            behind.put(1)

    with pytest.raises(OSError, match="late"):
        feed()


def test_behind_drops_the_rest_after_an_error():
    done = []
    release = threading.Event()

    def consume(item):
        release.wait(5)
        done.append(item)

    def feed():
        with Behind(consume, depth=4) as behind:
            for i in range(4):
                behind.put(i)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        feed()
    release.set()
    time.sleep(0.3)
    assert len(done) <= 1
