import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from scripts.metrics import ClassMetrics, class_means


def collected(ader=False):
    """Brain and liver have both classes, the eye only normal images; classes differ in size."""
    rng = np.random.default_rng(0)
    metrics, images = ClassMetrics(ader=ader), {}
    for name, labels in (("liver", [0, 1, 0, 1, 1, 0, 1]), ("brain", [1, 0, 0, 1]), ("eye", [0, 0])):
        masks = torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)
        masks[torch.tensor(labels) == 1, :, 2:5, 3:6] = 1
        maps = torch.from_numpy(rng.normal(size=masks.shape).astype(np.float32)) + masks
        scores = maps.flatten(1).amax(1)
        for i, label in enumerate(labels):
            metrics.add(name, [float(scores[i])], [label])
            metrics.add_map(name, maps[i], masks[i])
        images[name] = (scores.numpy(), np.array(labels), maps.numpy().ravel(), masks.numpy().ravel())
    return metrics.compute(), images


def test_metrics_of_a_class_are_scikit_learns_on_its_images():
    classes, images = collected()

    assert list(classes) == ["brain", "eye", "liver"]
    for name in ("brain", "liver"):
        scores, labels, pixels, truth = images[name]
        assert classes[name]["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), rel=1e-9)
        assert classes[name]["image_ap"] == pytest.approx(average_precision_score(labels, scores), rel=1e-9)
        assert classes[name]["pixel_auroc"] == pytest.approx(roc_auc_score(truth, pixels), rel=1e-9)
        assert classes[name]["pixel_ap"] == pytest.approx(average_precision_score(truth, pixels), rel=1e-9)
    assert classes["liver"]["images"] == {"normal": 3, "anomalous": 4}


def test_means_are_plain_and_not_defined_where_a_class_lacks_the_metric():
    classes, _ = collected()
    assert set(class_means(classes).values()) == {None}

    eye = classes.pop("eye")
    means = class_means(classes)
    assert eye["images"] == {"normal": 2, "anomalous": 0}
    assert set(eye) == set(classes["brain"])
    assert set(means) == set(eye) - {"images"}
    for name, mean in means.items():
        assert mean == pytest.approx((classes["brain"][name] + classes["liver"][name]) / 2, rel=1e-12)


def test_metrics_as_the_benchmark_computes_them_are_there_when_asked_for():
    classes, _ = collected(ader=True)

    assert classes["eye"]["ader_pixel_ap"] is None
    assert 0 < classes["liver"]["ader_pixel_ap"] < 1
