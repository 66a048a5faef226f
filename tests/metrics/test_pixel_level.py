import itertools
import json

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from scripts.metrics import PixelMetrics

NAMES = ["pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro"]


def make(images=6, size=24, kind="long tail", seed=0):
    """Anomaly maps and masks (B,1,H,W), half of the images normal, the regions of many sizes, some touching corners."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((images, size, size), np.uint8)
    for mask in masks[: images // 2]:
        for _ in range(4):
            y, x, edge = rng.integers(0, size - 6), rng.integers(0, size - 6), rng.integers(1, 6)
            mask[y : y + edge, x : x + edge] = 1
        mask[-2, -2] = mask[-1, -1] = 1
    z = ndimage.gaussian_filter(rng.normal(size=masks.shape), (0, 1, 1)) * 4 + 1.5 * masks
    maps = {
        "long tail": np.exp(1.5 * z),
        "negative": -np.exp(-z),
        "gaussian": z,
        "offset": 60 + 0.01 * z,
        "offset and zero": np.where((z < 0) & (masks == 0), 0, 60 + 0.01 * z),
        "ties": np.round(z),
        "signed zeros": np.where(z > 0, np.round(z), -0.0),
    }[kind]
    return torch.from_numpy(maps.astype(np.float32))[:, None], torch.from_numpy(masks)[:, None]


def metrics_of(maps, masks, bins=None, batch=4):
    metric = PixelMetrics(bins=bins)
    for start in range(0, len(maps), batch):
        metric.update((maps[start : start + batch], masks[start : start + batch]))
    return metric.compute()


def make_volumes(seed=0):
    """Anomaly maps and masks (1,H,W,D) of three sizes, one of a single slice, one normal."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for shape, lesions in (((12, 10, 9), 4), ((14, 16, 1), 3), ((8, 9, 10), 0)):
        mask = np.zeros((1, *shape), np.uint8)
        for _ in range(lesions):
            corner = [rng.integers(0, max(n - 4, 1)) for n in shape]
            mask[0][tuple(slice(start, start + rng.integers(1, 4)) for start in corner)] = 1
        if lesions:
            mask[0, -2, -2, -1] = mask[0, -1, -1, -1] = 1
        z = ndimage.gaussian_filter(rng.normal(size=mask.shape), (0, 1, 1, 1)) * 4 + 1.5 * mask
        maps.append(torch.from_numpy(np.exp(z).astype(np.float32)))
        masks.append(torch.from_numpy(mask))
    return maps, masks


def flood_fill(mask):
    """8- or 26-connected regions as sets of pixels."""
    steps = list(itertools.product((-1, 0, 1), repeat=mask.ndim))
    left, regions = set(map(tuple, np.argwhere(mask).tolist())), []
    while left:
        region, edge = set(), {left.pop()}
        while edge:
            region |= edge
            edge = {tuple(np.add(pixel, step).tolist()) for pixel in edge for step in steps} & left
            left -= edge
        regions.append(region)
    return regions


def brute_force_aupro(maps, masks, limit=0.3):
    """By the definition: every threshold anew, then the area on a fine grid of FPR."""
    maps, masks = [item[0].numpy() for item in maps], [item[0].numpy() for item in masks]
    regions = [
        scores[tuple(zip(*region, strict=True))]
        for scores, mask in zip(maps, masks, strict=True)
        for region in flood_fill(mask)
    ]
    negatives = np.concatenate([scores[mask == 0] for scores, mask in zip(maps, masks, strict=True)])
    fpr, overlap = [0.0], [0.0]
    for threshold in np.unique(np.concatenate([scores.ravel() for scores in maps]))[::-1]:
        fpr.append((negatives >= threshold).mean())
        overlap.append(np.mean([(values >= threshold).mean() for values in regions]))
    area = 0.0
    for left, right, low, high in zip(fpr[:-1], fpr[1:], overlap[:-1], overlap[1:], strict=False):
        if left < limit and right > left:
            end = min(right, limit)
            area += (end - left) * (low + low + (high - low) * (end - left) / (right - left)) / 2
    return area / limit


def independent_metrics(maps, masks):
    scores, labels = (np.concatenate([np.ravel(item) for item in part]) for part in (maps, masks))
    precision, recall, _ = precision_recall_curve(labels, scores)
    return {
        "pixel_auroc": roc_auc_score(labels, scores),
        "pixel_ap": average_precision_score(labels, scores),
        "pixel_f1max": np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)),
        "pixel_aupro": brute_force_aupro(maps, masks),
    }


@pytest.mark.parametrize(
    "kind", ["long tail", "negative", "gaussian", "offset", "offset and zero", "ties", "signed zeros"]
)
def test_exact_form_equals_scikit_learn_and_brute_force(kind):
    maps, masks = make(kind=kind)

    metrics = metrics_of(maps, masks)

    assert list(metrics) == NAMES
    assert metrics == pytest.approx(independent_metrics(maps, masks), rel=1e-9)


