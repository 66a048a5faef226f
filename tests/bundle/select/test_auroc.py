"""AUROC across patients: by hand, pair by pair, and its interval."""

import numpy as np
import pytest

from bundle.select.auroc import measured


def drawn(patients: int, slices: int, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Scores of normals, of lesions and of noise, with an effect of each patient."""
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(patients), slices)
    own = random.normal(size=patients)[group]
    normal, lesion, noise = (own + random.normal(centre, size=len(group)).round(1) for centre in (0, 0.5, 1.5))
    return normal, {"lesion": lesion, "noise": noise}, np.array([f"{name:02}" for name in group])


def share(normal: np.ndarray, altered: np.ndarray, group: np.ndarray) -> float:
    """Share of the pairs between different groups in which the altered one is higher, a tie being half a pair."""
    pairs = [(i, j) for i in range(len(normal)) for j in range(len(normal)) if group[i] != group[j]]
    return float(np.mean([(altered[j] > normal[i]) + 0.5 * (altered[j] == normal[i]) for i, j in pairs]))


def test_pairs_of_one_patient_do_not_count() -> None:
    """Within a patient every altered slice is the higher one, across patients half are."""
    found = measured(
        np.array([0.0, 0, 10, 10]), {"lesion": np.array([1.0, 1, 11, 11])}, np.array(list("aabb")), np.arange(4)
    )
    assert found.kinds == {"lesion": 0.5}


def test_it_is_the_share_of_pairs_across_patients_and_the_mean_over_kinds() -> None:
    normal, altered, patients = drawn(6, 3)
    found = measured(normal, altered, patients, np.arange(18))
    expected = {kind: share(normal, scores, patients) for kind, scores in altered.items()}
    assert found.kinds == pytest.approx(expected, abs=1e-12)
    assert found.mean == pytest.approx(np.mean(list(expected.values())), abs=1e-12)


def test_of_one_patient_the_pairs_of_different_slices_count() -> None:
    """Slices 0 and 1, with anomalies drawn twice in each."""
    normal, slices = np.array([1.0, 3.0, 1.0, 3.0]), np.array([0, 1, 0, 1])
    altered = np.array([4.0, 3.5, 2.0, 0.0])
    found = measured(normal, {"lesion": altered}, np.array(["anna"] * 4), slices)
    assert found.mean == share(normal, altered, slices) == 0.5  # 4 > 3, 2 < 3, 3.5 > 1, 0 < 1, each twice
    assert np.isnan([found.low, found.high]).all()


def test_the_interval_is_that_of_draws_of_patients_without_pairs_of_a_patient_with_itself() -> None:
    normal, altered, patients = drawn(8, 2)
    found = measured(normal, altered, patients, np.arange(16))
    random = np.random.default_rng(1)
    replicates = []
    for _ in range(300):
        places = np.concatenate([np.flatnonzero(patients == f"{one:02}") for one in random.integers(8, size=8)])
        of_kinds = [share(normal[places], scores[places], patients[places]) for scores in altered.values()]
        replicates.append(np.mean(of_kinds))
    np.testing.assert_allclose([found.low, found.high], np.quantile(replicates, (0.025, 0.975)), atol=0.04)


@pytest.mark.parametrize(("patients", "known"), [(4, False), (5, True)])
def test_an_interval_takes_five_patients(patients: int, known: bool) -> None:
    normal, altered, names = drawn(patients, 2)
    found = measured(normal, altered, names, np.arange(2 * patients))
    assert np.isfinite([found.low, found.high]).all() == known


def test_nothing_to_tell_is_a_half_in_expectation() -> None:
    """Own pairs would push it above: altered copies score higher than themselves, if hardly."""
    values = [measured(*with_itself(seed)).mean for seed in range(200)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.01)


def with_itself(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    normal = np.random.default_rng(seed).normal(size=6)
    return normal, {"lesion": normal + 1e-9}, np.arange(6), np.arange(6)


def test_one_slice_is_refused() -> None:
    with pytest.raises(ValueError, match="One normal slice is nothing to compare with.*--validation-fraction"):
        measured(np.array([1.0]), {"lesion": np.array([2.0])}, np.array(["anna"]), np.array([0]))
