"""Which runs are compared, by which test, and what is said of it."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from bundle.report.reading import labelled, read_evaluation
from bundle.report.statistics import comparisons, holm

from .conftest import Writer, scores_of


def compared(*folders: Path) -> tuple:
    return comparisons(labelled([read_evaluation(folder) for folder in folders]))


def test_holm_multiplies_by_the_tests_left_and_stays_ascending() -> None:
    # By hand: 3 * 0.01, 2 * 0.02, and 0.03 raised to what stands before it.
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []


def test_methods_are_compared_on_the_same_images_in_whatever_order_and_folder(evaluation: Writer) -> None:
    scores, labels = scores_of(0, 0.5)
    better = scores + 3 * labels
    ((test,), untested) = compared(
        evaluation("weak", scores, labels),
        evaluation("strong", better, labels, model={"method": "strong"}, root="/elsewhere"),
    )
    assert untested == []
    assert (test["test"], test["first"], test["second"]) == ("DeLong", "PDD, seed 0", "strong, seed 0")
    difference = roc_auc_score(labels, scores) - roc_auc_score(labels, better)
    assert test["difference"] == pytest.approx(difference, abs=1e-12)
    # DeLong et al. 1988, from its definition: the placements of each item in the other class.
    normal, anomalous = labels == 0, labels == 1
    above = [(s[anomalous][:, None] > s[normal]).astype(float) for s in (scores, better)]
    placements = above[0] - above[1]
    variance = np.var(placements.mean(1), ddof=1) / 30 + np.var(placements.mean(0), ddof=1) / 30
    assert test["p"] == pytest.approx(2 * norm.sf(abs(difference) / np.sqrt(variance)), rel=1e-9)
    assert test["p_holm"] == test["p"] < 0.05
    assert test["conclusion"] == "strong, seed 0 is better"


def test_images_of_common_patients_are_resampled_by_patient(evaluation: Writer) -> None:
    scores, labels = scores_of(0, 0.5)
    groups = [f"patient {number // 4}" for number in range(60)]
    noisy = scores + np.random.default_rng(1).normal(size=60) / 100
    ((test,), _) = compared(
        evaluation("one", scores, labels, groups=groups),
        evaluation("other", noisy, labels, groups=groups, model={"method": "other"}),
    )
    assert test["test"] == "paired bootstrap over patients"
    assert test["conclusion"] == "no difference shown"


def test_runs_on_different_images_are_not_compared(evaluation: Writer) -> None:
    scores, labels = scores_of(0, 0.5)
    first = evaluation("first", scores, labels)
    fewer = evaluation("fewer", scores[:-2], labels[:-2], model={"method": "other"})
    assert compared(first, fewer) == (
        [],
        [
            (
                "phantoms",
                "PDD, seed 0 and other, seed 0 are not compared: they were tested on different images, labels or "
                "patients.",
            )
        ],
    )


def test_runs_on_different_data_are_not_compared(evaluation: Writer) -> None:
    folders = [evaluation("first"), evaluation("second", model={"data": "other data", "method": "other"})]
    tests, untested = compared(*folders)
    assert tests == []
    assert [data for data, _ in untested] == ["phantoms", "other data"]


def test_p_values_are_corrected_for_the_tests_on_one_data_set(evaluation: Writer) -> None:
    folders = []
    for number in range(3):
        scores, labels = scores_of(number, 0.5 + number)
        folders.append(evaluation(f"method {number}", scores, labels, model={"method": f"method {number}"}))
    tests, _ = compared(*folders)
    assert len(tests) == 3
    assert [test["p_holm"] for test in tests] == pytest.approx(holm([test["p"] for test in tests]))
    assert max(test["p_holm"] / test["p"] for test in tests) <= 3
    assert min(tests, key=lambda test: test["p"])["p_holm"] == pytest.approx(3 * min(test["p"] for test in tests))


def test_methods_are_compared_at_a_seed_that_both_have(evaluation: Writer) -> None:
    folders = []
    for method, seed in (("a", 0), ("a", 1), ("b", 1), ("b", 2)):
        scores, labels = scores_of(seed + len(folders), 0.5)
        folders.append(evaluation(f"{method}{seed}", scores, labels, model={"method": method, "seed": seed}))
    ((test,), _) = compared(*folders)
    assert (test["first"], test["second"]) == ("a, seed 1", "b, seed 1")
