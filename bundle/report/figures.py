"""Curves and histograms of runs as SVG that is small enough to be embedded in a page."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from scripts.figures import BLUE, CHANCE, ORANGE
from scripts.metrics.curves import detection_curve

# Okabe and Ito's colours that stand out on white; more methods repeat them with other line styles.
COLOURS = (BLUE, ORANGE, "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "black")
LINES = ("-", "--", ":", "-.")
_POINTS = 400  # points of a curve at most: more cannot be seen
_PICTURE_WIDTH = 1000  # width of a picture at most, in pixels


class Curve(NamedTuple):
    """Curve of one run in a picture.

    Attributes:
        method: Name of the method; its runs share a colour and a line in the legend.
        scores: Scores (N,).
        labels: Labels (N,), 0 (normal) or 1 (anomalous); both occur.
        point: False-positive rate and sensitivity of a calibrated threshold, or None.
    """

    method: str
    scores: np.ndarray
    labels: np.ndarray
    point: tuple[float, float] | None = None


def curves(runs: Sequence[Curve]) -> str:
    """Draws ROC and precision-recall curves of runs on one data set, and returns a data URI."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    roc, pr = figure.subplots(1, 2)
    style = _styles(run.method for run in runs)
    marker: dict[str, Any] = {"marker": "o", "markersize": 8, "markerfacecolor": "white", "markeredgewidth": 2}
    for run in runs:
        curve = detection_curve(run.scores, run.labels)
        look = {**style[run.method], "linewidth": 1.6, "alpha": 0.9}
        kept = _thinned(len(curve.fpr))
        roc.plot(curve.fpr[kept], curve.tpr[kept], label=run.method, **look)
        pr.plot(curve.tpr[kept], np.append(1.0, curve.precision)[kept], drawstyle="steps-pre", **look)
        if run.point is not None:
            roc.plot(*run.point, color=look["color"], **marker)
    roc.plot([0, 1], [0, 1], label="chance", **CHANCE)
    pr.axhline(float(np.mean(runs[0].labels)), **CHANCE)
    if any(run.point is not None for run in runs):
        roc.plot([], [], color="0.3", linestyle="", label="calibrated threshold", **marker)
    roc.set(title="ROC", xlabel="False-positive rate (1 − specificity)", ylabel="Sensitivity")
    pr.set(title="Precision and recall", xlabel="Recall (sensitivity)", ylabel="Precision (PPV)")
    for axes in (roc, pr):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        _plain(axes)
    _legend(figure)
    return _svg(figure)


def froc(runs: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> str:
    """Draws free-response ROC curves of runs on one data set, and returns a data URI.

    Args:
        runs: Method, false positives per scan (T,), ascending, and sensitivity to lesions (T,) of each run.
    """
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    style = _styles(method for method, _, _ in runs)
    for method, false_positives, sensitivity in runs:
        kept = _thinned(len(false_positives))
        axes.plot(
            np.maximum(false_positives[kept], 2**-4),
            sensitivity[kept],
            drawstyle="steps-post",
            label=method,
            linewidth=1.6,
            **style[method],
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(
        title="FROC",
        xlabel="False positives per scan (logarithmic; fewer than 1/16 are at the edge)",
        ylabel="Sensitivity to lesions",
        xlim=(2**-4, 16),
        ylim=(-0.02, 1.02),
    )
    _plain(axes)
    _legend(figure)
    return _svg(figure)


def histograms(panels: Sequence[tuple[str, np.ndarray, np.ndarray, float | None]]) -> str:
    """Draws the scores of normal and anomalous images, one panel for each run, and returns a data URI.

    Args:
        panels: Title, scores (N,), labels (N,) and calibrated threshold or None of each panel.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(9, 2.9 * rows + 0.6 if columns > 1 else 4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, (title, scores, labels, threshold) in zip(grid, panels, strict=False):
        bins = np.histogram_bin_edges(scores, bins=25).tolist()
        for label, name, colour, hatch in ((0, "normal", BLUE, ""), (1, "anomalous", ORANGE, "///")):
            chosen = scores[labels == label]
            look: dict[str, Any] = {"histtype": "stepfilled", "color": (colour, 0.35), "edgecolor": colour}
            axes.hist(chosen, bins=bins, hatch=hatch, linewidth=1.3, label=name, **look)
        if threshold is not None:
            axes.axvline(threshold, color="black", linewidth=1.5, linestyle="--", label="calibrated threshold")
        axes.set_title(title, fontsize=10, wrap=True)
        axes.locator_params(axis="y", integer=True, nbins=4)
        axes.locator_params(axis="x", nbins=4)
        _plain(axes)
        axes.set(xlabel="Anomaly score", ylabel="Images")
    _legend(figure)
    return _svg(figure)


def picture(path: Path) -> str:
    """Returns a PNG file as a data URI, at most 1000 pixels wide, with 256 colours, which take a third of the bytes."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if image.width > _PICTURE_WIDTH:
        image = image.resize((_PICTURE_WIDTH, round(image.height * _PICTURE_WIDTH / image.width)))
    buffer = io.BytesIO()
    image.quantize(256).save(buffer, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _styles(methods: Any) -> dict[str, dict[str, Any]]:
    looks = itertools.cycle((colour, line) for line in LINES for colour in COLOURS)
    return {method: {"color": c, "linestyle": s} for method, (c, s) in zip(dict.fromkeys(methods), looks, strict=False)}


def _thinned(points: int) -> np.ndarray:
    """Indices of at most ``_POINTS`` points of a curve, with both ends among them."""
    return np.unique(np.linspace(0, points - 1, min(points, _POINTS)).round().astype(int))


def _plain(axes: Axes) -> None:
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure) -> None:
    """Adds one legend for all axes below them, with each name once."""
    named: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    widest = max(map(len, named), default=0)
    columns = 3 if widest < 32 else 2 if widest < 50 else 1
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=10)


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    # Letters are paths, so that the picture does not depend on the reader's fonts. Without a date, the same runs give
    # the same file.
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "report"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
