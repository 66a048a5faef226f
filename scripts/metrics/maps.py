"""Anomaly maps and their masks as the metrics take them: images (1, H, W) and volumes (1, H, W, D)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage


def checked_pairs(maps: Sequence[Any], masks: Sequence[Any] | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields each map as float32 and its mask as booleans, both without the channel, (H, W) or (H, W, D).

    Args:
        maps: Anomaly maps: a tensor (B, 1, H, W) or (B, 1, H, W, D), or a list of B tensors (1, H, W) or (1, H, W, D)
            whose sizes may differ.
        masks: Masks in the same form, holding 0 and 1.

    Raises:
        ValueError: If a mask is missing, differs in shape from its map or holds anything but 0 and 1, or a map is not
            finite or neither two- nor three-dimensional.
    """
    if masks is None or any(mask is None for mask in masks):
        raise ValueError(
            "pixel and lesion metrics need a mask for every image (all zero for a normal one), but some are missing: "
            "add them to the datalist or leave these metrics out"
        )
    if len(maps) != len(masks):
        raise ValueError(f"{len(maps)} anomaly maps but {len(masks)} masks: each image needs one of each")
    for scores, mask in zip(maps, masks, strict=True):
        scores, mask = torch.as_tensor(scores), torch.as_tensor(mask)
        if scores.shape != mask.shape or scores.ndim not in (3, 4) or scores.shape[0] != 1:
            raise ValueError(
                f"anomaly map {tuple(scores.shape)} and mask {tuple(mask.shape)} must have one shape "
                "(1,H,W) or (1,H,W,D)"
            )
        yield _finite(scores[0].detach().float().cpu().numpy()), _binary(mask[0].detach().cpu().numpy())


def regions(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers the connected regions of a mask from 1, with 0 outside, and counts them.

    Pixels are neighbours if they touch, even at a corner: 8 neighbours in (H, W) and (H, W, 1), 26 in (H, W, D).
    """
    return ndimage.label(mask, np.ones((3,) * mask.ndim))


def _finite(scores: np.ndarray) -> np.ndarray:
    if wrong := np.count_nonzero(~np.isfinite(scores)):
        raise ValueError(
            f"an anomaly map holds {wrong} NaN or infinite values of {scores.size}; look at the model's output"
        )
    return scores


def _binary(mask: np.ndarray) -> np.ndarray:
    if wrong := np.count_nonzero((mask != 0) & (mask != 1)):
        raise ValueError(f"masks must hold 0 (normal) and 1 (anomalous) only, {wrong} of {mask.size} pixels do not")
    return mask != 0
