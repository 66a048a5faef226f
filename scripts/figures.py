"""Figures for reports and MLflow, 1000 pixels wide, colour-blind safe, and without pyplot's global state."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from .metrics.curves import checked, detection_curve

WIDTH = 10  # inches, 1000 pixels at DPI
DPI = 100
COLOUR_MAP = colormaps["inferno"]
OPACITY = 0.75  # maximum in an overlay
BLUE, ORANGE, SKY = "#0072b2", "#d55e00", "#56d4ff"
CHANCE = {"color": "0.45", "linestyle": "--", "linewidth": 1.5}


class Case(NamedTuple):
    """Row of a figure: an image with its anomaly map and anomaly score.

    Attributes:
        image: Image, (H, W) or (H, W, 3), in [0, 1].
        mask: Mask, (H, W), 0 or 1; None where there is none.
        anomaly_map: Anomaly map, (H, W), unbounded and finite.
        score: Anomaly score of the image.
        label: Ground truth, 0 (normal) or 1 (anomalous).
        name: Name to show.
        pixel_aspect: Height of a pixel divided by its width.
    """

    image: np.ndarray
    mask: np.ndarray | None
    anomaly_map: np.ndarray
    score: float
    label: int
    name: str
    pixel_aspect: float = 1.0


def roc_and_pr(scores: np.ndarray, labels: np.ndarray) -> Figure:
    """Draws the ROC curve with its AUROC and the precision-recall curve with its AP, each with the chance level.

    Args:
        scores: Anomaly scores, (N,), unbounded, higher is more anomalous.
        labels: Ground truth, (N,), 0 or 1.

    Raises:
        ValueError: If a score is not finite, a label is neither 0 nor 1, or a class is missing.
    """
    curve = detection_curve(scores, labels)
    figure = Figure(figsize=(WIDTH, 5.5), dpi=DPI, layout="constrained")
    roc, pr = figure.subplots(1, 2)

    roc.plot(curve.fpr, curve.tpr, color=BLUE, linewidth=2.5, label=f"AUROC {curve.auroc():.3f}")
    roc.plot([0, 1], [0, 1], label="chance 0.500", **CHANCE)
    roc.set(title="ROC", xlabel="False-positive rate (1 − specificity)", ylabel="True-positive rate (sensitivity)")

    # The curve starts at recall 0 and precision 1, as in scikit-learn.
    precision = np.append(1.0, curve.precision)
    ap = curve.average_precision()
    pr.plot(curve.tpr, precision, color=BLUE, linewidth=2.5, drawstyle="steps-pre", label=f"AP {ap:.3f}")
    pr.plot([0, 1], [curve.prevalence] * 2, label=f"chance {curve.prevalence:.3f}", **CHANCE)
    pr.set(title="Precision and recall", xlabel="Recall (sensitivity)", ylabel="Precision (PPV)")

    for axes in (roc, pr):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.grid(color="0.9")
        _finish(axes)
    return figure


def score_histogram(scores: np.ndarray, labels: np.ndarray) -> Figure:
    """Draws histograms of the anomaly scores of normal and anomalous images, with common bins and the image counts.

    Args:
        scores: Anomaly scores, (N,), unbounded.
        labels: Ground truth, (N,), 0 or 1; one class may be missing.

    Raises:
        ValueError: If there are no scores, a score is not finite, or a label is neither 0 nor 1.
    """
    scores, labels = checked(scores, labels)
    figure = Figure(figsize=(WIDTH, 5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    bins = np.histogram_bin_edges(scores, bins=30)
    for label, name, colour, hatch in ((0, "normal", BLUE, ""), (1, "anomalous", ORANGE, "//")):
        of_class = scores[labels == label]
        axes.hist(
            of_class,
            bins=bins.tolist(),
            histtype="stepfilled",
            color=(colour, 0.4),
            edgecolor=colour,
            linewidth=1.8,
            hatch=hatch,
            label=f"{name} (n = {of_class.size})",
        )
    axes.set(title="Anomaly scores", xlabel="Anomaly score", ylabel="Number of images")
    axes.locator_params(axis="y", integer=True)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    _finish(axes)
    return figure


def heat_map_grid(cases: Sequence[Case], title: str) -> Figure:
    """Draws one row a case: input, mask, anomaly map, and overlay with the outline of the mask.

    All rows share one colour scale. It runs from the median of all maps, below which the overlay is transparent, to
    their 99.9th percentile; zeros, the value of maps outside the foreground, do not count.

    Args:
        cases: Cases to show, from top to bottom.
        title: Title of the figure.

    Raises:
        ValueError: If there are no cases, or an image, mask and map differ in size.
    """
    if not cases:
        raise ValueError("heat_map_grid needs at least one case.")
    pixels = np.concatenate([np.ravel(case.anomaly_map) for case in cases])
    inside = pixels[pixels != 0]
    low, high = (float(limit) for limit in np.percentile(inside, (50, 99.9))) if inside.size > 1 else (0.0, 0.0)
    if high <= low:  # flat maps, or anomalies in less than 0.1 % of the pixels
        high = max(float(pixels.max()), low + 1e-6 * max(1.0, abs(low)))

    rows = len(cases)
    figure = Figure(figsize=(WIDTH, 1.95 * rows + 0.85), dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, 5, squeeze=False, width_ratios=(0.85, 1, 1, 1, 1))
    figure.suptitle(title, fontsize=16)
    for column, name in enumerate(("Input", "Mask", "Anomaly map", "Overlay"), start=1):
        grid[0, column].set_title(name, fontsize=13)
    for axes in grid.flat:
        axes.set_axis_off()
    for (text, image, mask, heat, both), case in zip(grid, cases, strict=False):
        _describe(text, case)
        grey = {"cmap": "gray", "vmin": 0, "vmax": 1}
        for axes, picture, look in (
            (image, np.clip(case.image, 0, 1), grey),
            (both, overlay(case.image, case.anomaly_map, low, high), {}),
            (heat, case.anomaly_map, {"cmap": COLOUR_MAP, "vmin": low, "vmax": high}),
        ):
            axes.imshow(picture, aspect=case.pixel_aspect, **look)
        if case.mask is None:
            mask.text(0.5, 0.5, "no mask", ha="center", va="center", fontsize=12, transform=mask.transAxes)
            continue
        if np.shape(case.mask) != np.shape(case.anomaly_map):
            raise ValueError(
                f"{case.name}: mask {np.shape(case.mask)} and map {np.shape(case.anomaly_map)} differ in shape."
            )
        mask.imshow(case.mask, aspect=case.pixel_aspect, **grey)
        if 0 < np.mean(case.mask) < 1:
            both.contour(case.mask, levels=[0.5], colors=SKY, linewidths=1.2)
    colours = ScalarMappable(Normalize(low, high), COLOUR_MAP)
    bar = figure.colorbar(colours, ax=grid, extend="both", extendfrac=0.04 / rows, aspect=15 * rows, pad=0.01)
    bar.set_label("Anomaly map", fontsize=12)
    bar.ax.tick_params(labelsize=11)
    return figure


def overlay(image: np.ndarray, anomaly_map: np.ndarray, low: float, high: float) -> np.ndarray:
    """Blends an anomaly map over the grey image: transparent up to `low`, most opaque from halfway between the limits.

    Args:
        image: Image, (H, W) or (H, W, 3), in [0, 1].
        anomaly_map: Anomaly map, (H, W), finite.
        low: Value of the map up to which the image shows unchanged.
        high: Value of the map from which the colour no longer changes.

    Returns:
        RGB image, (H, W, 3), uint8.

    Raises:
        ValueError: If the sizes differ, the map is not finite, or `low` is not below `high`.

    >>> overlay(np.full((1, 2), 0.5), np.array([[0.0, 3.0]]), low=1, high=2)[0, 0].tolist()
    [128, 128, 128]
    """
    image, anomaly_map = np.asarray(image, dtype=np.float64), np.asarray(anomaly_map, dtype=np.float64)
    if anomaly_map.ndim != 2 or image.shape not in (anomaly_map.shape, (*anomaly_map.shape, 3)):
        raise ValueError(
            f"The image {image.shape} must be (H, W) or (H, W, 3), and the anomaly map {anomaly_map.shape} (H, W)."
        )
    if wrong := np.count_nonzero(~np.isfinite(anomaly_map)):
        raise ValueError(f"The anomaly map holds {wrong} NaN or infinite values of {anomaly_map.size}.")
    if not low < high:
        raise ValueError(f"low ({low}) must be less than high ({high}).")
    grey = np.clip(image if image.ndim == 2 else luminance(image), 0, 1)[..., None]
    heat = np.clip((anomaly_map - low) / (high - low), 0, 1)
    alpha = OPACITY * np.minimum(1, 2 * heat)[..., None]
    return np.rint(255 * ((1 - alpha) * grey + alpha * COLOUR_MAP(heat)[..., :3])).astype(np.uint8)


def luminance(colours: np.ndarray) -> np.ndarray:
    """Grey values of colours (ITU-R BT.601): (..., 3) -> (...)."""
    return colours @ (0.299, 0.587, 0.114)


def _finish(axes: Axes) -> None:
    """Enlarges the print and puts the legend below the axes, where it covers no curve."""
    axes.title.set_fontsize(15)
    axes.xaxis.label.set_fontsize(13)
    axes.yaxis.label.set_fontsize(13)
    axes.tick_params(labelsize=12)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False, fontsize=13)


def _describe(axes: Axes, case: Case) -> None:
    """Writes name, label and score of a case beside its row."""
    name = textwrap.fill(case.name, 15, max_lines=4, placeholder="…")
    axes.text(0, 0.62, name, fontsize=11, va="bottom", transform=axes.transAxes)
    label, colour = ("anomalous", ORANGE) if case.label else ("normal", BLUE)
    axes.text(0, 0.5, label, fontsize=12, fontweight="bold", color=colour, va="center", transform=axes.transAxes)
    axes.text(0, 0.38, f"score {case.score:.4g}", fontsize=11, va="top", transform=axes.transAxes)
