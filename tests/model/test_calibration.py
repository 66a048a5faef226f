"""Thresholds keep their rate for new patients, p-values are what they claim, and a wrong calibration is refused."""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, norm

from scripts.model.calibration import (
    Calibration,
    PixelTail,
    TooFewPatientsError,
    p_values,
    patients_needed,
    risk_controlling_threshold,
)

SCORING = {"score_pooling": "max", "scan_pooling": "max", "foreground_only": False}


def single(scores: Any) -> list[np.ndarray]:
    return [np.array([score]) for score in scores]


def tail_of(patients: list[np.ndarray]) -> PixelTail:
    tail = PixelTail()
    for number, scores in enumerate(patients):
        for part in np.array_split(scores, 2):
            tail.add(str(number), part)
    return tail


def by_definition(patients: list[np.ndarray], rate: float) -> float:
    """Tries every score, in exact arithmetic of thousandths."""
    for t in np.unique(np.concatenate(patients)):
        if sum((scores > t).mean() for scores in patients) + 1 <= rate * (len(patients) + 1) + 1e-12:
            return float(t)
    raise AssertionError("not even the highest score")


@pytest.mark.parametrize(
    ("scores", "rate", "expected"),
    [
        ([3, 1, 2], 0.25, 3),  # none of three may lie above: (0 + 1) / 4
        ([3, 1, 2], 0.5, 2),  # one of three: (1 + 1) / 4
        ([3, 1, 2], 0.74, 2),
        ([3, 1, 2], 0.75, 1),
        ([7], 0.5, 7),
        ([1, 2, 2, 2], 0.4, 2),  # a tie does not lie above itself
        ([-3, -1, -2], 0.5, -2),
    ],
)
def test_thresholds_of_few_patients(scores: list[float], rate: float, expected: float) -> None:
    assert risk_controlling_threshold(single(scores), rate) == expected


def test_of_single_scores_it_is_the_conformal_quantile() -> None:
    scores = np.random.default_rng(0).normal(size=57)
    for rate in (0.02, 0.05, 0.1, 0.3):
        rank = int(np.ceil((1 - rate) * 58 - 1e-9))
        assert risk_controlling_threshold(single(scores), rate) == np.sort(scores)[rank - 1]


def test_a_patient_counts_once_however_many_scores_he_has() -> None:
    # Above 2 lie half of the first and none of the second: (1/2 + 1) / 3 = 0.5; above 1, (1/2 + 1/4 + 1) / 3 > 0.5.
    patients = [np.array([0.0, 9.0]), np.array([0.0, 1.0, 1.0, 2.0])]
    assert risk_controlling_threshold(patients, 0.5) == 2
    assert risk_controlling_threshold(patients, 0.6) == 1
    assert risk_controlling_threshold(patients, 1 / 3) == 9