@pytest.mark.parametrize("bins", [None, 65536])
def test_volumes_of_different_sizes_equal_scikit_learn_and_brute_force(bins):
    maps, masks = make_volumes()

    assert metrics_of(maps, masks, bins, batch=1) == pytest.approx(independent_metrics(maps, masks), rel=1e-9)


def test_a_volume_of_one_slice_is_an_image():
    maps, masks = make()

    assert metrics_of(maps[..., None], masks[..., None]) == metrics_of(maps, masks)


def test_regions_of_a_volume_touch_between_slices():
    # Two voxels that touch at a corner only, across slices, are one region, half found; in two volumes they are two.
    mask, found = torch.zeros(1, 3, 3, 2), torch.zeros(1, 3, 3, 2)
    mask[0, 0, 0, 0] = mask[0, 1, 1, 1] = found[0, 0, 0, 0] = 1
    elsewhere = torch.zeros(1, 3, 3, 2)
    elsewhere[0, 2, 2, 0] = 1
    metrics = metrics_of([found, torch.zeros_like(found)], [mask, elsewhere])

    assert metrics["pixel_aupro"] == pytest.approx(0.25 + 0.75 * 0.15, rel=1e-12)


@pytest.mark.parametrize("at_once", [1, 50, 1 << 20])
def test_streaming_folds_a_large_volume_in_parts(at_once, monkeypatch):
    monkeypatch.setattr("scripts.metrics.pixel_level.PIXELS_AT_ONCE", at_once)
    folded = []
    binned = PixelMetrics._binned
    monkeypatch.setattr(PixelMetrics, "_binned", lambda self, *a: folded.append(len(a[0])) or binned(self, *a))
    maps, masks = make_volumes()
    metrics = metrics_of(maps, masks, bins=200, batch=1)

    assert max(folded) <= at_once + 200
    monkeypatch.undo()
    assert metrics == pytest.approx(metrics_of(maps, masks, bins=200), rel=1e-12)


def test_aupro_by_hand():
    # Ten normal pixels; regions of 1 and of 4 pixels. Found first: the small region (overlap 1/2 at FPR 0), then one
    # false positive (FPR 0.1), half of the large region (3/4), and all else at once: a line from (0.1, 3/4) to (1, 1).
    mask = torch.tensor([[[1, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]])
    scores = torch.tensor([[[9.0, 8, 1, 1, 1], [1, 1, 1, 7, 7], [1, 1, 1, 1, 1]]])
    at_limit = 0.75 + 0.25 * 0.2 / 0.9
    expected = (0.1 * 0.5 + 0.2 * (0.75 + at_limit) / 2) / 0.3

    assert metrics_of([scores], [mask])["pixel_aupro"] == pytest.approx(expected, rel=1e-12)


def test_regions_touching_at_a_corner_are_one_and_images_are_kept_apart():
    diagonal = torch.tensor([[[1, 0, 0], [0, 1, 0], [0, 0, 0]]])
    full_row = torch.tensor([[[0, 0, 0], [0, 0, 0], [1, 0, 0]]])
    found = torch.tensor([[[5.0, 0, 0], [0, 0, 0], [0, 0, 0]]])
    # Two regions, one of them half found without a false positive: overlap 1/4; the rest comes with all negatives.
    metrics = metrics_of([found, torch.zeros(1, 3, 3)], [diagonal, full_row])

    assert metrics["pixel_aupro"] == pytest.approx(0.25 + 0.75 * 0.15, rel=1e-12)


@pytest.mark.parametrize("kind", ["long tail", "negative", "gaussian"])
def test_streaming_is_close_to_exact(kind, monkeypatch):
    monkeypatch.setattr("scripts.metrics.pixel_level.PIXELS_AT_ONCE", 20_000)
    maps, masks = make(images=20, size=96, kind=kind)
    exact, streamed = metrics_of(maps, masks), metrics_of(maps, masks, bins=65536)

    assert streamed != exact  # there are more distinct scores than bins
    assert streamed == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("kind", ["offset", "offset and zero", "ties"])
def test_streaming_is_exact_while_the_bins_suffice(kind):
    maps, masks = make(images=20, size=96, kind=kind)

    assert metrics_of(maps, masks, bins=65536) == pytest.approx(metrics_of(maps, masks), rel=1e-12)


def test_streaming_keeps_no_more_than_bins_and_does_not_depend_on_batches(monkeypatch):
    maps, masks = make(images=12, size=32)
    at_once = metrics_of(maps, masks, bins=200, batch=12)
    monkeypatch.setattr("scripts.metrics.pixel_level.PIXELS_AT_ONCE", 1)
    metric = PixelMetrics(bins=200)
    for i in torch.randperm(12, generator=torch.Generator().manual_seed(0)):
        metric.update((maps[i : i + 1], masks[i : i + 1]))
        assert 50 < len(metric._curve.score) <= 200
        assert not metric._waiting

    assert metric.compute() == pytest.approx(at_once, rel=1e-12)


@pytest.mark.parametrize("bins", [None, 65536])
def test_accepted_forms_of_a_batch(bins):
    maps, masks = make()
    expected = metrics_of(maps, masks)

    assert metrics_of(maps.double().requires_grad_(), masks.bool(), bins) == pytest.approx(expected)
    assert metrics_of(list(maps), list(masks.float()), bins) == pytest.approx(expected)
    assert metrics_of([MetaTensor(m) for m in maps], [MetaTensor(m) for m in masks], bins) == pytest.approx(expected)
    assert metrics_of(maps.bfloat16(), masks, bins) == pytest.approx(metrics_of(maps.bfloat16().float(), masks))


def test_images_of_different_sizes():
    (small, small_masks), (large, large_masks) = make(size=16), make(size=24, seed=1)
    maps, masks = [*small, *large], [*small_masks, *large_masks]
    scores, labels = (np.concatenate([np.ravel(x) for x in part]) for part in (maps, masks))

    assert metrics_of(maps, masks)["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), rel=1e-12)


def test_compute_can_be_repeated_and_reset_forgets():
    maps, masks = make()
    metric = PixelMetrics(bins=64)
    metric.update((maps + 7, masks))
    assert metric.compute() == metric.compute()
    metric.reset()
    metric.update((maps, masks))

    assert metric.compute() == metrics_of(maps, masks, bins=64)


def test_additional_metric_of_a_monai_evaluator():
    maps, masks = make()
    items = [{"image": m, "label": y} for m, y in zip(maps, masks, strict=False)]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items), batch_size=4),
        network=torch.nn.Identity(),
        key_val_metric={"pixel_aupro": PixelMetrics(from_engine(["pred", "label"]))},
    )
    evaluator.run()

    assert evaluator.state.metrics == metrics_of(maps, masks)
    assert evaluator.state.best_metric == evaluator.state.metrics["pixel_aupro"]


