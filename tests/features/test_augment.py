import math

import pytest
import scipy.signal
import torch

from melgpu.features.augment import (
    augment,
    augmented_pictures,
    change_speed,
    flip_time,
    mix_pictures,
)
from melgpu.recipe import load_recipe


def spec(**changes):
    return load_recipe([]).augment.model_copy(update=changes)


def random_flips(probability: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures before and after augmentation."""
    pictures = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    torch.manual_seed(seed)
    return pictures, augment(pictures, spec(flip_probability=probability))


def test_each_picture_is_unchanged_or_flipped_in_time():
    pictures, augmented = random_flips(0.5, seed=1)
    flipped = [torch.equal(after, before.flip(-1)) for after, before in zip(augmented, pictures, strict=True)]
    unchanged = [torch.equal(after, before) for after, before in zip(augmented, pictures, strict=True)]
    assert all(a != b for a, b in zip(flipped, unchanged, strict=True))
    assert 16 < sum(flipped) < 48


def test_depends_on_the_seed_alone():
    assert torch.equal(random_flips(0.5, 3)[1], random_flips(0.5, 3)[1])
    assert not torch.equal(random_flips(0.5, 3)[1], random_flips(0.5, 4)[1])


def test_flip_probability_0_and_1_are_deterministic():
    pictures, augmented = random_flips(0.0, 1)
    assert torch.equal(augmented, pictures)
    assert torch.equal(random_flips(1.0, 1)[1], pictures.flip(-1))


def test_replicated_channels_stay_views_of_one():
    single = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    replicated = single.expand(-1, 3, -1, -1)
    for transform in (flip_time, seeded_augment):
        transformed = transform(replicated)
        assert torch.equal(transformed, transform(replicated.contiguous()))
        assert transformed.untyped_storage().nbytes() == single.untyped_storage().nbytes()
    assert torch.equal(flip_time(replicated), replicated.flip(-1))


def seeded_augment(pictures):
    torch.manual_seed(5)
    return augment(pictures, spec(flip_probability=0.5, num_masks=1, max_mask=0.5))


def test_masks_of_time_and_frequency():
    pictures = torch.rand(200, 1, 40, 40).expand(-1, 3, -1, -1) + 0.1
    torch.manual_seed(0)
    augmented = augment(pictures, spec(flip_probability=0.0, num_masks=2, max_mask=0.25))
    unmasked = augmented[:, 0] != 0
    assert torch.equal(augmented[:, 0][unmasked], pictures[:, 0][unmasked])
    rows, columns = (~unmasked).all(2), (~unmasked).all(1)
    assert torch.equal(~unmasked, rows[:, :, None] | columns[:, None, :])
    for masked in (rows, columns):
        assert masked.sum(1).max() <= 20
        assert 0.05 < masked.float().mean() < 0.25
    assert len({tuple(masked.tolist()) for masked in rows}) > 150  # each picture has its own masks


def test_pictures_and_targets_are_mixed_with_the_same_lambdas():
    pictures = torch.arange(4.0).view(4, 1, 1, 1).expand(-1, 3, 5, 5)
    torch.manual_seed(0)
    mixed, targets = mix_pictures(pictures, torch.eye(4), 0.4)
    assert torch.allclose(targets.sum(1), torch.ones(4))
    assert torch.allclose(mixed[:, 0, 0, 0], targets @ torch.arange(4.0))
    assert not torch.equal(targets, torch.eye(4))
    assert mixed.stride(1) == 0


def test_what_is_off_changes_nothing_and_mixup_mixes_targets_as_pictures():
    waves = torch.rand(3, 8000, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(3)

    def pictures_of(waves):
        return waves.square().view(-1, 1, 80, 100).expand(-1, 3, -1, -1)

    pictures, unmixed = augmented_pictures(pictures_of, waves, targets, spec(flip_probability=0.0))
    assert torch.equal(pictures, pictures_of(waves))
    assert unmixed is targets
    torch.manual_seed(5)
    mixed, mixed_targets = augmented_pictures(pictures_of, waves, targets, spec(flip_probability=0.0, mixup_alpha=1.0))
    assert not torch.equal(mixed_targets, targets)
    expected = mixed_targets @ pictures_of(waves)[:, 0].flatten(1)
    torch.testing.assert_close(mixed[:, 0].flatten(1), expected)


@pytest.mark.parametrize("speed", [0.5, 0.9, 0.97, 1.05, 2.0])
def test_a_tone_is_higher_by_the_speed_and_a_window_keeps_its_length(speed):
    t = torch.arange(16_000) / 8000
    changed = change_speed(torch.sin(2 * torch.pi * 500 * t)[None], [speed])
    assert changed.shape == (1, 16_000)
    ends = min(16_000, math.ceil(16_000 / speed))  # from there on it is repeated
    expected = torch.sin(2 * torch.pi * 500 * speed * t)
    torch.testing.assert_close(changed[0, 100 : ends - 100], expected[100 : ends - 100], atol=5e-3, rtol=0)
    torch.testing.assert_close(changed[0, ends:], changed[0, : 16_000 - ends], atol=0, rtol=0)


def test_speed_is_resampling_as_by_scipy():
    wave = torch.randn(8000, generator=torch.Generator().manual_seed(0))
    smooth = torch.from_numpy(scipy.signal.lfilter(*scipy.signal.butter(8, 0.6), wave.numpy())).float()
    expected = scipy.signal.resample_poly(smooth.double().numpy(), 10, 9, window=("kaiser", 12.0))[:8000]
    (changed,) = change_speed(smooth[None], [0.9])
    error = (changed - torch.from_numpy(expected)).square().mean().sqrt()
    assert error < 0.01 * smooth.std()


def test_every_speed_gets_its_part_of_a_batch():
    t = torch.arange(4000) / 8000
    waves = torch.sin(2 * torch.pi * 1000 * t).expand(11, -1)

    def hertz(seed: int, count: int = 11) -> list[int]:
        torch.manual_seed(seed)
        changed = change_speed(waves[:count], (0.9, 1.0, 1.1))
        return [2 * int(frequency) for frequency in torch.fft.rfft(changed[:, :3000], 4000).abs().argmax(1)]

    assert sorted({*hertz(0)}) == [900, 1000, 1100]
    assert sorted(hertz(0).count(tone) for tone in (900, 1000, 1100)) == [3, 4, 4]
    assert hertz(0) == hertz(0) != hertz(1)
    assert len({tone for seed in range(20) for tone in hertz(seed, count=1)}) == 3  # also of a batch of one
