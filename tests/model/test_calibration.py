"""Thresholds keep their rate for new patients, p-values are what they claim, and a wrong calibration is refused."""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, norm

from scripts.model.calibration import (
    Calibration,
    TooFewPatientsError,
    VoxelTail,
    p_values,
    patients_needed,
    risk_controlling_threshold,
    scorer,
)
from scripts.transforms import AnomalyScored, Preprocessing, Windowedd

SCORER = {"checkpoint": "0123", "precision": "float32", "pooling": "max", "foreground_only": False}


def single(scores: Any) -> list[np.ndarray]:
    return [np.array([score]) for score in scores]


def tail_of(patients: list[np.ndarray]) -> VoxelTail:
    tail = VoxelTail()
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


def test_a_patient_counts_once_however_many_scores_they_have() -> None:
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
        VoxelTail().add("a", np.array([np.inf]))


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
    with pytest.raises(ValueError, match="no voxel of a calibration patient is foreground"):
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
def written(tmp_path: Path) -> Callable[..., Path]:
    """``written(levels={...})``: a calibration of two patients, with overrides."""

    def write(**overrides: Any) -> Path:
        level = {"rate": 0.4, "patients": 2}
        content = {
            "scorer": SCORER,
            "levels": {
                "scan": {**level, "threshold": 5.0},
                "slice": {**level, "threshold": 4.0},
                "mask": {
                    **level,
                    "threshold": None,
                    "reason": "too few",
                    "thresholds": [{"rate": 0.5, "threshold": 1.5}],
                },
            },
            "scores": [{"score": 2.0, "slices": [1.0, 2.0]}, {"score": 5.0, "slices": [2.0, 3.0, 4.0, 5.0]}],
        }
        path = tmp_path / "calibration.json"
        path.write_text(json.dumps(content | overrides))
        return path

    return write


def test_a_calibration_gives_thresholds_rates_and_p_values(written: Callable[..., Path]) -> None:
    calibration = Calibration(written(), SCORER)
    assert calibration.thresholds == {"scan_threshold": 5, "slice_threshold": 4, "mask_threshold": None}
    assert calibration.rates == {"scan": 0.4, "slice": 0.4, "mask": 0.4}
    assert calibration.mask_thresholds == {0.5: 1.5}
    assert calibration.patients == 2
    assert calibration.scan_p_value(3.0) == pytest.approx(2 / 3)
    np.testing.assert_allclose(calibration.slice_p_values(np.array([2.0, 3.0])), [2.5 / 3, 1.75 / 3])
    assert calibration.facts is not None
    assert calibration.facts["levels"]["mask"]["reason"] == "too few"
    assert "scores" not in calibration.facts


def test_without_the_file_there_is_nothing_and_the_log_says_how_to_get_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        calibration = Calibration(tmp_path / "calibration.json", SCORER)
    assert set(calibration.thresholds.values()) == {None}
    assert (calibration.patients, calibration.rates, calibration.facts) == (0, {}, None)
    assert np.isnan(calibration.scan_p_value(1.0))
    assert np.isnan(calibration.slice_p_values(np.ones(2))).all()
    assert f"{tmp_path / 'calibration.json'}" in caplog.text
    assert "python -m bundle calibrate" in caplog.text


def test_where_none_is_wanted_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        calibration = Calibration("", SCORER)
    assert (calibration.mask_threshold, calibration.patients, calibration.facts) == (None, 0, None)
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "value"),
    [("checkpoint", "4567"), ("precision", "bfloat16"), ("pooling", "mean"), ("foreground_only", True), ("new", 1)],
)
def test_other_scores_are_refused_by_name(name: str, value: Any, written: Callable[..., Path]) -> None:
    path = written()
    with pytest.raises(ValueError, match=rf"{path} was made for other scores .*\({name} \w+, now {value}\).*calibrate"):
        Calibration(path, SCORER | {name: value})


def test_a_checkpoint_that_is_missing_is_left_to_its_reader(written: Callable[..., Path]) -> None:
    assert Calibration(written(), SCORER | {"checkpoint": None}).patients == 2


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_file_that_is_no_calibration_is_named(text: str, written: Callable[..., Path]) -> None:
    path = written()
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path} is no calibration"):
        Calibration(path, SCORER)


def test_a_file_of_another_version_is_named(written: Callable[..., Path]) -> None:
    path = written(levels={})
    with pytest.raises(ValueError, match=f"{path} is no calibration of this version"):
        Calibration(path, SCORER)


def test_the_scorer_names_what_changes_a_score(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"weights")
    preprocessing, scoring = Preprocessing(Windowedd("image", ["brain"]), 64), AnomalyScored("mean", "top_3", True)
    found = scorer(tmp_path / "model.pt", object(), True, preprocessing, scoring)
    assert found["checkpoint"] == hashlib.sha256(b"weights").hexdigest()
    assert (found["runtime"], found["export"], found["precision"]) == ("PyTorch", None, "bfloat16")
    assert (found["pooling"], found["scan_pooling"], found["foreground_only"]) == ("mean", "top_3", True)
    assert (found["image_size"], found["windows"]) == (64, [[40, 80]])
    exported = SimpleNamespace(runtime="onnx", sha256="abc", precision="float32")
    found = scorer(tmp_path / "none.pt", exported, True, preprocessing, scoring)
    assert (found["checkpoint"], found["runtime"], found["export"], found["precision"]) == (
        None, "onnx", "abc", "float32",
    )  # fmt: skip
