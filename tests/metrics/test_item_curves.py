import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from scripts.metrics import ItemCurves, PixelMetrics
from scripts.metrics.float_bits import ordered_bits, scores_of
from scripts.metrics.pixel_level import pixel_metrics


def make(images=12, size=64, seed=0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((images, size, size), np.uint8)
    for mask in masks[: images // 2]:
        for edge in (3, 9):
            y, x = rng.integers(0, size - edge, 2)
            mask[y : y + edge, x : x + edge] = 1
    z = ndimage.gaussian_filter(rng.normal(size=masks.shape), (0, 1, 1)) * 4 + 1.5 * masks
    return torch.from_numpy(np.exp(1.5 * z).astype(np.float32))[:, None], torch.from_numpy(masks)[:, None]


def collected(maps, masks, bins, batch=5):
    metric = PixelMetrics(item_bins=bins)
    for start in range(0, len(maps), batch):
        metric.update((maps[start : start + batch], masks[start : start + batch]))
    return metric, metric.items.curves([f"{i}.png" for i in range(len(maps))])


def test_metrics_of_a_saved_file_are_close_to_exact(tmp_path):
    maps, masks = make()
    metric, curves = collected(maps, masks, 4096)
    curves.save(tmp_path / "pixels.npz")
    read = ItemCurves.load(tmp_path / "pixels.npz")

    assert len(np.unique(maps)) > 10 * 4096
    assert 1000 < len(read.score) <= 4096
    assert pixel_metrics(read.curve()) == pytest.approx(metric.compute(), abs=2e-3)
    assert list(read.image) == [f"{i}.png" for i in range(12)]


def test_items_weighted_are_items_repeated():
    maps, masks = make()
    _, curves = collected(maps, masks, 4096)
    weights = np.array([2, 0, 1, 0, 0, 0, 3, 0, 0, 1, 0, 0])
    repeated = PixelMetrics()
    repeated.update([part.repeat_interleave(torch.from_numpy(weights), dim=0) for part in (maps, masks)])

    assert pixel_metrics(curves.curve(weights)) == pytest.approx(repeated.compute(), abs=2e-3)


def test_counts_and_thresholds_are_those_of_the_maps():
    maps, masks = make()
    _, curves = collected(maps, masks, 100)

    assert len(curves.score) <= 100
    assert (np.diff(curves.score) < 0).all()
    for i in (0, 7):
        values, truth = maps[i].numpy().ravel(), masks[i].numpy().ravel() == 1
        for part, of_class in ((curves.positive, values[truth]), (curves.negative, values[~truth])):
            np.testing.assert_array_equal(np.cumsum(part[i]), [(of_class >= t).sum() for t in curves.score])
    regions = [ndimage.label(mask[0], np.ones((3, 3)))[1] for mask in masks.numpy()]
    np.testing.assert_allclose(curves.region.sum(axis=1), regions, rtol=1e-5)


def test_few_distinct_scores_stay_exact():
    maps, masks = make()
    maps = torch.round(maps.log())
    _, curves = collected(maps, masks, 4096)

    assert curves.curve().auroc() == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), rel=1e-12)


def test_order_of_items_does_not_matter():
    maps, masks = make()
    _, ahead = collected(maps, masks, 50)
    _, back = collected(maps.flip(0), masks.flip(0), 50)

    np.testing.assert_array_equal(ahead.score, back.score)
    np.testing.assert_array_equal(ahead.positive, back.positive[::-1])
    np.testing.assert_array_equal(ahead.negative, back.negative[::-1])


def test_bits_of_floats_keep_their_order_and_come_back():
    scores = np.array([-np.float32(3e38), -1.5, -1e-40, 0, 1e-40, 2, 3e38], np.float32)

    assert (np.diff(ordered_bits(scores).astype(np.int64)) > 0).all()
    np.testing.assert_array_equal(scores_of(ordered_bits(scores)), scores)


def test_what_is_wrong_is_told(tmp_path):
    maps, masks = make()
    metric, curves = collected(maps, masks, 50)

    with pytest.raises(ValueError, match="bins of items must be at least 2, not 1"):
        PixelMetrics(item_bins=1)
    with pytest.raises(ValueError, match="1 names for the pixels of 12 items"):
        metric.items.curves(["a"])
    with pytest.raises(ValueError, match=r"weights \(2,\) must have shape \(12,\)"):
        curves.curve(np.ones(2))
    np.savez(tmp_path / "other.npz", score=curves.score)
    with pytest.raises(ValueError, match="other.npz does not hold the pixels of an evaluation"):
        ItemCurves.load(tmp_path / "other.npz")
