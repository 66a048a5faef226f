import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.handlers import from_engine
from sklearn.metrics import average_precision_score, roc_auc_score

from scripts.metrics import PatientMetrics

RNG = np.random.default_rng(0)
GROUPS = RNG.integers(0, 12, 60)
LABELS = (RNG.random(60) < 0.15).astype(int)
SCORES = 60 + 0.01 * RNG.normal(size=60) + 0.01 * LABELS


def metrics_of(*batches):
    metric = PatientMetrics()
    for batch in batches:
        metric.update(batch)
    return metric.compute()


def test_a_patient_has_the_highest_score_and_any_anomaly_of_the_scans():
    patients = np.unique(GROUPS)
    scores = [SCORES[patient == GROUPS].max() for patient in patients]
    labels = [LABELS[patient == GROUPS].any() for patient in patients]
    assert 0 < sum(labels) < len(labels)
    groups = [f"patient {group}" for group in GROUPS]
    metrics = metrics_of((SCORES[:20], LABELS[:20], groups[:20]), (SCORES[20:], LABELS[20:], groups[20:]))

    assert list(metrics) == ["patient_auroc", "patient_ap"]
    assert metrics["patient_auroc"] == pytest.approx(roc_auc_score(labels, scores), rel=1e-12)
    assert metrics["patient_ap"] == pytest.approx(average_precision_score(labels, scores), rel=1e-12)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only_is_nan_and_logged(label, caplog):
    metrics = metrics_of(([1.0, 2.0, 3.0], [0, label, label], ["a", "a", "b"]))

    assert all(np.isnan(value) for value in metrics.values())
    assert f"all 2 patients have label {label}" in caplog.text


def test_scalars_of_an_engine_with_decollated_outputs():
    engine = Engine(lambda engine, batch: batch)
    PatientMetrics(from_engine(["score", "label", "group"])).attach(engine, "patient")
    # Of patient a the second scan alone is anomalous, and scores less than the normal one.
    engine.run(
        [
            [{"score": torch.tensor(3.0), "label": torch.tensor(0), "group": "a"}],
            [{"score": torch.tensor([1.0]), "label": 1, "group": "a"}, {"score": 2.0, "label": 0, "group": "b"}],
        ]
    )

    assert engine.state.metrics == {"patient_auroc": 1, "patient_ap": 1}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (([], [], []), "patient metrics: scores are empty"),
        (([1.0, 2.0, float("nan")], [0, 1, 0], ["a", "b", "b"]), "patient metrics: .* 1 NaN or infinite values of 3"),
        (([1.0, 2.0], [0, 2], ["a", "b"]), "patient metrics: labels must be 0"),
        (([1.0, 2.0], [0, 1], ["a"]), "2 scores, 2 labels and 1 groups"),
    ],
)
def test_bad_input_says_what_is_wrong(batch, message):
    with pytest.raises(ValueError, match=message):
        metrics_of(batch)
