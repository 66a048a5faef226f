"""From anomaly maps to scores, masks and labels."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from scripts.anomaly_map import scan_score
from scripts.threshold import Threshold
from scripts.transforms import AnomalyMaskd, AnomalyScored, SliceLabelsd


@pytest.mark.parametrize(("pooling", "expected"), [("max", 3.0), ("mean", 1.5)])
def test_the_score_of_an_image_is_its_pooled_map(pooling: str, expected: float) -> None:
    pred = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])[..., None]
    data = AnomalyScored(pooling)({"pred": pred, "image": torch.ones(3, 2, 2, 1)})
    assert data["score"].item() == expected
    assert data["slice_scores"].tolist() == [expected]


@pytest.mark.parametrize(
    ("rule", "expected"), [("max", 5.0), ("top_1", 5.0), ("top_2", 4.0), ("top_9", 2.75), ("percentile_100", 5.0)]
)
def test_the_score_of_a_scan_is_that_of_its_slices_by_the_rule(rule: str, expected: float) -> None:
    maps = torch.zeros(4, 2, 2)
    maps[:, 0, 0] = torch.tensor([1.0, 5.0, 2.0, 3.0])
    assert scan_score(maps, maps.amax((1, 2)), maps > 0, rule).item() == pytest.approx(expected)


def test_a_percentile_is_that_of_the_foreground_as_numpy_has_it() -> None:
    maps = torch.randn(3, 8, 9, generator=torch.Generator().manual_seed(0))
    foreground = torch.zeros_like(maps, dtype=torch.bool)
    foreground[1, 2:5, 3:8] = True
    score = scan_score(maps, maps.amax((1, 2)), foreground, "percentile_90.5").item()
    assert score == pytest.approx(np.percentile(maps[1, 2:5, 3:8].numpy(), 90.5))


@pytest.mark.parametrize("rule", ["best", "top_0", "top_", "percentile_101", "percentile_x", "max_2"])
def test_an_unknown_rule_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match=f"top_N.*got '{rule}'"):
        scan_score(torch.ones(1, 1, 1), torch.ones(1), torch.ones(1, 1, 1) > 0, rule)


def test_outside_the_foreground_nothing_is_anomalous_and_holes_belong_to_it() -> None:
    image = torch.zeros(3, 5, 5, 2)
    image[0, 1:4, 1:4, 0] = 0.5
    image[0, 2, 2, 0] = 0  # a dark lesion
    data = AnomalyScored(foreground_only=True)({"pred": torch.full((1, 5, 5, 2), 7.0), "image": image})
    expected = torch.zeros(5, 5)
    expected[1:4, 1:4] = 7
    assert torch.equal(data["pred"][0, ..., 0], expected)
    assert data["slice_scores"].tolist() == [7, 0]
    assert data["top_slices"].tolist() == [0, 1]


def test_the_mask_is_what_lies_above_the_threshold() -> None:
    data = {"pred": torch.zeros(1), "anomaly_map": torch.tensor([[[[1.0, 2.0, 3.0]]]])}
    mask = AnomalyMaskd(Threshold(2.0))(data)["pred"]
    assert mask.dtype == torch.uint8
    assert mask.tolist() == [[[[0, 0, 1]]]]
    assert "pred" not in AnomalyMaskd(Threshold())(data)


def test_slices_are_labelled_by_the_area_of_their_mask() -> None:
    truth = torch.zeros(1, 4, 4, 3)
    truth[0, 0, :2, 1] = 1  # 2 pixels of 2 mm x 3 mm
    truth[0, :, :, 2] = 1
    truth = MetaTensor(truth, affine=np.diag([2.0, 3.0, 5.0, 1.0]))
    data = {"ground_truth": truth, "slice_scores": torch.arange(3.0), "score": torch.tensor(2.0), "label": 1, "group": "P1"}
    assert SliceLabelsd()(data)["image_labels"].tolist() == [0, 1, 1]
    assert SliceLabelsd()(data)["patient"] == "P1"
    assert SliceLabelsd(min_area=12)(data)["image_labels"].tolist() == [0, 1, 1]
    assert SliceLabelsd(min_area=12.1)(data)["image_labels"].tolist() == [0, 0, 1]
    del data["ground_truth"]
    assert SliceLabelsd()(data)["image_labels"].tolist() == [1]
    assert SliceLabelsd()(data)["image_scores"].tolist() == [2]
