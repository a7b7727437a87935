"""The exported front end against nnAudio's."""

import pytest
import torch

from melgpu.export.graph import ExportLogMel
from melgpu.features.log_mel import LogMel
from melgpu.recipe import load_recipe
from tests.helpers.signals import RATE, signals


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["mel.channels='resolutions'"],
        ["mel.channels='mfcc'"],
        ["mel.channels='viridis'"],
        ["mel.range='window'"],
        ["mel.n_fft=2400", "mel.n_mels=128"],
        ["mel.hop_length=441"],  # no block of samples divides hop and n_fft
        ["mel.n_fft=2053", "mel.n_mels=64"],  # a prime
    ],
    ids=str,
)
def test_pictures_are_those_of_nnaudio(overrides):
    spec = load_recipe([], overrides).mel
    waves = [torch.from_numpy(signals()[name])[: 4 * RATE] for name in ("music", "noise", "clicks")]
    batch = torch.stack([*waves, waves[0] * 0, waves[0] * 1e-5])
    expected = LogMel(spec.changed(engine="nnaudio"), RATE)(batch)
    with torch.no_grad():
        pictures = ExportLogMel(spec, RATE)(batch)
    # A colour of viridis is one of 256.
    torch.testing.assert_close(pictures, expected, atol=1 / 64 if spec.channels == "viridis" else 2e-4, rtol=0)
