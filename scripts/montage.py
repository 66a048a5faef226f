"""Picture of a scan's most anomalous slices in radiological orientation, with and without the anomaly map."""

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
from scripts.results.result import NOTICE

BAR = 1.3  # width of the colour bar and the gaps, in inches
TALLEST = 2.0  # maximum height of a panel divided by its width; taller slices leave space at their sides
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
    """Draws each slice beside its overlay with the outline of the mask, two slices a row, 1000 pixels wide.

    Nothing identifies the patient except the image itself and `title`.

    Args:
        image: Slices to show, (H, W, N), in [0, 1], rows, columns and slices in the display orientation of `plane`.
        anomaly_map: Anomaly maps of the slices, (H, W, N), finite.
        mask: Masks of the slices, (H, W, N), 0 or 1; None where there is none.
        slices: Numbers of the N slices within the scan; about six slices stay legible.
        scores: Anomaly scores of the N slices.
        display_range: Values of the map at which the colours begin and end.
        pixel_aspect: Height of a pixel divided by its width, that is, row spacing divided by column spacing.
        title: Title of the figure.
        plane: axial, coronal or sagittal, which decides the letters for the patient's sides; None (an image file)
            shows no letters.

    Raises:
        ValueError: If the arrays differ in shape, there are no slices, numbers or scores are missing or too many, the
            map is not finite, the range is empty, or there is no such plane.

    >>> slices = np.random.default_rng(0).random((16, 12, 3))
    >>> figure = montage(slices, slices, None, [4, 5, 6], [0.9, 0.8, 0.7], (0, 1), plane="axial")
    >>> [axes.get_title() for axes in figure.axes[:4]]
    ['Slice 4', 'Score 0.9', 'Slice 5', 'Score 0.8']
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
        raise ValueError(f"Image, anomaly map and mask must have one shape (H, W, N), got {shapes}.")
    if not len(slices) or not len(slices) == len(scores) == shapes[0][2]:
        raise ValueError(
            f"A montage needs a number and a score for each slice, got {len(slices)} numbers and {len(scores)} scores "
            f"for {shapes[0][2]} slices."
        )


def _name_sides(axes: Axes, plane: str) -> None:
    """Marks the sides of the patient at the top and at the left of a slice."""
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