ONES, ZEROS = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (ONES, ZEROS, "pixel metrics need masks .* 0 pixels are anomalous and 16 normal"),
        (ONES, ONES, "16 pixels are anomalous and 0 normal"),
        (ONES, None, "pixel and lesion metrics need a mask for every image"),
        ([ONES[0], ONES[0]], [ZEROS[0], None], "pixel and lesion metrics need a mask for every image"),
        (ONES, ZEROS[:0], "1 anomaly maps but 0 masks"),
        (ONES, torch.zeros(1, 1, 4, 5), r"anomaly map \(1, 4, 4\) and mask \(1, 4, 5\)"),
        (torch.ones(1, 2, 4, 4), torch.ones(1, 2, 4, 4), r"must have one shape \(1,H,W\)"),
        (torch.ones(1, 2, 4, 4, 4), torch.ones(1, 2, 4, 4, 4), r"must have one shape \(1,H,W\) or \(1,H,W,D\)"),
        (torch.ones(1, 4, 4), torch.ones(1, 4, 4), r"anomaly map \(4, 4\) .* must have one shape"),
        (torch.ones(1, 1, 2, 2, 2, 2), torch.ones(1, 1, 2, 2, 2, 2), "must have one shape"),
        (ONES * torch.tensor([1, 1, torch.nan, torch.inf]), ZEROS, "8 NaN or infinite values of 16"),
        (1e300 * ONES.double(), ZEROS, "16 NaN or infinite values of 16"),
        (ONES, 255 * ONES, r"masks must hold 0 \(normal\) and 1 .* 16 of 16"),
    ],
)
@pytest.mark.parametrize("bins", [None, 256])
def test_bad_input_says_what_is_wrong(maps, masks, message, bins):
    metric = PixelMetrics(bins=bins)
    with pytest.raises(ValueError, match=message):
        metric.update((maps, masks))
        metric.compute()


def test_no_batch_at_all_and_too_few_bins():
    with pytest.raises(ValueError, match="pixel metrics need masks"):
        PixelMetrics().compute()
    with pytest.raises(ValueError, match="bins must be at least 2"):
        PixelMetrics(bins=1)


RANK = """
import json, sys, torch
import torch.distributed as dist
from scripts.metrics import PixelMetrics
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
data = torch.load(sys.argv[3])
results = []
for bins in (None, 100):
    for cut in (1, 4, 6):
        metric = PixelMetrics(bins=bins)
        part = slice(0, cut) if rank == 0 else slice(cut, 6)
        metric.update((data["maps"][part], data["masks"][part]))
        results.append(metric.compute())
print(json.dumps(results))
dist.destroy_process_group()
"""


def test_two_ranks_with_unequal_numbers_of_images_equal_one(two_ranks):
    maps, masks = make()
    expected = [metrics_of(maps, masks, bins) for bins in (None, 100) for _ in range(3)]
    for lines in two_ranks(RANK, maps=maps, masks=masks):
        for metrics, one_rank in zip(json.loads(lines[-1]), expected, strict=True):
            assert metrics == pytest.approx(one_rank, rel=1e-12)
