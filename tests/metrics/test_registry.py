"""One entry of the registry is all that a metric needs."""

import doctest
from importlib import import_module

import numpy as np
import pytest
import torch

import scripts.metrics
from scripts.metrics import ClassMetrics, ImageMetrics, PatientMetrics, PixelMetrics, VolumeMetrics
from scripts.metrics.registry import METRICS, Entry, Table, entries

PUBLIC = [getattr(scripts.metrics, name) for name in scripts.metrics.__all__]
NAMES = ["image_auroc", "image_ap", "image_f1max", "image_f1max_floor"]
SCORES, LABELS = [3.0, 1.0, 2.0, 0.0], [1, 1, 0, 0]


@pytest.mark.parametrize("public", PUBLIC, ids=lambda public: public.__name__)
def test_the_example_of_what_configs_name_holds(public: type) -> None:
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    (example,) = finder.find(public, public.__name__, globs=vars(import_module(public.__module__)).copy())
    assert example.examples
    assert runner.run(example).failed == 0


def test_evaluations_compute_what_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in (Table.IMAGE, Table.PIXEL, Table.PATIENT):
        entry = Entry(f"found_{table.name}", table, "Found", lambda curve: float(curve.positive.sum()), lambda _: 0.5)
        monkeypatch.setitem(METRICS, entry.name, entry)
    monkeypatch.setitem(METRICS, "scans", Entry("scans", Table.LESION, "Scans", len))
    maps = masks = torch.tensor(LABELS).reshape(4, 1, 1, 1)
    images, patients, pixels = ImageMetrics(), PatientMetrics(), PixelMetrics()
    volumes, classes = VolumeMetrics(), ClassMetrics()
    images.update((SCORES, LABELS))
    patients.update((SCORES, LABELS, ["A", "B", "C", "C"]))
    pixels.update((maps, masks))
    volumes.update((list(maps), list(masks)))
    classes.add("brain", SCORES, LABELS)
    classes.add("liver", SCORES[:2], LABELS[:2])

    found = images.compute()
    assert list(found) == [*NAMES, "found_IMAGE", "found_IMAGE_floor"]
    assert list(found.values()) == pytest.approx([0.75, 5 / 6, 0.8, 2 / 3, 2, 0.5])
    assert (patients.compute()["found_PATIENT"], pixels.compute()["found_PIXEL"]) == (2, 2)
    assert (volumes.compute()["scans"], "dice" in volumes.compute()) == (4, False)
    assert [metrics["found_IMAGE"] for metrics in classes.compute().values()] == [2, None]


def test_labels_tell_the_metrics_of_a_table_apart() -> None:
    for table in Table:
        labels = [entry.label for entry in entries(table)]
        assert len(set(labels)) == len(labels) > 0


def test_lesion_sensitivities_are_read_at_the_rates_of_their_names() -> None:
    maps = np.zeros((1, 1, 40, 40))
    masks = maps.copy()
    maps[0, 0, 5, 5], maps[0, 0, 20, 20] = 2, 1  # a false positive, and one below it that finds the lesion
    masks[0, 0, 19:22, 19:22] = 1
    metric = VolumeMetrics()
    metric.update((list(maps), list(masks)))
    found = {name: value for name, value in metric.compute().items() if name != "froc"}
    assert list(found) == [f"lesion_sensitivity_at_{rate}_fp" for rate in ("0.125", "0.25", "0.5", 1, 2, 4, 8)]
    assert list(found.values()) == [0, 0, 0, 1, 1, 1, 1]
    assert metric.compute()["froc"] == pytest.approx(4 / 7)
