"""The baseline against its closed form."""

import torch

from scripts.networks.baselines import MeanImage


def test_mean_image_is_the_absolute_difference_to_the_mean() -> None:
    baseline = MeanImage()
    baseline.fit([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    torch.testing.assert_close(baseline(torch.full((2, 3, 2, 2), 0.75)), torch.full((2, 1, 2, 2), 0.25))
    assert baseline.identities() == baseline.untrained_teachers() == []
