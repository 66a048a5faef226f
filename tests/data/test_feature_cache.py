"""The cache of teachers' features: what it gives is what the teachers give, and it keeps to its bound."""

import pytest
import torch
from torch import Tensor

from scripts.data.feature_cache import FeatureCache, Features
from scripts.networks import PDD, Teacher

NAMES = ["a.png", "b.png", "c.png"]


class CountingPDD(PDD):
    """Counts the images that its teachers are shown."""

    seen = 0

    def features(self, image: Tensor) -> Features:
        self.seen += len(image)
        return super().features(image)


@pytest.fixture
def network() -> CountingPDD:
    return CountingPDD(Teacher("test_resnet", "untrained"), Teacher("vmamba_pico", "untrained"))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def flat(features: Features) -> list[Tensor]:
    return [level for levels in features for level in levels]


def equal(first: Features, second: Features) -> bool:
    return all(torch.equal(a, b) for a, b in zip(flat(first), flat(second), strict=True))


def size_of_one(network: PDD) -> float:
    """GiB of the features of an image."""
    features = flat(network.features(torch.zeros(1, 3, 32, 32)))
    return sum(level.numel() * level.element_size() for level in features) / 2**30


def test_features_are_those_of_the_teachers(network: CountingPDD, images: Tensor) -> None:
    cached = flat(FeatureCache(1)(network, images, NAMES))
    together = flat(network.features(images))
    singly = [flat(network.features(image[None])) for image in images]
    assert [level.shape for level in cached] == [level.shape for level in together]
    for i, level in enumerate(cached):
        assert torch.equal(level, torch.cat([single[i] for single in singly]))
        torch.testing.assert_close(level, together[i], rtol=1e-4, atol=1e-5)


def test_a_second_pass_asks_no_teacher_and_gives_the_same(network: CountingPDD, images: Tensor) -> None:
    cache = FeatureCache(1)
    first = cache(network, images, NAMES)
    assert network.seen == 3
    assert equal(first, cache(network, images, NAMES))
    assert network.seen == 3


def test_features_do_not_depend_on_the_batch_they_were_computed_in(network: CountingPDD, images: Tensor) -> None:
    whole = FeatureCache(1)(network, images, NAMES)
    cache = FeatureCache(1)
    cache(network, images[[2, 0]], ["c.png", "a.png"])
    assert equal(whole, cache(network, images, NAMES))
    assert network.seen == 6


def test_what_a_caller_does_to_features_does_not_reach_the_cache(network: CountingPDD, images: Tensor) -> None:
    cache = FeatureCache(1)
    first = cache(network, images[:1], NAMES[:1])
    expected = [level.clone() for level in flat(first)]
    for level in flat(first):
        level.zero_()
    for level in flat(cache(network, images[:1], NAMES[:1])):
        level.zero_()
    again = flat(cache(network, images[:1], NAMES[:1]))
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


@pytest.mark.parametrize("room", [0, 1, 2.5, 3])
def test_no_more_is_kept_than_asked_for_and_the_rest_computed_again(
    network: CountingPDD, images: Tensor, room: float
) -> None:
    cache = FeatureCache(room * size_of_one(network))
    network.seen = 0
    first = cache(network, images, NAMES)
    assert equal(first, cache(network, images, NAMES))
    assert network.seen == 3 + (3 - int(room))
    assert cache.free >= 0


def test_features_have_no_gradient(network: CountingPDD, images: Tensor) -> None:
    assert not any(level.requires_grad for level in flat(FeatureCache(1)(network, images.requires_grad_(), NAMES)))


def test_names_that_do_not_match_the_images_are_refused(network: CountingPDD, images: Tensor) -> None:
    with pytest.raises(ValueError, match="zip"):
        FeatureCache(1)(network, images, NAMES[:2])
