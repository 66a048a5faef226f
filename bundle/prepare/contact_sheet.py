"""Draws some images or scans of every split and label on one sheet, with their anomalies outlined."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.transforms import Compose

from bundle.prepare.layouts import Sample
from scripts.data.datalist import SPLITS
from scripts.data.foreground import QUANTILES
from scripts.data.planes import AXCODES, plane_axis
from scripts.data.scans import is_scan, open_scan
from scripts.transforms.reading import LoadScand, ToPlaned

COLUMNS = 8
_CELL = 1.5  # inches
_COLOURS = ("tab:green", "tab:red")


def contact_sheet(
    samples: Sequence[Sample],
    title: str,
    intensity_range: Sequence[float] | None,
    seed: int,
    cache_dir: str | Path,
) -> bytes:
    """Draws a row of up to 8 random images for each split and label.

    A scan is shown as an axial, a coronal and a sagittal slice, one below the other in radiological orientation. Each
    is the slice with the largest anomaly, or the middle of the foreground.

    Args:
        samples: Readable samples with their splits, all images or all scans.
        title: Title of the sheet.
        intensity_range: Values shown black and white; None takes the 1st and 99th percentile of each foreground.
        seed: Seed of the random choice.
        cache_dir: Folder for uncompressed copies of scans, see ``scripts.data.scans.open_scan``.

    Returns:
        Bytes of a PNG file.
    """
    rows = [
        (split, label, members)
        for split, label in product(SPLITS, (0, 1))
        if (members := [sample for sample in samples if sample.split == split and sample.label == label])
    ]
    planes = list(AXCODES) if is_scan(samples[0].image) else ["axial"]
    rng = np.random.default_rng(seed)
    with matplotlib.rc_context({"font.size": 7}):
        height = len(rows) * (len(planes) * _CELL + 0.4) + 0.5
        figure = Figure(figsize=(COLUMNS * _CELL + 0.4, height), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=11)
        grid = figure.subplots(len(rows) * len(planes), COLUMNS, squeeze=False)
        for (split, label, members), axes_rows in zip(rows, np.split(grid, len(rows)), strict=True):
            shown = [members[i] for i in sorted(rng.permutation(len(members))[:COLUMNS])]
            for column, sample in zip(axes_rows.T, shown, strict=False):
                for axes, plane in zip(column, planes, strict=True):
                    _draw(axes, _picture(sample, plane, cache_dir, intensity_range), _COLOURS[sample.label])
                column[0].set_title(_caption(sample), fontsize=6, pad=2)
            for axes in axes_rows[:, len(shown) :].flat:
                axes.set_axis_off()
            axes_rows[len(planes) // 2, 0].set_ylabel(
                f"{split}\n{len(members)} {('normal', 'anomalous')[label]}", color=_COLOURS[label], fontsize=9
            )
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


@dataclass(frozen=True)
class _Picture:
    pixels: np.ndarray  # (H, W) or (H, W, 3), in 0..1
    mask: np.ndarray | None  # (H, W), 0 or 1
    aspect: float  # height over width of a pixel


def _picture(sample: Sample, plane: str, cache_dir: str | Path, intensity_range: Sequence[float] | None) -> _Picture:
    keys = ["image"] if sample.mask is None else ["image", "mask"]
    item: dict[str, str | int] = {key: str(getattr(sample, key)) for key in keys}
    if is_scan(sample.image):
        item["slice"] = _telling_slice(sample, plane, cache_dir)
    loaded = Compose(
        [
            LoadScand(["image"], cache_dir, plane),
            LoadScand(["mask"], cache_dir, plane, masks=True, allow_missing_keys=True),
            ToPlaned(keys, plane),
        ]
    )(item)
    image = loaded["image"]
    rows, columns, _ = image.pixdim.tolist()
    percentiles = dict(zip(QUANTILES, image.meta["foreground_quantiles"], strict=True))
    low, high = map(float, intensity_range or (percentiles[0.01], percentiles[0.99]))
    scaled = np.clip((image[..., 0].numpy() - low) / max(high - low, 1e-12), 0, 1)
    pixels = scaled[0] if len(scaled) == 1 else np.moveaxis(scaled, 0, -1)
    return _Picture(pixels, loaded["mask"][0, ..., 0].numpy() if "mask" in loaded else None, rows / columns)


def _telling_slice(sample: Sample, plane: str, cache_dir: str | Path) -> int:
    scan = open_scan(sample.image, cache_dir)
    axis, count, reverse = plane_axis(scan.affine, scan.shape, plane)
    index = sum(scan.box[axis]) // 2
    if sample.mask is not None:
        anomalous = open_scan(sample.mask, cache_dir, mask=True).foreground[axis]
        index = int(np.argmax(anomalous)) if any(anomalous) else index
    return count - 1 - index if reverse else index


def _draw(axes: Axes, picture: _Picture, colour: str) -> None:
    axes.imshow(picture.pixels, cmap="gray", vmin=0, vmax=1, aspect=picture.aspect)
    mask = picture.mask
    if mask is not None and mask.any():
        axes.autoscale(False)
        # Padding closes the outline of an anomaly at the border.
        extent = (-1, mask.shape[1], -1, mask.shape[0])
        axes.contour(np.pad(mask, 1), [0.5], colors=_COLOURS[1], linewidths=0.8, extent=extent)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(colour)


def _caption(sample: Sample) -> str:
    lines = [sample.organ, sample.group if is_scan(sample.image) else None, sample.image.name]
    return "\n".join(line if len(line) <= 22 else f"…{line[-21:]}" for line in lines if line is not None)
