"""Baselines against closed forms."""

import torch
from torch import Tensor

from scripts.networks import PDD, Teacher
from scripts.networks.baselines import Baseline, MeanImage, NearestNeighbours


def fitted(baseline: Baseline, training: list[Tensor]) -> Baseline:
    baseline.fit(training)
    return baseline


def test_mean_image_is_the_absolute_difference_to_the_mean() -> None:
    baseline = fitted(MeanImage(), [torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    torch.testing.assert_close(baseline(torch.full((2, 3, 2, 2), 0.75)), torch.full((2, 1, 2, 2), 0.25))


def detector() -> PDD:
    return PDD(
        Teacher("resnet18", weights="untrained", levels=[1, 2]),
        Teacher("vmamba_pico", weights="untrained", levels=[0, 1]),
        sigma=0.0,
    )


def test_a_training_image_is_its_own_nearest_neighbour() -> None:
    torch.manual_seed(0)
    training = [torch.rand(3, 64, 64) for _ in range(3)]
    baseline = fitted(NearestNeighbours(detector()), training)
    maps = baseline(torch.stack([training[1], torch.rand(3, 64, 64)]))
    assert maps.shape == (2, 1, 64, 64)
    assert maps[0].max() < 1e-3
    assert maps[1].min() > 1e-2


def test_an_anomaly_is_far_where_it_lies() -> None:
    torch.manual_seed(0)
    normal = [0.5 + 0.01 * torch.randn(3, 64, 64) for _ in range(4)]
    odd = normal[0].clone()
    odd[:, 40:56, 8:24] = 1.0
    map_ = fitted(NearestNeighbours(detector()), normal[1:])(odd[None])[0, 0]
    assert map_[40:56, 8:24].mean() > 5 * map_[:24, 40:].mean()


def test_a_baseline_names_the_teachers_whose_features_it_takes() -> None:
    network = detector()
    baseline = NearestNeighbours(network)
    assert baseline.identities() == network.identities()
    assert baseline.untrained_teachers() == ["resnet18", "vmamba_pico"]
    assert MeanImage().identities() == []
