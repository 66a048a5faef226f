"""The threshold leaves the asked-for part of normal pixels above it."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset, MetaTensor
from torch import Tensor, nn

from scripts.engines import MixedPrecisionInferer
from scripts.threshold import FitThreshold, Threshold


class Red(nn.Module):
    """Takes the first channel for the anomaly map."""

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return images[:, :1] * 10


def fit(images: Tensor, rate: float, batch_size: int = 2, threshold: Threshold | None = None) -> Threshold:
    threshold = threshold or Threshold()
    loader = DataLoader(Dataset([{"image": MetaTensor(image)} for image in images]), batch_size=batch_size)
    network: Any = Red()
    fitted = FitThreshold(threshold, loader, network, MixedPrecisionInferer(), torch.device("cpu"), rate)
    engine = Engine(lambda *_: None)
    fitted.attach(engine)
    engine.run([0])
    assert network.training
    return threshold


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.005, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_at_most_the_rate_of_foreground_lies_above_and_no_lower_value_would_do(rate: float, batch_size: int) -> None:
    images = torch.rand(7, 3, 16, 17, generator=torch.Generator().manual_seed(0))
    images[:, :, :5] = 0  # background
    images[0, 0] = 0  # foreground by its other channels
    value = fit(images, rate, batch_size).value
    values = np.sort((images[:, 0] * 10)[images.amax(1) > 0].numpy())
    assert value in values
    assert (values > value).mean() <= rate
    lower = values[values < value]
    assert not lower.size or (values > lower[-1]).mean() > rate
    assert value == np.quantile(values, 1 - int(rate * values.size) / values.size, method="inverted_cdf")


def test_equal_values_stay_below() -> None:
    images = torch.full((2, 3, 4, 4), 0.5)
    assert fit(images, 0.25).value == 5.0


@pytest.mark.parametrize("images", [torch.empty(0, 3, 4, 4), torch.zeros(2, 3, 4, 4)], ids=["none", "black"])
def test_without_foreground_there_is_no_threshold_and_a_warning(
    images: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert fit(images, 0.1).value is None
    assert "no threshold" in caplog.text


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=r"false_positive_rate must be in \[0, 1\)"):
        fit(torch.rand(1, 3, 4, 4), rate)


def test_a_given_threshold_overrides_the_checkpoint() -> None:
    trained = Threshold()
    trained.value = 0.7
    for given, expected in [(None, 0.7), (0.2, 0.2), (0.0, 0.0)]:
        threshold = Threshold(given)
        threshold.load_state_dict(trained.state_dict())
        assert threshold.value == expected
