"""The anomaly map against scipy and closed forms."""

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F

from scripts.anomaly_map import AnomalyMap, anomaly_score


@pytest.mark.parametrize("sigma", [1.0, 4.0])
def test_smoothing_is_scipys(sigma: float) -> None:
    x = torch.rand(2, 1, 48, 70, dtype=torch.float64)
    smooth = AnomalyMap(sigma).double().smooth(x)
    expected = np.stack([scipy.ndimage.gaussian_filter(image, sigma) for image in x[:, 0].numpy()])
    np.testing.assert_allclose(smooth[:, 0].numpy(), expected, atol=1e-6)


def test_sums_cosine_distances_of_all_levels_and_students() -> None:
    torch.manual_seed(0)
    targets = [torch.randn(1, 5, 16, 16), torch.randn(1, 7, 8, 8)]
    students = [[torch.randn_like(t) for t in targets] for _ in range(2)]
    expected = torch.zeros(1, 1, 32, 32)
    for student in students:
        for t, s in zip(targets, student, strict=True):
            cosine = (t * s).sum(1) / (t.norm(dim=1) * s.norm(dim=1))
            expected += F.interpolate(1 - cosine[:, None], size=(32, 32), mode="bilinear", align_corners=True)
    torch.testing.assert_close(AnomalyMap(sigma=0.0)(targets, students, (32, 32)), expected, rtol=1e-5, atol=1e-6)


def test_perfect_students_see_no_anomaly_and_opposite_ones_the_most() -> None:
    targets = [torch.rand(1, 4, 8, 8) + 0.1, torch.rand(1, 4, 4, 4) + 0.1]
    same = AnomalyMap()(targets, [targets, targets], (64, 64))
    opposite = AnomalyMap()(targets, [[-t for t in targets]] * 2, (64, 64))
    torch.testing.assert_close(same, torch.zeros(1, 1, 64, 64), rtol=0, atol=1e-6)
    torch.testing.assert_close(opposite, torch.full((1, 1, 64, 64), 8.0), rtol=1e-5, atol=0)


def test_score_pools_each_image_by_itself() -> None:
    maps = torch.tensor([[[[0.0, 1.0], [2.0, 5.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    assert anomaly_score(maps).tolist() == [5.0, 1.0]
    assert anomaly_score(maps, "mean").tolist() == [2.0, 1.0]
    with pytest.raises(ValueError, match="'max', 'mean' or 'top_P%'.*got 'sum'"):
        anomaly_score(maps, "sum")


def test_a_negative_sigma_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        AnomalyMap(-1)
