import torch

from melgpu.augment import augment, mirrored
from melgpu.recipe import AugmentSpec


def views(probability: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    return images, augment(images, AugmentSpec(flip_probability=probability), generator)


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
    for call in (mirrored, lambda images: augment(images, AugmentSpec(flip_probability=0.5), seeded())):
        views = call(replicated)
        assert torch.equal(views, call(replicated.contiguous()))
        assert views.untyped_storage().nbytes() == single.untyped_storage().nbytes()
    assert torch.equal(mirrored(replicated), replicated.flip(-1))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)
