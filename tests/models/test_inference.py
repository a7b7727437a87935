import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from melgpu.data.batch import Batch
from melgpu.errors import InputError
from melgpu.models.inference import delay_by_one, window_probs
from tests.helpers.training import Corner


class Features(nn.Module):
    calls = 0

    def forward(self, waves):
        self.calls += 1
        return waves.view(len(waves), 1, 4, 5).expand(-1, 3, -1, -1)


def batches():
    for start in (0, 4):
        rows = torch.arange(start, start + 4)
        waves = torch.rand(4, 20, generator=torch.Generator().manual_seed(start))
        yield Batch(waves, rows, rows * 0, rows >= 0)


def test_flips_are_averaged_over_one_pass_of_features():
    models, features = [Corner(), Corner()], Features()
    results = list(window_probs(models, features, batches(), flip=True, bfloat16=False))
    assert features.calls == 2
    assert [model.calls for model in models] == [4, 4]
    for (batch, probs), expected_batch in zip(results, batches(), strict=True):
        pictures = expected_batch.waves.view(4, 4, 5)
        expected = (pictures[:, :3, 0].softmax(1) + pictures[:, :3, 4].softmax(1)) / 2
        assert probs.shape == (2, 4, 3)
        assert torch.allclose(probs[0], expected)
        assert torch.equal(probs[0], probs[1])
        assert torch.equal(batch.tracks, expected_batch.tracks)
        assert torch.allclose(probs.sum(-1), torch.ones(2, 4))


def test_without_flips_there_is_one_view():
    (_, probs), *_ = window_probs([Corner()], Features(), batches(), flip=False, bfloat16=False)
    assert torch.allclose(probs[0], next(batches()).waves.view(4, 4, 5)[:, :3, 0].softmax(1))


def test_a_small_batch_is_computed_as_a_full_one():
    class Sizes(Corner):
        sizes = ()

        def forward(self, pictures):
            self.sizes += (len(pictures),)
            return super().forward(pictures)

    model = Sizes()
    (small, probs), (_, full) = window_probs([model], Features(), small_and_full(), False, False, min_batch=4)
    assert model.sizes == (4, 4)
    assert probs.shape == (1, 3, 3)
    assert torch.equal(probs, full[:, :3])
    assert len(small.waves) == 3
    nan = next(small_and_full())
    nan.waves[2] = torch.nan
    with pytest.raises(InputError, match="row 2 of the manifest"):
        list(window_probs([model], Features(), [nan], False, False, min_batch=4))


def small_and_full():
    """A batch without its last window, and the batch."""
    full = next(batches())
    yield Batch(full.waves[:3], full.tracks[:3], full.starts[:3], full.valid[:3])
    yield full


def test_a_nonfinite_picture_is_reported():
    nonfinite_batch = next(batches())
    nonfinite_batch.waves[2] = torch.nan
    with pytest.raises(InputError, match="row 2 of the manifest, window at sample 0: its picture is NaN"):
        list(window_probs([Corner()], Features(), [nonfinite_batch], flip=True, bfloat16=False))


def test_out_of_memory_splits_a_batch_into_chunks():
    class MaxOneWindow(Corner):
        def forward(self, pictures):
            if len(pictures) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(pictures)

    (_, chunked), (_, expected) = (
        next(window_probs([model], Features(), batches(), flip=True, bfloat16=False))
        for model in (MaxOneWindow(), Corner())
    )
    assert torch.allclose(chunked, expected)

    class MaxTwoWindows(Corner):
        batch_sizes = ()

        def forward(self, pictures):
            self.batch_sizes += (len(pictures),)
            if len(pictures) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(pictures)

    model = MaxTwoWindows()
    list(window_probs([model], Features(), batches(), flip=False, bfloat16=False))
    assert model.batch_sizes == (4, 2, 2, 2, 2)  # later batches start with the chunks that fitted

    class NoMemory(Corner):
        def forward(self, pictures):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        next(window_probs([NoMemory()], Features(), batches(), flip=True, bfloat16=False))


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
