import numpy as np
import pytest
import torch
from scipy import ndimage

from scripts.metrics import PixelMetrics


def make(kind, seed=0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((6, 48, 48), np.uint8)
    for mask in masks[:3]:
        for edge in (3, 8):
            y, x = rng.integers(0, 40, 2)
            mask[y : y + edge, x : x + edge] = 1
    z = ndimage.gaussian_filter(rng.normal(size=masks.shape), (0, 1, 1)) * 4 + 1.5 * masks
    maps = {"gaussian": z, "long tail": np.exp(1.5 * z), "few": np.clip(np.round(4 * z), -3, 9) / 16}[kind]
    return maps.astype(np.float32), masks


def by_definition(maps, masks):
    """Every threshold anew, on the raw maps."""
    low, high = float(maps.min()), float(maps.max())
    regions = [
        maps[i][numbered == number]
        for i, mask in enumerate(masks)
        for numbered, count in [ndimage.label(mask, np.ones((3, 3)))]
        for number in range(1, count + 1)
    ]
    positive, negative = maps[masks == 1], maps[masks == 0]
    tpr, fpr, overlap, precision = [], [], [], []
    for edge in np.linspace(low, high, 51)[::-1]:
        true, false = (positive >= edge).sum(), (negative >= edge).sum()
        tpr.append(true / positive.size)
        fpr.append(false / negative.size)
        precision.append(true / (true + false))
        overlap.append(np.mean([(region >= edge).mean() for region in regions]))
    grid = np.linspace(fpr[0], 0.3, 200_001)
    f1 = []
    for threshold in np.linspace(0, 1, 21):
        found = (maps.astype(np.float64) - low) / (high - low) > threshold
        f1.append(2 * found[masks == 1].sum() / (found.sum() + positive.size))
    return {
        "ader_pixel_auroc": np.trapezoid(tpr, fpr),
        "ader_pixel_ap": np.trapezoid(precision, tpr),
        "ader_pixel_f1max": max(f1),
        "ader_pixel_aupro": np.trapezoid(np.interp(grid, fpr, overlap), grid) / 0.3,
    }


@pytest.mark.parametrize("kind", ["gaussian", "long tail", "few"])
def test_equals_the_benchmarks_definition_on_the_raw_maps(kind):
    maps, masks = make(kind)
    metric = PixelMetrics(ader=True)
    metric.update((torch.from_numpy(maps)[:, None], torch.from_numpy(masks)[:, None]))
    found = metric.compute()

    assert list(found) == metric.names
    assert {name: found[name] for name in found if name.startswith("ader")} == pytest.approx(
        by_definition(maps, masks), abs=2e-5
    )


def test_the_exact_metrics_stay_what_they_are():
    maps, masks = (torch.from_numpy(part)[:, None] for part in make("long tail"))
    exact, both = PixelMetrics(), PixelMetrics(ader=True)
    exact.update((maps, masks))
    both.update((maps, masks))

    assert exact.compute().items() < both.compute().items()
    assert both.compute()["ader_pixel_auroc"] < both.compute()["pixel_auroc"] - 0.01


def test_maps_of_one_value_have_none():
    metric = PixelMetrics(ader=True)
    metric.update((torch.ones(1, 1, 4, 4), torch.eye(4)[None, None]))

    assert np.isnan([value for name, value in metric.compute().items() if name.startswith("ader")]).all()
