import itertools
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melgpu.data.batch import Batch, prefetch

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


def test_the_first_batch_waits_for_no_other():
    second_may_be_made = threading.Event()

    def wait_after_first():
        yield "first"
        assert second_may_be_made.wait(60)
        yield "second"

    items = prefetch(wait_after_first(), 2, CPU)
    assert next(items) == "first"
    second_may_be_made.set()
    assert next(items) == "second"


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


@pytest.mark.gpu
def test_the_first_batch_on_a_gpu_waits_for_no_other():
    second_may_be_made = threading.Event()
    rows = torch.arange(4)

    def wait_after_first():
        yield Batch(torch.ones(4, 100).pin_memory(), rows, rows, rows >= 0)
        assert second_may_be_made.wait(60)

    batches = prefetch(wait_after_first(), 2, torch.device("cuda"))
    assert float(next(batches).waves.sum()) == 400
    second_may_be_made.set()
    assert next(batches, None) is None
