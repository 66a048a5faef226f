"""What must not be concluded: each sentence is there if its fact holds, and only then."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from bundle.report.cautions import CONFOUNDED, ORACLE, RESEARCH, cautions
from bundle.report.reading import labelled, read_evaluation

from .conftest import Writer, add_slices, scores_of

CALIBRATION = {"levels": {"slice": {"rate": 0.1, "threshold": 1.0, "patients": 30}}, "observed": {}}
SENTENCES = {
    "untrained": "random weights",
    "inconsistent": "contradict each other",
    "few": "patients (groups); with fewer than 20",
    "one_scan": "a single scan",
    "floor": "F1max is at its floor",
    "oracle": ORACLE,
    "confounded": CONFOUNDED,
    "seeds": "Seeds of one method differ",
    "one_seed": "There is only one seed",
    "looked_at": "used more than once",
    "uncalibrated": "There is no calibration",
    "research": RESEARCH,
}


def told(*folders: Path) -> set[str]:
    """The keys of ``SENTENCES`` that a report on these folders holds."""
    text = "\n".join(cautions(labelled([read_evaluation(folder) for folder in folders])))
    return {key for key, sentence in SENTENCES.items() if sentence in text}


ALWAYS = {"research", "one_seed"}


def test_a_calibrated_run_of_many_patients_has_nothing_but_its_seed_against_it(evaluation: Writer) -> None:
    assert told(evaluation(calibration=CALIBRATION)) == ALWAYS


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"weights": "untrained"}, "untrained"),
        ({"metrics": {"image_auroc": 0.1234}}, "inconsistent"),
        ({"metrics": {"image_f1max": 0.9, "image_f1max_floor": 2 / 3}}, "oracle"),
        ({"calibration": None}, "uncalibrated"),
    ],
)
def test_one_fact_adds_one_sentence(evaluation: Writer, more: dict[str, Any], key: str) -> None:
    assert told(evaluation(**{"calibration": CALIBRATION, **more})) == ALWAYS | {key}


def test_metrics_that_agree_with_the_scores_are_no_contradiction(evaluation: Writer) -> None:
    scores, labels = scores_of(0, 1.0)
    folder = evaluation(metrics={"image_auroc": roc_auc_score(labels, scores)}, calibration=CALIBRATION)
    assert told(folder) == ALWAYS


def test_f1max_at_its_floor_is_told_beside_that_it_is_an_oracle(evaluation: Writer) -> None:
    folder = evaluation(metrics={"image_f1max": 2 / 3, "image_f1max_floor": 2 / 3}, calibration=CALIBRATION)
    assert told(folder) == ALWAYS | {"oracle", "floor"}


@pytest.mark.parametrize(("of_each", "few"), [(19, True), (20, False)])
def test_fewer_than_20_patients_of_a_class_are_few(evaluation: Writer, of_each: int, few: bool) -> None:
    scores, labels = scores_of(0, 1.0, images=2 * of_each)
    assert ("few" in told(evaluation(scores=scores, labels=labels, calibration=CALIBRATION))) == few


def test_patients_are_counted_not_images(evaluation: Writer) -> None:
    groups = [f"patient {number % 2} {number // 20}" for number in range(60)]  # three of each class
    folder = evaluation(groups=groups, calibration=CALIBRATION)
    assert told(folder) == ALWAYS | {"few"}
    text = "\n".join(cautions([read_evaluation(folder)]))
    assert "3 normal and 3 anomalous patients" in text


def test_slices_are_confounded_by_their_position(evaluation: Writer) -> None:
    folder = evaluation(calibration=CALIBRATION)
    add_slices(folder)
    assert told(folder) == ALWAYS | {"confounded"}


def test_one_scan_says_nothing_of_another_patient(evaluation: Writer) -> None:
    folder = evaluation(scores=np.array([1.0]), labels=np.array([1]), calibration=CALIBRATION)
    add_slices(folder)
    assert told(folder) == ALWAYS | {"confounded", "few", "one_scan"}


def test_seeds_that_differ_are_told_with_their_spread(evaluation: Writer) -> None:
    aurocs, folders = [], []
    for seed in range(3):
        scores, labels = scores_of(seed, 1.0)
        aurocs.append(roc_auc_score(labels, scores))
        metrics = {"image_auroc": aurocs[-1]}
        more: dict[str, Any] = {"model": {"seed": seed}, "metrics": metrics, "calibration": CALIBRATION}
        folders.append(evaluation(f"seed {seed}", scores, labels, **more))
    assert told(*folders) == {"research", "seeds", "looked_at"}
    text = "\n".join(cautions([read_evaluation(folder) for folder in folders]))
    assert f"up to {max(aurocs) - min(aurocs):.3f} in image AUROC" in text


def test_seeds_of_one_result_do_not_differ(evaluation: Writer) -> None:
    scores, labels = scores_of(0, 1.0)
    same: dict[str, Any] = {"metrics": {"image_auroc": roc_auc_score(labels, scores)}, "calibration": CALIBRATION}
    folders = [evaluation(f"seed {seed}", model={"seed": seed}, **same) for seed in range(2)]
    assert told(*folders) == {"research", "looked_at"}


def test_another_test_set_is_not_looked_at_again(evaluation: Writer) -> None:
    scores, labels = scores_of(0, 1.0)
    first = evaluation("first", scores, labels, calibration=CALIBRATION)
    shorter = evaluation("shorter", scores[:-2], labels[:-2], model={"method": "other"}, calibration=CALIBRATION)
    assert "looked_at" not in told(first, shorter)


def test_the_same_images_elsewhere_are_the_same_test_set(evaluation: Writer) -> None:
    first = evaluation("first", calibration=CALIBRATION)
    moved = evaluation("moved", root="/elsewhere/copy/images", model={"method": "other"}, calibration=CALIBRATION)
    assert "looked_at" in told(first, moved)
    table = pd.read_csv(moved / "scores.csv")
    table["label"] = 1 - table["label"]
    table.to_csv(moved / "scores.csv", index=False)
    assert "looked_at" not in told(first, moved)


def test_only_the_runs_that_a_fact_holds_of_are_named(evaluation: Writer) -> None:
    folders = [evaluation("first", weights="untrained"), evaluation("second", model={"method": "other"})]
    text = "\n".join(cautions(labelled([read_evaluation(folder) for folder in folders])))
    assert "random weights were used (phantoms, PDD, seed 0)" in text
    assert "There is no calibration of all runs" in text
