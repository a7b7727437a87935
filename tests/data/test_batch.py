import itertools
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melgpu.data.batch import Batch, delay_by_one, prefetch

CPU = torch.device("cpu")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(), max_size=20), st.integers(1, 5))
def test_prefetch_yields_the_same_items_in_order(items, depth):
    assert list(prefetch((x for x in items), depth, CPU)) == items


def test_prefetch_runs_at_most_depth_items_ahead():
    produced = []

    def count():
        for number in itertools.count():
            produced.append(number)
            yield number

    items = prefetch(count(), 3, CPU)
    assert [next(items) for _ in range(4)] == [0, 1, 2, 3]
    time.sleep(0.3)
    assert len(produced) <= 4 + 3 + 1  # consumed, waiting, being made
    items.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_an_error_is_raised_after_the_items_before_it():
    def fail():
        yield 1
        raise KeyError("no more")

    items = prefetch(fail(), 2, CPU)
    assert next(items) == 1
    with pytest.raises(KeyError, match="no more"):
        next(items)


@settings(deadline=None)
@given(st.integers(0, 4))
def test_an_item_is_delayed_until_the_following_one_is_queued(count):
    events = []

    def queue():
        for number in range(count):
            events.append(f"queued {number}")
            yield number

    for number in delay_by_one(queue()):
        events.append(f"yielded {number}")
    last = count - 1
    for number in range(count):
        assert events.index(f"yielded {number}") > events.index(f"queued {min(number + 1, last)}")
        assert f"queued {number + 2}" not in events[: events.index(f"yielded {number}")]


def test_closing_a_delayed_generator_closes_the_one_inside():
    closed = []

    def queue():
        try:
            yield from range(5)
        finally:
            closed.append(True)

    items = delay_by_one(queue())
    assert next(items) == 0
    items.close()
    assert closed


@pytest.mark.gpu
def test_copies_to_a_gpu_are_complete_when_they_are_used():
    def batches():
        for number in range(20):
            waves = torch.full((64, 100_000), float(number)).pin_memory()
            rows = torch.arange(64)
            yield Batch(waves, rows, rows, rows >= 0)

    device = torch.device("cuda")
    sums = [batch.waves.double().sum() for batch in prefetch(batches(), 2, device)]
    assert [float(total) for total in sums] == [64 * 100_000 * number for number in range(20)]
