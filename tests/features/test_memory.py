import pytest
import torch

from melgpu.features import log_mel
from melgpu.features.memory import in_parts_that_fit
from melgpu.recipe import load_recipe


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_a_batch_is_halved_until_it_fits(error):
    sizes = []

    def limited(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise error
        return 2 * batch

    batch = torch.arange(7)
    assert torch.equal(in_parts_that_fit(limited, batch), 2 * batch)
    assert sizes == [7, 4, 2, 2, 3, 2, 1]


def test_a_row_that_does_not_fit_and_other_errors_are_raised():
    def fail(batch):
        raise RuntimeError(text)

    for text in ("out of memory", "an illegal memory access was encountered"):
        with pytest.raises(RuntimeError, match=text):
            in_parts_that_fit(fail, torch.zeros(1))
    with pytest.raises(RuntimeError, match="illegal"):
        in_parts_that_fit(fail, torch.zeros(4))


def test_pictures_that_do_not_fit_together_are_those_of_single_windows(monkeypatch):
    recipe = load_recipe(["demo"])
    front_end = log_mel.LogMel(recipe.mel, recipe.audio.sample_rate, chunk_size=4)
    waves = torch.rand(4, 20_000, generator=torch.Generator().manual_seed(0))
    expected = front_end(waves)
    pictures = log_mel.LogMel._pictures

    def limited(self, waves):
        if len(waves) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pictures(self, waves)

    monkeypatch.setattr(log_mel.LogMel, "_pictures", limited)
    assert torch.equal(front_end(waves), expected)
