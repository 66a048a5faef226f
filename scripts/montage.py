"""A picture of a scan's most anomalous slices, as radiologists look at them: plain and with the anomaly map over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from scripts.data.planes import AXCODES, check_plane
from scripts.figures import COLOUR_MAP, DPI, SKY, WIDTH, overlay

NOTICE = "Research use only, not for clinical use"
BAR = 1.3  # inches, of the colour bar and the gaps
TALLEST = 2.0  # height of a panel over its width; longer slices leave room at their sides
OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


def montage(
    image: np.ndarray,
    anomaly_map: np.ndarray,
    mask: np.ndarray | None,
    slices: Sequence[int],
    scores: Sequence[float],
    display_range: tuple[float, float],
    pixel_aspect: float = 1.0,
    title: str = "",
    plane: str | None = None,
) -> Figure:
    """Each slice beside its overlay with the outline of the mask, two slices a row, 1000 pixels wide.

    It shows no more of a patient than the image and what stands in `title`.

    Args:
        image: (H, W, N) in [0, 1], rows, columns and the slices to be shown, in the display orientation of `plane`.
        anomaly_map: (H, W, N), finite.
        mask: (H, W, N), 0 or 1, or None.
        slices: their N numbers in the scan; about six are readable.
        scores: one a slice.
        display_range: anomaly values at which the colours begin and end.
        pixel_aspect: height over width of a pixel: the spacing of the rows over that of the columns.
        title: above all.
        plane: axial, coronal or sagittal, for the letters of the patient's sides; None (an image) gives none.

    Raises:
        ValueError: when the arrays differ in shape, the map is not finite, the range is empty, or there is not a
            number and a score for each of at least one slice; or there is no such plane.
    """
    _check(image, anomaly_map, mask, slices, scores)
    if plane is not None:
        check_plane(plane)
    low, high = display_range
    pairs = min(2, len(slices))
    rows = -(-len(slices) // pairs)
    panel = (WIDTH - BAR) / (2 * pairs)
    height = panel * min(pixel_aspect * image.shape[0] / image.shape[1], TALLEST) + 0.35
    figure = Figure(figsize=(WIDTH, rows * height + (1.0 if title else 0.5)), dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, 2 * pairs, squeeze=False)
    figure.suptitle(title, fontsize=16)
    figure.supxlabel(NOTICE, fontsize=12)
    for axes in grid.flat:
        axes.set_axis_off()
    for (plain, both), index, number, score in zip(
        grid.reshape(-1, 2), range(len(slices)), slices, scores, strict=False
    ):
        plain.imshow(np.clip(image[..., index], 0, 1), cmap="gray", vmin=0, vmax=1, aspect=pixel_aspect)
        plain.set_title(f"Slice {number}", fontsize=13)
        both.imshow(overlay(image[..., index], anomaly_map[..., index], low, high), aspect=pixel_aspect)
        both.set_title(f"Score {score:.4g}", fontsize=13)
        if mask is not None and 0 < np.mean(mask[..., index]) < 1:
            both.contour(mask[..., index], levels=[0.5], colors=SKY, linewidths=1.2)
        if plane is not None:
            _name_sides(plain, plane)
            _name_sides(both, plane)
    bar = figure.colorbar(ScalarMappable(Normalize(low, high), COLOUR_MAP), ax=grid, extend="both", pad=0.01)
    bar.set_label("Anomaly map", fontsize=12)
    bar.ax.tick_params(labelsize=11)
    return figure


def _check(
    image: np.ndarray, anomaly_map: np.ndarray, mask: np.ndarray | None, slices: Sequence[int], scores: Sequence[float]
) -> None:
    shapes = [np.shape(array) for array in (image, anomaly_map, *([] if mask is None else [mask]))]
    if len(set(shapes)) > 1 or len(shapes[0]) != 3:
        raise ValueError(f"image, anomaly map and mask must have one shape (H, W, D), not {shapes}")
    if not len(slices) or not len(slices) == len(scores) == shapes[0][2]:
        raise ValueError(
            f"a montage needs a number and a score for each slice, not {len(slices)} and {len(scores)} for "
            f"{shapes[0][2]}"
        )


def _name_sides(axes: Axes, plane: str) -> None:
    """Writes which sides of the patient lie at the top and at the left of the picture."""
    top, left = OPPOSITE[AXCODES[plane][0]], OPPOSITE[AXCODES[plane][1]]
    look: dict[str, Any] = {
        "color": "white",
        "fontsize": 11,
        "fontweight": "bold",
        "transform": axes.transAxes,
        "path_effects": [withStroke(linewidth=2, foreground="black")],
    }
    axes.text(0.5, 0.98, top, ha="center", va="top", **look)
    axes.text(0.02, 0.5, left, ha="left", va="center", **look)
