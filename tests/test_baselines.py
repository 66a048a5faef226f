"""Baselines against closed forms."""

import torch

from scripts.baselines import mean_image, nearest_neighbours
from scripts.networks import PDD, Teacher


def test_mean_image_is_the_absolute_difference_to_the_mean() -> None:
    score = mean_image([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    torch.testing.assert_close(score(torch.full((3, 2, 2), 0.75)), torch.full((2, 2), 0.25))


def detector() -> PDD:
    return PDD(
        Teacher("resnet18", weights="untrained", levels=[1, 2]),
        Teacher("vmamba_pico", weights="untrained", levels=[0, 1]),
        sigma=0.0,
    )


def test_a_training_image_is_its_own_nearest_neighbour() -> None:
    torch.manual_seed(0)
    training = [torch.rand(3, 64, 64) for _ in range(3)]
    score = nearest_neighbours(training, detector())
    assert score(training[1]).shape == (64, 64)
    assert score(training[1]).max() < 1e-3
    assert score(torch.rand(3, 64, 64)).min() > 1e-2


def test_an_anomaly_is_far_where_it_lies() -> None:
    torch.manual_seed(0)
    normal = [0.5 + 0.01 * torch.randn(3, 64, 64) for _ in range(4)]
    odd = normal[0].clone()
    odd[:, 40:56, 8:24] = 1.0
    map_ = nearest_neighbours(normal[1:], detector())(odd)
    assert map_[40:56, 8:24].mean() > 5 * map_[:24, 40:].mean()
