import json

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine
from monai.metrics import (
    compute_dice,
    compute_fp_tp_probs_nd,
    compute_froc_curve_data,
    compute_froc_score,
)
from scipy import ndimage

from scripts.metrics import VolumeMetrics
from scripts.metrics.lesions import froc_points

RATES = (0.125, 0.25, 0.5, 1, 2, 4, 8)
SENSITIVITIES = [f"lesion_sensitivity_at_{rate:g}_fp" for rate in RATES]


def metrics_of(maps, masks, **options):
    metric = VolumeMetrics(**options)
    metric.update((maps, masks))
    return metric.compute()


def scan(shape, peaks, lesions=(), background=0.0):
    """A map that is flat but for single voxels {index: value}, and a mask of boxes ((from, to), ...)."""
    anomaly_map, mask = torch.full((1, *shape), background), torch.zeros(1, *shape, dtype=torch.uint8)
    for index, value in peaks.items():
        anomaly_map[(0, *index)] = value
    for box in lesions:
        mask[(0, *(slice(*edges) for edges in box))] = 1
    return anomaly_map, mask


def scans(number=5, shape=(24, 20, 16), seed=0):
    """Random maps and masks; every second scan holds lesions."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for i in range(number):
        mask = np.zeros((1, *shape), np.uint8)
        for _ in range(6 * (i % 2 == 0)):
            corner = [rng.integers(0, max(n - 4, 1)) for n in shape]
            mask[0][tuple(slice(start, start + 3) for start in corner)] = 1
        noise = ndimage.gaussian_filter(rng.normal(size=mask.shape), (0, 1.5, 1.5, min(1.5, shape[2] - 1)))
        maps.append(torch.from_numpy((1 + np.exp(8 * noise + 0.5 * mask)).astype(np.float32)))
        masks.append(torch.from_numpy(mask))
    return maps, masks


def brute_force_detections(scores, reach):
    """Voxels that are strictly the highest in the box around them."""
    found = []
    for index in np.ndindex(scores.shape):
        box = scores[tuple(slice(max(i - r, 0), i + r + 1) for i, r in zip(index, reach, strict=True))]
        if scores[index] == box.max() and (box == box.max()).sum() == 1:
            found.append((scores[index], index))
    return np.array([score for score, _ in found]), np.array([index for _, index in found])


def monai_froc(maps, masks, reach):
    false, true, targets = [], [], 0
    for anomaly_map, mask in zip(maps, masks, strict=True):
        evaluation_mask, _ = ndimage.label(mask[0].numpy(), np.ones((3, 3, 3)))
        probs, coords = brute_force_detections(anomaly_map[0].numpy(), reach)
        fp, tp, count = compute_fp_tp_probs_nd(probs, coords, evaluation_mask)
        false, true, targets = [*false, *fp], [*true, *tp], targets + count
    assert 0 in true  # a missed lesion, without which MONAI drops the lowest score
    curve = compute_froc_curve_data(np.array(false), np.array(true), targets, len(maps))
    return [compute_froc_score(*curve, (rate,)) for rate in RATES], compute_froc_score(*curve, RATES)


@pytest.mark.parametrize("shape", [(24, 20, 16), (40, 36, 1)], ids=["volumes", "single slices"])
@pytest.mark.parametrize("distance", [1.0, 3.0])
def test_froc_equals_monai_on_detections_found_by_brute_force(shape, distance):
    maps, masks = scans(shape=shape)
    sensitivities, froc = monai_froc(maps, masks, [int(distance)] * 3)
    metrics = metrics_of(maps, masks, distance=distance)

    assert list(metrics) == ["froc", *SENSITIVITIES]
    assert [metrics[name] for name in SENSITIVITIES] == pytest.approx(sensitivities, rel=1e-6)
    assert metrics["froc"] == pytest.approx(froc, rel=1e-6)
    assert 0 < metrics["froc"] < 1


@pytest.mark.parametrize("transform", [lambda m: m - 60, lambda m: -1 / m, torch.log])
def test_froc_does_not_depend_on_the_scale_of_the_map(transform):
    maps, masks = scans()
    maps = [torch.round(100 * m) / 128 for m in maps]  # so that float32 keeps the order

    expected = metrics_of(maps, masks)
    assert metrics_of([transform(m.double()) for m in maps], masks) == pytest.approx(expected)


def test_dice_equals_monai():
    maps, masks = scans()
    threshold = float(np.percentile(np.concatenate([m.numpy().ravel() for m in maps]), 97))
    found = torch.stack([(m > threshold).float() for m in maps])
    expected = compute_dice(found, torch.stack(masks).float())  # NaN for normal scans
    metrics = metrics_of(maps, masks, threshold=threshold)

    assert torch.isnan(expected).sum() == 2
    assert metrics["dice"] == pytest.approx(torch.nanmean(expected).item())


def test_froc_by_hand():
    # Two scans, three lesions. By score: lesion 9 found, false 8, the same lesion again 7, false 6, lesion 5 found.
    first = scan((30, 30, 9), {(2, 2, 2): 9, (2, 9, 2): 7, (20, 20, 4): 8}, [((1, 4), (1, 12), (1, 4))])
    second = scan(
        (20, 40, 9), {(5, 5, 4): 5, (15, 30, 4): 6}, [((4, 7), (4, 7), (3, 6)), ((18, 20), (0, 3), (0, 2))], -100.0
    )
    maps, masks = zip(first, second, strict=True)
    metrics = metrics_of(maps, masks)

    # (false positives a scan, sensitivity): (0, 1/3), (1/2, 1/3), (1, 1/3), (1, 2/3); the flat rest of the first scan
    # adds a false one at 0, that of the second at -100.
    assert [metrics[name] for name in SENSITIVITIES] == pytest.approx([1 / 3] * 3 + [2 / 3] * 4)
    assert metrics["froc"] == pytest.approx(11 / 21)


def test_points_of_the_froc_curve_by_hand():
    # Of four lesions in two scans: one at 9, a false one and a lesion at 8, false ones at 7 and 1.
    false_positives, sensitivity = froc_points(np.array([7, 9, 8, 8, 1]), np.array([0, 1, 0, 1, 0]), 4, 2)

    np.testing.assert_array_equal(false_positives, [0, 0, 0.5, 1, 1.5])
    np.testing.assert_array_equal(sensitivity, [0, 0.25, 0.5, 0.5, 0.5])
    for found, lesions, number in (([0], 0, 2), ([0], 2, 0), ([1], 0, 2)):
        with pytest.raises(ValueError, match=f"FROC is not defined: {found[0]} of {lesions} .* in {number} scans"):
            froc_points(np.array([1.0]), np.array(found), lesions, number)


def test_sensitivity_between_two_false_positive_rates_is_interpolated():
    # One scan, two lesions: false at 9, then at one score a lesion and a false one: from (1, 0) to (2, 1/2).
    anomaly_map, mask = scan((30, 60), {(5, 5): 9, (5, 25): 5, (20, 40): 5}, [((4, 7), (24, 27)), ((28, 30), (58, 60))])
    metrics = VolumeMetrics()
    metrics.update(([anomaly_map] * 2, [mask, torch.zeros_like(mask)]))
    # The second scan has three false detections: (1, 0) at 9, (5/2, 1/2) at 5.
    result = metrics.compute()

    assert result["lesion_sensitivity_at_1_fp"] == 0
    assert result["lesion_sensitivity_at_2_fp"] == pytest.approx(0.5 / 1.5)
    assert result["lesion_sensitivity_at_4_fp"] == 0.5


def test_a_single_found_lesion_is_found():
    metrics = metrics_of(*zip(scan((9, 9, 9), {(4, 4, 4): -3.0}, [((3, 6),) * 3], background=-5.0), strict=True))

    assert metrics["froc"] == 1


def test_lesions_touching_at_a_corner_are_one():
    peaks = {(2, 2, 2): 1.0}
    touching = [((1, 3),) * 3, ((3, 5),) * 3]
    apart = [((1, 3),) * 3, ((4, 6),) * 3]

    assert metrics_of(*zip(scan((12, 12, 12), peaks, touching), strict=True))["froc"] == 1
    assert metrics_of(*zip(scan((12, 12, 12), peaks, apart), strict=True))["froc"] == 0.5


def test_a_plateau_is_one_detection_and_a_flat_map_too():
    anomaly_map, mask = scan((20, 20, 20), {}, [((18, 20),) * 3])
    anomaly_map[0, 3:9, 3:9, 3:9] = 2
    metric = VolumeMetrics()
    metric.update(([anomaly_map, torch.zeros_like(anomaly_map)], [mask, torch.zeros_like(mask)]))

    assert [len(scan.scores) for scan in metric.scans] == [2, 1]  # of the first, the plateau and the flat rest


def test_distance_is_in_millimetres_of_the_maps_affine():
    # Peaks 6 voxels apart: one detection within 5 mm voxels of 0.5 mm, two with voxels of 2 mm or without a spacing.
    anomaly_map, mask = scan((20, 20, 3), {(4, 4, 1): 2.0, (10, 4, 1): 1.0}, [((0, 20), (0, 20), (0, 3))])

    def detections(values):
        metric = VolumeMetrics()
        metric.update(([values], [torch.zeros_like(mask)]))
        return metric.scans[0].scores.tolist()

    fine, coarse = (torch.diag(torch.tensor([spacing, 1, 1, 1])) for spacing in (0.5, 2.0))
    assert detections(MetaTensor(anomaly_map, affine=fine)) == [2, 0]
    assert detections(MetaTensor(anomaly_map, affine=coarse)) == [2, 1, 0]
    assert detections(anomaly_map) == [2, 1, 0]


def test_dice_and_clean_scans_by_hand():
    lesion = [((0, 2), (0, 2))]
    half = scan((4, 4), {(0, 0): 5.01, (0, 1): 6, (3, 3): 7, (3, 2): 5}, lesion)  # 2 * 2 / (3 + 4)
    missed = scan((4, 4), {}, lesion)
    clean, alarm = scan((4, 4), {(1, 1): 5}), scan((4, 4), {(1, 1): 5.01})
    maps, masks = zip(half, missed, clean, alarm, clean, strict=True)
    metrics = metrics_of(maps, masks, threshold=5)

    assert list(metrics) == ["dice", "normal_scans_clean", "froc", *SENSITIVITIES]
    assert metrics["dice"] == pytest.approx((4 / 7 + 0) / 2)
    assert metrics["normal_scans_clean"] == pytest.approx(2 / 3)


def test_what_is_not_defined_is_nan_and_logged(caplog):
    normal, lesion = scan((4, 4, 4), {}), scan((4, 4, 4), {}, [((1, 2),) * 3])

    metrics = metrics_of(*zip(normal, strict=True), threshold=1)
    assert metrics["normal_scans_clean"] == 1
    assert all(np.isnan(metrics[name]) for name in ("dice", "froc", *SENSITIVITIES))
    assert "none of the 1 scans has a lesion: dice, froc, lesion_sensitivity_at_0.125_fp" in caplog.text

    caplog.clear()
    metrics = metrics_of(*zip(lesion, strict=True), threshold=1)
    assert [name for name, value in metrics.items() if np.isnan(value)] == ["normal_scans_clean"]
    assert "none of the 1 scans is without a lesion: normal_scans_clean." in caplog.text


def test_batches_do_not_matter_and_reset_forgets():
    maps, masks = scans()
    metric = VolumeMetrics(threshold=2)
    metric.update((maps[:1], masks[:1]))
    metric.reset()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metric.update(([anomaly_map], [mask.float()]))

    assert metric.compute() == metric.compute() == metrics_of(maps, masks, threshold=2)


def test_additional_metric_of_a_monai_evaluator():
    maps, masks = scans()
    items = [{"image": m, "label": y} for m, y in zip(maps, masks, strict=True)]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items), batch_size=1),
        network=torch.nn.Identity(),
        key_val_metric={"froc": VolumeMetrics(from_engine(["pred", "label"]), threshold=2)},
    )
    evaluator.run()

    assert evaluator.state.metrics == metrics_of(maps, masks, threshold=2)
    assert all(type(value) is float for value in evaluator.state.metrics.values())


VOLUME = torch.ones(1, 4, 4, 4)


def test_without_a_threshold_there_is_no_dice():
    metric = VolumeMetrics()
    metric.update(([VOLUME], [VOLUME]))
    assert "dice" not in metric.compute()


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        ([], [], "at least one scan"),
        ([VOLUME], None, "need a mask for every image"),
        ([VOLUME], [None], "need a mask for every image"),
        ([VOLUME], [VOLUME[..., :2]], r"anomaly map \(1, 4, 4, 4\) and mask \(1, 4, 4, 2\)"),
        ([VOLUME, VOLUME], [VOLUME], "2 anomaly maps but 1 masks"),
        ([VOLUME * torch.nan], [VOLUME], "64 NaN or infinite values of 64"),
        ([VOLUME], [2 * VOLUME], "64 of 64 pixels do not"),
    ],
)
def test_bad_input_says_what_is_wrong(maps, masks, message):
    with pytest.raises(ValueError, match=message):
        metrics_of(maps, masks)


def test_a_negative_distance():
    with pytest.raises(ValueError, match="distance between detections must not be negative, got -1"):
        VolumeMetrics(distance=-1)


RANK = """
import json, sys, torch
import torch.distributed as dist
from scripts.metrics import PatientMetrics, VolumeMetrics
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
data = torch.load(sys.argv[3])
part = slice(0, 4) if rank == 0 else slice(4, 5)
volumes, patients = VolumeMetrics(threshold=2), PatientMetrics()
volumes.update((data["maps"][part], data["masks"][part]))
patients.update((data["scores"][part], data["labels"][part], data["groups"][part]))
print(json.dumps([volumes.compute(), patients.compute()]))
dist.destroy_process_group()
"""


def test_two_ranks_with_unequal_numbers_of_scans_equal_one(two_ranks):
    maps, masks = scans()
    # Patient b has scans on both ranks; only together do they tell his score.
    patients = {"scores": [1.0, 2.0, 4.0, 3.0, 5.0], "labels": [0, 1, 0, 1, 0], "groups": ["a", "b", "c", "d", "b"]}
    # a 1 normal, b 5 anomalous, c 4 normal, d 3 anomalous
    expected = [metrics_of(maps, masks, threshold=2), {"patient_auroc": 0.75, "patient_ap": (1 + 2 / 3) / 2}]
    for lines in two_ranks(RANK, maps=maps, masks=masks, **patients):
        assert json.loads(lines[-1]) == [pytest.approx(part) for part in expected]
