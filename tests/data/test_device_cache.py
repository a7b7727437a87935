import numpy as np
import pytest
import torch

from melgpu.data.device_cache import DeviceCache
from melgpu.data.windows import WindowIndex
from melgpu.errors import InputError


def test_the_device_cache_gathers_the_windows_of_its_waves():
    waves = np.random.default_rng(0).standard_normal((3, 100)).astype(np.float32)
    device_cache = DeviceCache(np.array([4, 2, 9]), 100, torch.device("cpu"))
    device_cache.put(2, waves[1])
    device_cache.put(9, waves[2])
    index = WindowIndex(np.array([9, 2, 4, 9]), np.array([0, 60, 10, 33]))
    windows, valid = device_cache.gather(index, 40)
    assert valid.tolist() == [True, True, False, True]
    for window, (row, start) in zip(windows, [(2, 0), (1, 60), (None, 10), (2, 33)], strict=True):
        np.testing.assert_array_equal(window, 0 if row is None else waves[row][start : start + 40])
    assert device_cache.has(np.array([2, 4]))
    assert not device_cache.has(np.array([2, 3]))


def test_too_little_device_memory_is_an_error():
    with pytest.raises(InputError, match=r"--set loader\.pcm_cache=disk"):
        DeviceCache(np.arange(10**7), 10**7, torch.device("cpu"))
