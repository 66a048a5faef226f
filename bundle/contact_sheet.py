"""Draws a few images of every split and label on one sheet, anomalies outlined."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import product

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scripts.data.datalist import SPLITS
from scripts.data.images import read_image, read_mask
from scripts.data.layouts import Sample

COLUMNS = 8
_CELL = 1.5  # inches
_COLOURS = ("tab:green", "tab:red")


def contact_sheet(samples: Sequence[Sample], title: str, intensity_range: Sequence[float] | None, seed: int) -> bytes:
    """Draws one row a split and label, up to 8 images each, drawn at random.

    Args:
        samples: With their splits, all readable.
        title: Of the sheet.
        intensity_range: Values shown black and white; None takes those of each image.
        seed: Of the draw.

    Returns:
        A PNG file.
    """
    rows = [
        (split, label, members)
        for split, label in product(SPLITS, (0, 1))
        if (members := [sample for sample in samples if sample.split == split and sample.label == label])
    ]
    rng = np.random.default_rng(seed)
    with matplotlib.rc_context({"font.size": 7}):
        figure = Figure(figsize=(COLUMNS * _CELL + 0.4, len(rows) * (_CELL + 0.3) + 0.5), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=11)
        grid = figure.subplots(len(rows), COLUMNS, squeeze=False)
        for axes_row, (split, label, members) in zip(grid, rows, strict=True):
            shown = [members[i] for i in sorted(rng.permutation(len(members))[:COLUMNS])]
            for axes, sample in zip(axes_row, shown, strict=False):
                _draw(axes, sample, intensity_range)
            for axes in axes_row[len(shown) :]:
                axes.set_axis_off()
            axes_row[0].set_ylabel(
                f"{split}\n{len(members)} {('normal', 'anomalous')[label]}", color=_COLOURS[label], fontsize=9
            )
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw(axes: Axes, sample: Sample, intensity_range: Sequence[float] | None) -> None:
    image = read_image(sample.image)
    low, high = intensity_range or (float(image.min()), float(image.max()))
    scaled = np.clip((image - float(low)) / max(float(high) - float(low), 1e-12), 0, 1)
    axes.imshow(scaled, cmap="gray", vmin=0, vmax=1)
    if sample.mask is not None:
        mask = read_mask(sample.mask)
        if mask.any():
            axes.autoscale(False)
            # Padded, so that the outline of an anomaly at the border is closed.
            axes.contour(np.pad(mask, 1), [0.5], colors=_COLOURS[1], linewidths=0.8, extent=_extent(mask))
    name = sample.image.name if len(sample.image.name) <= 22 else f"…{sample.image.name[-21:]}"
    axes.set_title(name if sample.organ is None else f"{sample.organ}\n{name}", fontsize=6, pad=2)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(_COLOURS[sample.label])


def _extent(mask: np.ndarray) -> tuple[float, float, float, float]:
    return (-1, mask.shape[1], -1, mask.shape[0])
