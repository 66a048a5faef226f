"""Anomaly maps from the features of teachers and students, and anomaly scores from maps."""

import re

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TRUNCATE = 4.0  # radius of the Gaussian's kernel in sigmas, as in scipy.ndimage.gaussian_filter


class AnomalyMap(nn.Module):
    """Sums ``1 - cosine`` over levels and students at the size of the image, then smooths (RD4AD, equations 2 and 3).

    Args:
        sigma: Standard deviation of the Gaussian, in pixels of the network's input; 0 turns smoothing off.

    Raises:
        ValueError: If ``sigma`` is negative.

    >>> target = torch.ones(1, 8, 2, 2)
    >>> AnomalyMap(sigma=0)([target], [[target], [-target]], size=(4, 4))[0, 0, 0]
    tensor([2., 2., 2., 2.])
    """

    kernel: Tensor

    def __init__(self, sigma: float = 4.0) -> None:
        super().__init__()
        if sigma < 0:
            raise ValueError(f"sigma must not be negative, got {sigma}.")
        radius = int(TRUNCATE * sigma + 0.5)
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (offsets / max(sigma, 1e-6)) ** 2)
        self.register_buffer("kernel", (kernel / kernel.sum()).float(), persistent=False)

    def forward(self, targets: list[Tensor], students: list[list[Tensor]], size: tuple[int, int]) -> Tensor:
        """Computes maps from features (B, C_i, H_i, W_i): (B, 1, *size) float32, in [0, 2 x levels x students]."""
        distances = [
            1 - F.cosine_similarity(target.float(), feature.float(), dim=1).unsqueeze(1)
            for student in students
            for target, feature in zip(targets, student, strict=True)
        ]
        # Levels differ in size, so each is resized to that of the image before the sum.
        maps = [F.interpolate(distance, size=size, mode="bilinear", align_corners=True) for distance in distances]
        return self.smooth(torch.stack(maps).sum(0))

    def smooth(self, x: Tensor) -> Tensor:
        """Smooths maps (B, 1, H, W) by the Gaussian, reflected at the edges as in scipy."""
        radius = self.kernel.numel() // 2
        kernel = self.kernel.to(x.dtype)
        x = F.conv2d(_mirror(x, radius), kernel.view(1, 1, 1, -1))
        x = F.conv2d(_mirror(x.transpose(2, 3), radius), kernel.view(1, 1, 1, -1))
        return x.transpose(2, 3)


def _mirror(x: Tensor, radius: int) -> Tensor:
    """Pads the last axis by reflection, including the edge itself (scipy's default)."""
    if radius == 0:
        return x
    return torch.cat([x[..., :radius].flip(-1), x, x[..., -radius:].flip(-1)], dim=-1)


def anomaly_score(anomaly_map: Tensor, pooling: str = "max") -> Tensor:
    """Anomaly score of each image: (B, 1, H, W) -> (B,).

    Args:
        anomaly_map: Anomaly maps, (B, 1, H, W).
        pooling: ``"max"`` of the map (PDD, RD4AD), its ``"mean"`` (SCRD4AD), or ``"top_P%"``, the mean of its highest
            P % (at least one pixel).

    Raises:
        ValueError: If there is no such pooling.

    >>> anomaly_score(torch.tensor([[[[1.0, 3.0, 5.0, 0.0]]]]), "top_50%")
    tensor([4.])
    """
    flat = anomaly_map.flatten(1)
    if pooling == "max":
        return flat.amax(1)
    if pooling == "mean":
        return flat.mean(1)
    if (share := _percent(pooling)) is not None:
        return flat.topk(max(1, round(share * flat.shape[1] / 100)), 1).values.mean(1)
    raise ValueError(f"Score pooling must be 'max', 'mean' or 'top_P%' (P in 0..100), got '{pooling}'.")


def scan_score(maps: Tensor, slice_scores: Tensor, foreground: Tensor, rule: str = "max") -> Tensor:
    """Anomaly score of a whole scan.

    Args:
        maps: Anomaly maps of the slices, (D, H, W).
        slice_scores: Anomaly scores of the slices, (D,).
        foreground: Foreground of the scan, (D, H, W), bool.
        rule: ``"max"`` of the slice scores; their ``"mean"`` over the slices with foreground; ``"top_N"``, the mean of
            their N highest; ``"top_P%"``, the mean of the highest P % of the slices with foreground; or
            ``"percentile_P"`` of the maps inside the foreground. Without any foreground all counts.

    Returns:
        Score, 0-dimensional.

    Raises:
        ValueError: If there is no such rule.

    >>> scan_score(torch.rand(3, 4, 4), torch.tensor([1.0, 5.0, 3.0]), torch.ones(3, 4, 4, dtype=bool), "top_2")
    tensor(4.)
    """
    name, _, number = rule.partition("_")
    if rule == "max":
        return slice_scores.max()
    filled = foreground.flatten(1).any(1)
    inside = slice_scores[filled] if filled.any() else slice_scores
    if rule == "mean":
        return inside.mean()
    if (share := _percent(rule)) is not None:
        return inside.topk(max(1, round(share * len(inside) / 100))).values.mean()
    if name == "top" and number.isdigit() and int(number) > 0:
        return slice_scores.topk(min(int(number), len(slice_scores))).values.mean()
    if name == "percentile" and number.replace(".", "", 1).isdigit() and float(number) <= 100:
        values = maps[foreground] if foreground.any() else maps
        return torch.tensor(np.percentile(values.cpu().numpy(), float(number)), dtype=maps.dtype)
    raise ValueError(
        f"Scan pooling must be 'max', 'mean', 'top_N', 'top_P%' or 'percentile_P' (P in 0..100), got '{rule}'."
    )


def _percent(rule: str) -> float | None:
    """P of ``"top_P%"``, in (0, 100]; None of other rules."""
    match = re.fullmatch(r"top_(\d+(?:\.\d+)?)%", rule)
    return float(match[1]) if match and 0 < float(match[1]) <= 100 else None
