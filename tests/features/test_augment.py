import torch

from melgpu.features.augment import augment, flip_time, mixup
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


def test_mixup_mixes_pictures_and_targets_with_the_same_lambdas():
    pictures = torch.arange(4.0).view(4, 1, 1, 1).expand(-1, 3, 5, 5)
    torch.manual_seed(0)
    mixed, targets = mixup(pictures, torch.eye(4), 0.4)
    assert torch.allclose(targets.sum(1), torch.ones(4))
    assert torch.allclose(mixed[:, 0, 0, 0], targets @ torch.arange(4.0))
    assert not torch.equal(targets, torch.eye(4))
    assert mixed.stride(1) == 0
