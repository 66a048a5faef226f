"""Histogram landmarks: learnt as Nyúl and Udupa do, kept in checkpoints."""

import json
import logging

import numpy as np
import pytest

from scripts.data.foreground import QUANTILES
from scripts.data.landmarks import HistogramLandmarks

LINEAR = np.linspace(100, 300, len(QUANTILES))
SQUARED = np.linspace(0, 1, len(QUANTILES)) ** 2


def test_landmarks_are_the_mean_of_the_quantiles_brought_to_zero_and_one() -> None:
    landmarks = HistogramLandmarks()
    landmarks.learn([LINEAR, 7 * SQUARED - 3])
    np.testing.assert_allclose(landmarks.values, (np.linspace(0, 1, len(QUANTILES)) + SQUARED) / 2)
    assert (landmarks.values[0], landmarks.values[-1]) == (0, 1)


def test_constant_volumes_do_not_count_and_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    alone, together = HistogramLandmarks(), HistogramLandmarks()
    alone.learn([LINEAR])
    with caplog.at_level(logging.WARNING):
        together.learn([LINEAR, np.full(len(QUANTILES), 5.0)])
    np.testing.assert_array_equal(alone.values, together.values)
    assert "1 of 2 training volumes are constant" in caplog.text


@pytest.mark.parametrize("volumes", [[], [np.zeros(len(QUANTILES))]])
def test_nothing_is_learnt_from_nothing(volumes: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="cannot be learnt"):
        HistogramLandmarks().learn(volumes)


def test_landmarks_not_yet_learnt_are_refused_with_the_remedy() -> None:
    with pytest.raises(RuntimeError, match="learn them from normal training volumes, or load a checkpoint"):
        _ = HistogramLandmarks().values


def test_a_checkpoint_keeps_them_as_primitives() -> None:
    learnt, restored = HistogramLandmarks(), HistogramLandmarks()
    restored.load_state_dict(HistogramLandmarks().state_dict())  # of a training that needs none
    learnt.learn([LINEAR, SQUARED])
    restored.load_state_dict(json.loads(json.dumps(learnt.state_dict())))
    np.testing.assert_array_equal(restored.values, learnt.values)


def test_landmarks_of_other_quantiles_are_refused() -> None:
    state = {"quantiles": [0.0, 0.5, 1.0], "landmarks": [0.0, 0.4, 1.0]}
    with pytest.raises(ValueError, match=r"of the quantiles \[0.0, 0.5, 1.0\].*train again"):
        HistogramLandmarks().load_state_dict(state)
