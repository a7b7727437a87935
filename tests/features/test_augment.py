import torch

from melgpu.features.augment import augment, flip_time, mixup
from melgpu.recipe import load_recipe


def spec(**changes):
    return load_recipe([]).augment.model_copy(update=changes)


def views(probability: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    torch.manual_seed(seed)
    return images, augment(images, spec(flip_probability=probability))


def test_each_picture_is_itself_or_mirrored_in_time():
    images, seen = views(0.5, seed=1)
    mirrored = [torch.equal(view, image.flip(-1)) for view, image in zip(seen, images, strict=True)]
    kept = [torch.equal(view, image) for view, image in zip(seen, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 16 < sum(mirrored) < 48


def test_depends_on_the_seed_alone():
    assert torch.equal(views(0.5, 3)[1], views(0.5, 3)[1])
    assert not torch.equal(views(0.5, 3)[1], views(0.5, 4)[1])


def test_probability_0_and_1_are_certain():
    images, kept = views(0.0, 1)
    assert torch.equal(kept, images)
    assert torch.equal(views(1.0, 1)[1], images.flip(-1))


def test_replicated_channels_stay_views_of_one():
    single = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    replicated = single.expand(-1, 3, -1, -1)
    for call in (flip_time, seeded):
        views = call(replicated)
        assert torch.equal(views, call(replicated.contiguous()))
        assert views.untyped_storage().nbytes() == single.untyped_storage().nbytes()
    assert torch.equal(flip_time(replicated), replicated.flip(-1))


def seeded(images):
    torch.manual_seed(5)
    return augment(images, spec(flip_probability=0.5, num_masks=1, max_mask=0.5))


def test_masks_blank_stripes_of_time_and_frequency():
    images = torch.rand(200, 1, 40, 40).expand(-1, 3, -1, -1) + 0.1
    torch.manual_seed(0)
    masked = augment(images, spec(flip_probability=0.0, num_masks=2, max_mask=0.25))
    kept = masked[:, 0] != 0
    assert torch.equal(masked[:, 0][kept], images[:, 0][kept])
    rows, columns = (~kept).all(2), (~kept).all(1)
    assert torch.equal(~kept, rows[:, :, None] | columns[:, None, :])
    for lines in (rows, columns):
        assert lines.sum(1).max() <= 20
        assert 0.05 < lines.float().mean() < 0.25
    assert len({tuple(line.tolist()) for line in rows}) > 150  # each picture has its own


def test_mixed_pictures_and_targets_have_the_same_shares():
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(-1, 3, 5, 5)
    torch.manual_seed(0)
    pictures, targets = mixup(images, torch.eye(4), 0.4)
    assert torch.allclose(targets.sum(1), torch.ones(4))
    assert torch.allclose(pictures[:, 0, 0, 0], targets @ torch.arange(4.0))
    assert not torch.equal(targets, torch.eye(4))
    assert pictures.stride(1) == 0
