"""A frame that all scans of a part of the body are brought to, so that a place is compared with the same place."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Orientation
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, binary_fill_holes, label
from torch import Tensor
from tqdm.contrib.concurrent import thread_map

from scripts.data.planes import AXCODES, plane_axis
from scripts.data.registration import Coarse, Registered, body, coarse_extent, refined, registered
from scripts.data.reslicing import Grid, resliced, resliced_scan
from scripts.data.scans import Scan
from scripts.files import replacing

logger = logging.getLogger(__name__)

_VERSION = 5  # a new version invalidates what the cache keeps
_SCANS = 24  # to learn from, enough for a mean
_UNLIKE = 0.3  # correlation below which a scan was not found in the template
_MARGIN = 0.06  # around the body, in parts of its size
_SIDE = 64  # places of the region in a row and a column
_GREY = (0.1, 0.9)  # intensities that are neither black nor white
_USUAL = 0.95  # share of the normal scans
_AROUND = 3  # voxels of 4 mm around the region that scans are aligned by, so that bone counts
_SHIFT = 0.2  # largest change of intensity

Read = Callable[[str], MetaTensor]


class Template:
    """Mean of the normal scans, and the way of each scan to it.

    It is learnt from at most 24 normal scans: all are registered to the one of middle size, their mean is the template,
    and its box is the grid of ``image_size`` pixels in the plane and as many slices as the scans have. The ``region``
    is the largest body that most scans show neither black nor white: within the skull by a CT's brain window.

    Args:
        read: Reads a file as (C, i, j, k) in [0, 1], in any orientation, with its ``foreground_box``.
        image_size: Rows and columns of the grid.
        plane: axial, coronal or sagittal.

    Attributes:
        known: Whether it was learnt or restored.
    """

    def __init__(self, read: Read, image_size: int, plane: str = "axial") -> None:
        self.read, self.image_size, self.plane = read, image_size, plane
        self._mean = Coarse(np.zeros((0, 0, 0), np.float32), np.zeros(3))
        self._grid = Grid((0, 0, 0), np.eye(4))
        self._region = np.zeros((0, 0, 0), bool)
        self._level = 0.0
        self._digest = ""  # of all of the above, since every slice that is read asks for it

    @property
    def known(self) -> bool:
        return self._mean.array.size > 0

    def learn(self, scans: Sequence[Scan], cache_dir: str | Path, settings: str = "") -> None:
        """Learns from normal scans, once; what was learnt is kept in the cache.

        Args:
            scans: The scans; of more than 24, evenly spread ones are taken.
            cache_dir: Folder of the cache, see ``open_scan``.
            settings: All that changes how the scans are read.

        Raises:
            ValueError: If there are none.
        """
        if not scans:
            raise ValueError("There is no scan to learn a template from: set preprocessing#align False for images.")
        chosen = [scans[index] for index in np.unique(np.linspace(0, len(scans) - 1, _SCANS).round().astype(int))]
        kind = json.dumps([_VERSION, settings, *(scan.key for scan in chosen)])
        record = Path(cache_dir) / f"template-{hashlib.sha256(kind.encode()).hexdigest()[:24]}.pt"
        if record.is_file():
            self.load_state_dict(torch.load(record, weights_only=True))
            return
        self._learn(chosen, Path(cache_dir))
        with replacing(record) as part:
            torch.save(self.state_dict(), part)

    def _learn(self, scans: Sequence[Scan], cache_dir: Path) -> None:
        chosen = [scan.source for scan in scans]
        bodies = _each(lambda file: self._coarse(self.read(file)), chosen, "Reading for the template")
        sizes = [np.count_nonzero(one.volume.array) for one in bodies]
        fixed = bodies[int(np.argsort(sizes, kind="stable")[len(sizes) // 2])].volume
        found = _each(lambda one: registered(fixed, one.volume), bodies, "Aligning to one scan")
        self._mean = self._averaged(fixed, bodies, found)
        self._grid = self._box(fixed, float(np.median([one.thickness for one in bodies])))
        found = _each(lambda one: registered(self._mean, one.volume), bodies, "Aligning to their mean")
        self._look(chosen, found)
        around = self._around()
        for _ in range(2):  # a mean by the region, then the region by that mean
            pairs = list(zip(bodies, found, strict=True))
            found = _each(lambda pair: self._refined(pair[0], pair[1], around), pairs, "Aligning in the region")
            self._mean = self._averaged(self._mean, bodies, found)
        images = self._look(chosen, found)
        self.load_state_dict(self.state_dict())  # as precise as a checkpoint keeps it
        for scan, image, one in zip(scans, images, found, strict=True):
            self._keep(self._record(scan, cache_dir), image, one)

    def _averaged(self, frame: Coarse, bodies: Sequence[_Body], found: Sequence[Registered]) -> Coarse:
        """Mean of the bodies that were found, on the grid of ``frame``."""
        grid = Grid(frame.array.shape, frame.affine)
        alike = [one for one in zip(bodies, found, strict=True) if one[1].correlation >= _UNLIKE]
        if len(alike) < len(bodies):
            logger.warning("%d of %d scans are unlike the others.", len(bodies) - len(alike), len(bodies))
        means = [resliced(one.volume.array, one.volume.affine, _moved(grid, where.matrix)) for one, where in alike]
        mean: NDArray[np.float32] = np.stack(means).mean(0)
        return frame._replace(array=mean.astype(np.float16).astype(np.float32))  # as a checkpoint keeps it

    def _look(self, files: Sequence[str], found: Sequence[Registered]) -> list[NDArray[np.float32]]:
        """Sets region and level by what the scans show on the coarse grid, which is returned."""
        images = [self._seen(self.read(file), one) for file, one in zip(files, found, strict=True)]
        seen = [image for image, one in zip(images, found, strict=True) if one.correlation >= _UNLIKE]
        grey = np.mean([(image > _GREY[0]) & (image < _GREY[1]) for image in seen], axis=0)
        self._region = _largest(grey >= _USUAL)
        self._level = self._median(np.mean(seen, axis=0))
        return images

    def _around(self) -> NDArray[np.bool_]:
        """The region and the bone around it, on the grid of the mean."""
        if not self._region.any():
            return np.zeros(self._mean.array.shape, bool)
        grid = Grid(self._mean.array.shape, self._mean.affine)
        region = resliced(self._region.astype(np.float32), self._coarse_grid.affine, grid) > 0.5
        return binary_dilation(region, iterations=_AROUND)

    def _refined(self, body: _Body, found: Registered, around: NDArray[np.bool_]) -> Registered:
        """Aligns a body where anomalies are looked for: what is beyond, as jaw and neck, moves by itself."""
        return refined(self._mean, body.volume, around, found) if around.any() else found

    def aligned(self, scan: Scan, cache_dir: str | Path) -> tuple[Scan, float]:
        """Brings a scan to the template.

        Args:
            scan: Scan as it lies in its file.
            cache_dir: Folder of its cache, where the result is kept too; see ``open_scan``.

        Returns:
            The scan on a grid in its own space whose voxels are those of the template, and what its intensities in
            [0, 1] lack to those of the template.
        """
        file, record = scan.source, self._record(scan, Path(cache_dir))
        try:
            known = json.loads(record.read_text())
        except (OSError, ValueError):
            image = self.read(file)
            body = self._coarse(image)
            found = self._refined(body, registered(self._mean, body.volume), self._around())
            known = self._keep(record, self._seen(image, found), found)
        if known["correlation"] < _UNLIKE:
            logger.warning(
                "%s: is unlike the scans that the model was trained on (correlation %.2f), so its maps may compare "
                "it with other places.",
                file,
                known["correlation"],
            )
        return resliced_scan(scan, cache_dir, _moved(self._grid, np.array(known["matrix"]))), known["shift"]

    def inside(self, places: Tensor, size: Sequence[int]) -> Tensor:
        """Region of slices.

        Args:
            places: Places of the slices along the axis of the plane, in [0, 1]; (B,).
            size: Height and width.

        Returns:
            Mask, (B, 1, *size), bool; all of a slice where the template has no region.
        """
        if not self._region.any():
            return torch.ones(len(places), 1, *size, dtype=torch.bool, device=places.device)
        region = MetaTensor(self._region[None].astype(np.float32), affine=torch.from_numpy(self._coarse_grid.affine))
        turned = torch.as_tensor(Orientation(AXCODES[self.plane], labels=None)(region))[0]  # (rows, columns, slices)
        numbers = (places.cpu() * turned.shape[2]).long().clamp(max=turned.shape[2] - 1)
        chosen = turned[..., numbers].permute(2, 0, 1)[:, None]
        return (F.interpolate(chosen, size=tuple(size), mode="bilinear", align_corners=False) > 0.5).to(places.device)

    def _record(self, scan: Scan, cache_dir: Path) -> Path:
        return cache_dir / f"{scan.key}-{self._digest}.json"

    def _keep(self, record: Path, image: NDArray[np.float32], found: Registered) -> dict[str, Any]:
        """Keeps where a scan was found, which looks as ``image`` on the coarse grid."""
        missing = self._level - self._median(image)
        shift = float(np.clip(missing if np.isfinite(missing) else 0.0, -_SHIFT, _SHIFT))
        known = {"matrix": found.matrix.tolist(), "correlation": found.correlation, "shift": shift}
        with replacing(record) as part:
            part.write_text(json.dumps(known))
        return known

    def state_dict(self) -> dict[str, Any]:
        """State in plain types and tensors; empty until it is learnt."""
        if not self.known:
            return {}
        (mean, origin), (shape, affine) = self._mean, self._grid
        return {
            "mean": torch.from_numpy(mean).half(),
            "origin": origin.tolist(),
            "shape": list(shape),
            "affine": affine.tolist(),
            "region": torch.from_numpy(self._region),
            "level": self._level,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not state:
            return
        self._mean = Coarse(state["mean"].cpu().float().numpy(), np.array(state["origin"]))
        self._grid = Grid(tuple(state["shape"]), np.array(state["affine"]))
        self._region, self._level = state["region"].cpu().numpy(), state["level"]
        self._digest = self._hash()

    @property
    def _coarse_grid(self) -> Grid:
        """The grid with 64 rows and columns."""
        axis = plane_axis(self._grid.affine, self._grid.shape, self.plane)[0]
        shape = [size if one == axis else _SIDE for one, size in enumerate(self._grid.shape)]
        factors = np.array(self._grid.shape) / shape
        affine = self._grid.affine @ np.diag([*factors, 1.0])
        affine[:3, 3] += self._grid.affine[:3, :3] @ ((factors - 1) / 2)
        return Grid(tuple(shape), affine)  # type: ignore[arg-type]

    def _coarse(self, image: MetaTensor) -> _Body:
        array, affine = _grey(image)
        opposite = nib.affines.apply_affine(np.linalg.inv(affine), np.asarray(image.meta["foreground_box"]))
        eight = list(itertools.product(*opposite.T))  # since axes may be oblique
        corners = nib.affines.apply_affine(affine, eight)
        origin, shape = coarse_extent(corners.min(0), corners.max(0))
        volume = Coarse(np.zeros(shape, np.float32), origin)
        volume = volume._replace(array=body(resliced(array, affine, Grid(volume.array.shape, volume.affine))))
        axis = plane_axis(affine, array.shape, self.plane)[0]
        return _Body(volume, float(np.linalg.norm(affine[:3, axis])))

    def _box(self, volume: Coarse, thickness: float) -> Grid:
        """Grid of the body of a coarse volume."""
        inside = np.argwhere(volume.array > 0)
        corners = np.stack([inside.min(0) - 0.5, inside.max(0) + 0.5]) @ volume.affine[:3, :3] + volume.origin
        axis = plane_axis(volume.affine, volume.array.shape, self.plane)[0]
        margin = _MARGIN * (corners[1] - corners[0])
        margin[axis] = 0
        low, high = corners[0] - margin, corners[1] + margin
        shape = np.full(3, self.image_size)
        shape[axis] = max(1, round((high[axis] - low[axis]) / thickness))
        spacing = (high - low) / shape
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = low + spacing / 2
        return Grid(tuple(int(size) for size in shape), affine)  # type: ignore[arg-type]

    def _seen(self, image: MetaTensor, found: Registered) -> NDArray[np.float32]:
        """A scan on the coarse grid."""
        return resliced(*_grey(image), _moved(self._coarse_grid, found.matrix))

    def _median(self, image: NDArray[np.float32]) -> float:
        """Median of what is grey in the region; NaN if nothing is."""
        if not self._region.any():
            return float("nan")
        grey = image[self._region]
        grey = grey[(grey > _GREY[0]) & (grey < _GREY[1])]
        return float(np.median(grey)) if grey.size else float("nan")

    def _hash(self) -> str:
        mean, grid = self._mean, self._grid
        content = [
            bytes(_VERSION),
            mean.array.astype(np.float16).tobytes(),
            mean.origin.tobytes(),
            np.array(grid.shape).tobytes(),
        ]
        content += [np.round(grid.affine, 6).tobytes(), self._region.tobytes()]
        return hashlib.sha256(b"".join(content)).hexdigest()[:12]


class _Body(NamedTuple):
    """Body of a scan, and the distance of its slices in millimetres."""

    volume: Coarse
    thickness: float


def _grey(image: MetaTensor) -> tuple[NDArray[np.float32], np.ndarray]:
    """Mean of the channels, (i, j, k), and affine."""
    return image.as_tensor().mean(0).numpy(), np.asarray(image.affine, dtype=float)


def _moved(grid: Grid, matrix: np.ndarray) -> Grid:
    return Grid(grid.shape, matrix @ grid.affine)


def _each(function: Callable[[Any], Any], values: Sequence[Any], description: str) -> list[Any]:
    return thread_map(function, values, max_workers=2, desc=description, unit="scan", leave=False, disable=None)


def _largest(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Largest connected part without its border, where bone reaches in, and without holes; empty if there is none."""
    parts, count = label(binary_erosion(inside))
    if not count:
        return np.zeros_like(inside)
    return binary_fill_holes(parts == np.bincount(parts.ravel())[1:].argmax() + 1)