@pytest.mark.parametrize("rate", [0.1, 0.15, 0.4])
def test_thresholds_are_those_of_the_definition(rate: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        patients = [rng.integers(0, 30, rng.integers(1, 9)).astype(float) for _ in range(rng.integers(9, 30))]
        assert risk_controlling_threshold(patients, rate) == by_definition(patients, rate)


def test_a_patient_without_scores_has_no_false_alarm() -> None:
    assert risk_controlling_threshold([np.array([1.0, 2.0]), np.empty(0), np.empty(0)], 0.375) == 1


@pytest.mark.parametrize("rate", [0.5, 1 / 3, 0.2, 0.1, 0.07, 0.05, 0.03, 0.01])
def test_the_fewest_patients_are_1_over_the_rate_less_1(rate: float) -> None:
    needed = patients_needed(rate)
    assert 1 / rate - 1 <= needed + 1e-9 < 1 / rate + 1e-6
    scores = np.arange(needed, dtype=float)
    assert risk_controlling_threshold(single(scores), rate) == scores[-1]
    assert tail_of(single(scores)).threshold(rate) == pytest.approx(scores[-1], rel=5e-4)
    text = f"needs {needed} normal patients, there are {needed - 1}, .* no rate below {1 / needed:.3g}"
    with pytest.raises(TooFewPatientsError, match=text):
        risk_controlling_threshold(single(scores[:-1]), rate)
    with pytest.raises(TooFewPatientsError, match=text):
        tail_of(single(scores[:-1])).threshold(rate)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        risk_controlling_threshold(single([1, 2]), rate)


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        risk_controlling_threshold(single([1, np.nan, 2]), 0.4)
    with pytest.raises(ValueError, match="NaN or infinite"):
        PixelTail().add("a", np.array([np.inf]))


@pytest.mark.parametrize(("patients", "rate"), [(9, 0.1), (19, 0.1), (19, 0.05), (30, 0.1), (50, 0.25)])
def test_volumes_of_new_patients_exceed_it_exactly_as_often_as_ranks_say(patients: int, rate: float) -> None:
    rng = np.random.default_rng(patients)
    draws = 4000
    above = 0
    for _ in range(draws):
        scores = rng.gumbel(size=patients + 1)
        above += scores[-1] > risk_controlling_threshold(single(scores[:-1]), rate)
    exact = np.floor(rate * (patients + 1) + 1e-9) / (patients + 1)  # a new score is as likely at every rank
    low, high = binom.interval(0.9999, draws, exact)
    assert low <= above <= high
    assert exact <= rate + 1e-12


def correlated(rng: np.random.Generator, patients: int) -> list[np.ndarray]:
    """Slices that differ little within a patient, and more of them where scores are lower."""
    means = rng.normal(size=patients)
    sizes = np.where(means > 0.5, 5, 60)
    return [mean + 0.1 * rng.normal(size=size) for mean, size in zip(means, sizes, strict=True)]


def test_slices_of_one_patient_resemble_each_other_and_only_patients_keep_the_rate() -> None:
    rng = np.random.default_rng(5)
    rate, repetitions = 0.1, 1500
    ours, slicewise = [], []
    for _ in range(repetitions):
        *known, new = correlated(rng, 16)
        pooled = np.sort(np.concatenate(known))
        naive = pooled[int(np.ceil((1 - rate) * (pooled.size + 1))) - 1]
        threshold = risk_controlling_threshold(known, rate)
        ours.append((new > threshold).mean())
        slicewise.append((new > naive).mean())
    error = norm.ppf(0.9999) / np.sqrt(repetitions)
    assert np.mean(ours) <= rate + error * np.std(ours)
    assert np.mean(slicewise) > 1.5 * rate + error * np.std(slicewise)


@pytest.mark.parametrize("sign", [1, -1])
def test_pixels_have_the_threshold_of_the_exact_form(sign: int) -> None:
    rng = np.random.default_rng(2)
    patients = [(sign * rng.lognormal(size=rng.integers(50, 400))).astype(np.float32) for _ in range(25)]
    for rate in (0.05, 0.1, 0.3, 0.8):
        exact, binned = risk_controlling_threshold(patients, rate), tail_of(patients).threshold(rate)
        assert exact <= binned <= exact + 5e-4 * abs(exact)
        assert sum((scores > binned).mean() for scores in patients) + 1 <= rate * 26 + 1e-9


def test_pixels_of_two_values_are_told_apart() -> None:
    patients = [np.array([0.0] * 9 + [1.0]), np.zeros(10), np.zeros(10)]
    assert tail_of(patients).threshold(0.25) == pytest.approx(1, rel=5e-4)
    assert tail_of(patients).threshold(0.275) == pytest.approx(0, abs=1e-30)


def test_a_patient_who_comes_back_is_refused() -> None:
    tail = tail_of(single([1, 2]))
    with pytest.raises(ValueError, match="patient 0 do not follow one another"):
        tail.add("0", np.array([1.0]))


def test_patients_without_foreground_give_no_pixel_threshold() -> None:
    with pytest.raises(ValueError, match="no pixel of a calibration patient is foreground"):
        tail_of([np.empty(0)] * 3).threshold(0.5)


def test_p_values_of_few_patients() -> None:
    np.testing.assert_allclose(p_values(np.array([0, 1, 1.5, 3, 4]), single([1, 2, 3])), [1, 1, 0.75, 0.5, 0.25])
    patients = [np.array([1.0, 2.0]), np.array([2.0, 3.0, 4.0, 5.0])]
    np.testing.assert_allclose(p_values(np.array([1, 2, 3, 9]), patients), np.array([3, 2.5, 1.75, 1]) / 3)


def test_p_values_of_normal_patients_are_no_smaller_than_they_claim() -> None:
    rng = np.random.default_rng(3)
    volumes, images = [], []
    for _ in range(3000):
        *known, new = correlated(rng, 20)
        volumes.append(p_values(np.array([new.max()]), single(max(scores) for scores in known))[0])
        images.append(p_values(new[:1], known)[0])
    for values in (np.array(volumes), np.array(images)):
        for level in (0.05, 0.1, 0.2, 0.5, 0.9):
            assert (values <= level + 1e-9).sum() <= binom.ppf(0.9999, len(values), level)


def test_a_p_value_is_at_most_the_rate_where_the_threshold_is_exceeded() -> None:
    known = single(np.random.default_rng(4).normal(size=39))
    for rate in (0.05, 0.1, 0.25):
        threshold = risk_controlling_threshold(known, rate)
        scores = np.linspace(-3, 3, 500)
        assert ((p_values(scores, known) <= rate + 1e-9) == (scores > threshold)).all()


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """``written(scoring={...})``: a calibration of two patients, with overrides, and its checkpoint."""

    def write(**overrides: Any) -> tuple[Path, Path]:
        checkpoint = tmp_path / "model.pt"
        checkpoint.write_bytes(b"weights")
        level = {"rate": 0.4, "patients": 2}
        content = {
            "checkpoint_sha256": hashlib.sha256(b"weights").hexdigest(),
            "scoring": SCORING,
            "levels": {
                "volume": {**level, "threshold": 5.0},
                "image": {**level, "threshold": 4.0},
                "pixel": {
                    **level,
                    "threshold": None,
                    "reason": "too few",
                    "thresholds": [{"rate": 0.5, "threshold": 1.5}],
                },
            },
            "scores": [{"score": 2.0, "images": [1.0, 2.0]}, {"score": 5.0, "images": [2.0, 3.0, 4.0, 5.0]}],
        }
        path = tmp_path / "calibration.json"
        path.write_text(json.dumps(content | overrides))
        return path, checkpoint

    return write


def test_a_calibration_gives_thresholds_rates_and_p_values(written: Callable[..., tuple[Path, Path]]) -> None:
    calibration = Calibration(*written(), **SCORING)
    assert (calibration.volume_threshold, calibration.image_threshold, calibration.pixel_threshold) == (5, 4, None)
    assert calibration.rates == {"volume": 0.4, "image": 0.4, "pixel": 0.4}
    assert calibration.pixel_thresholds == {0.5: 1.5}
    assert calibration.patients == 2
    assert calibration.volume_p_value(3.0) == pytest.approx(2 / 3)
    np.testing.assert_allclose(calibration.image_p_values(np.array([2.0, 3.0])), [2.5 / 3, 1.75 / 3])
    assert calibration.facts is not None
    assert calibration.facts["levels"]["pixel"]["reason"] == "too few"
    assert "scores" not in calibration.facts


def test_without_the_file_there_is_nothing_and_the_log_says_how_to_get_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        calibration = Calibration(tmp_path / "calibration.json", tmp_path / "model.pt", **SCORING)
    assert (calibration.volume_threshold, calibration.image_threshold, calibration.pixel_threshold) == (None,) * 3
    assert (calibration.patients, calibration.rates, calibration.facts) == (0, {}, None)
    assert np.isnan(calibration.volume_p_value(1.0))
    assert np.isnan(calibration.image_p_values(np.ones(2))).all()
    assert f"{tmp_path / 'calibration.json'}" in caplog.text
    assert "python -m bundle calibrate" in caplog.text


def test_where_none_is_wanted_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        calibration = Calibration("", tmp_path / "model.pt", **SCORING)
    assert (calibration.pixel_threshold, calibration.patients, calibration.facts) == (None, 0, None)
    assert not caplog.records


def test_another_checkpoint_is_refused(written: Callable[..., tuple[Path, Path]]) -> None:
    path, checkpoint = written()
    checkpoint.write_bytes(b"other weights")
    with pytest.raises(ValueError, match=f"{path} was made for another checkpoint than {checkpoint}.*bundle calibrate"):
        Calibration(path, checkpoint, **SCORING)


@pytest.mark.parametrize(
    ("name", "value"), [("score_pooling", "mean"), ("scan_pooling", "top_3"), ("foreground_only", True)]
)
def test_other_scores_are_refused(name: str, value: Any, written: Callable[..., tuple[Path, Path]]) -> None:
    path, checkpoint = written()
    with pytest.raises(ValueError, match=rf"{path} was made with other scores .*{name} \w+, now {value}.*calibrate"):
        Calibration(path, checkpoint, **SCORING | {name: value})


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_file_that_is_no_calibration_is_named(text: str, written: Callable[..., tuple[Path, Path]]) -> None:
    path, checkpoint = written()
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path} is no calibration"):
        Calibration(path, checkpoint, **SCORING)


def test_a_file_of_another_version_is_named(written: Callable[..., tuple[Path, Path]]) -> None:
    path, checkpoint = written(levels={})
    with pytest.raises(ValueError, match=f"{path} is no calibration of this version"):
        Calibration(path, checkpoint, **SCORING)
