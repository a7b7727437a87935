import pytest
import torch
from torch import nn

from melgpu.data.batch import Batch
from melgpu.errors import InputError
from melgpu.models.inference import window_probs
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
    found = list(window_probs(models, features, batches(), flip=True, bfloat16=False))
    assert features.calls == 2
    assert [model.calls for model in models] == [4, 4]
    for (batch, probs), given in zip(found, batches(), strict=True):
        images = given.waves.view(4, 4, 5)
        expected = (images[:, :3, 0].softmax(1) + images[:, :3, 4].softmax(1)) / 2
        assert probs.shape == (2, 4, 3)
        assert torch.allclose(probs[0], expected)
        assert torch.equal(probs[0], probs[1])
        assert torch.equal(batch.tracks, given.tracks)
        assert torch.allclose(probs.sum(-1), torch.ones(2, 4))


def test_without_flips_there_is_one_view():
    (_, probs), *_ = window_probs([Corner()], Features(), batches(), flip=False, bfloat16=False)
    assert torch.allclose(probs[0], next(batches()).waves.view(4, 4, 5)[:, :3, 0].softmax(1))


def test_a_network_with_a_front_end_of_its_own_sees_its_own_pictures():
    shared, own = Features(), Features()
    models = [Corner(), Corner()]
    models[1].front_end = lambda waves: own(waves * 3)
    (_, probs), *_ = window_probs(models, shared, batches(), flip=False, bfloat16=False)
    images = next(batches()).waves.view(4, 4, 5)[:, :3, 0]
    assert torch.allclose(probs[0], images.softmax(1))
    assert torch.allclose(probs[1], (3 * images).softmax(1))
    models[1].front_end = own
    calls = shared.calls, own.calls
    list(window_probs(models[1:], own, batches(), flip=False, bfloat16=False))
    assert (shared.calls - calls[0], own.calls - calls[1]) == (0, 2)


def test_a_picture_that_is_no_number_is_named():
    broken = next(batches())
    broken.waves[2] = torch.nan
    with pytest.raises(InputError, match="row 2 of the manifest, window at sample 0: its picture is no number"):
        list(window_probs([Corner()], Features(), [broken], flip=True, bfloat16=False))


def test_where_memory_runs_out_a_batch_is_taken_in_parts():
    class Small(Corner):
        def forward(self, images):
            if len(images) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(images)

    (_, small), (_, large) = (
        next(window_probs([model], Features(), batches(), flip=True, bfloat16=False)) for model in (Small(), Corner())
    )
    assert torch.allclose(small, large)

    class Counting(Corner):
        sizes = ()

        def forward(self, images):
            self.sizes += (len(images),)
            if len(images) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(images)

    counting = Counting()
    list(window_probs([counting], Features(), batches(), flip=False, bfloat16=False))
    assert counting.sizes == (4, 2, 2, 2, 2)  # later batches begin with what worked

    class Full(Corner):
        def forward(self, images):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        next(window_probs([Full()], Features(), batches(), flip=True, bfloat16=False))
