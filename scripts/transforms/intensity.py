"""Dictionary transforms that scale the intensities of a scan to float32, [0, 1].

All but ``ScaleToUnitd`` take MetaTensors (1, H, W, D) of any type, where D is 1 for a single slice of a volume; a slice
gets the same intensities alone as within its volume. The ``settings`` of each are JSON values, which a checkpoint keeps
for comparison.
"""

import logging
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from numpy.typing import NDArray
from torch import Tensor

from scripts.data.foreground import QUANTILES, foreground_quantiles
from scripts.data.images import IMAGE_SUFFIXES
from scripts.data.landmarks import HistogramLandmarks

logger = logging.getLogger(__name__)

# Level and width in Hounsfield units. These are common values, as in https://radiopaedia.org/articles/windowing-ct, or
# the middle of its ranges (subdural: level 50 to 100, width 130 to 300). For stroke 32/8 is in use too, but so narrow a
# window turns the noise of a scan into black and white.
WINDOWS = {
    "brain": (40.0, 80.0),
    "subdural": (75.0, 215.0),
    "stroke": (40.0, 40.0),
    "bone": (600.0, 2800.0),
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "abdomen": (50.0, 400.0),
    "liver": (30.0, 150.0),
}


class ShiftToTemplated(MapTransform):
    """Brings images in [0, 1] to the grey of the template, by the ``shift`` that ``Template.aligned`` found.

    ``x`` becomes ``x + 4 shift x (1 - x)``: black air and white bone stay, and grey between them moves by ``shift``.

    >>> image = MetaTensor(torch.tensor([[[[0.0, 0.5, 1.0]]]]), meta={"shift": 0.125})
    >>> ShiftToTemplated("image")({"image": image})["image"].tolist()
    [[[[0.0, 0.625, 1.0]]]]
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, **{key: self._shifted(data[key]) for key in self.key_iterator(data)}}

    def _shifted(self, image: MetaTensor) -> Tensor:
        inside = image.clamp(0, 1)
        return inside + 4 * image.meta["shift"] * inside * (1 - inside)


class _Intensityd(MapTransform):
    """Applies ``scaled`` to images (1, H, W, D)."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scales the images of an item.

        Raises:
            ValueError: If an image is not (1, H, W, D), or ``scaled`` refuses it.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            if image.ndim != 4 or image.shape[0] != 1:
                raise ValueError(
                    f"{_name(image)} has the shape {tuple(image.shape)}, but one channel and three axes (1, H, W, D) "
                    "are needed. For colour images use ScaleToUnitd."
                )
            result[key] = self.scaled(image)
        return result

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": type(self).__name__}

    @abstractmethod
    def scaled(self, image: Tensor) -> Tensor: ...


class ScaleToUnitd(MapTransform):
    """Maps intensities to float32 [0, 1], linearly and without clipping, so that brighter than normal stays brighter.

    Args:
        keys: Keys of images (C, ...), in the type in which they were stored.
        intensity_range: Values that become 0 and 1; None means [0, 255] for 8-bit images and refuses all others.
        allow_missing_keys: Whether keys may be missing.

    Raises:
        ValueError: If the range does not ascend, or, on a call, an image needs a range.

    >>> ScaleToUnitd("image", [0, 4095])({"image": torch.tensor([[0, 4095, 8190]])})["image"]
    tensor([[0., 1., 2.]])
    """

    def __init__(
        self, keys: KeysCollection, intensity_range: Sequence[float] | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if intensity_range is not None and not intensity_range[0] < intensity_range[1]:
            raise ValueError(f"intensity_range must be [low, high] with low < high, got {list(intensity_range)}.")
        self.intensity_range = intensity_range

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": type(self).__name__, "intensity_range": self.intensity_range}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            if self.intensity_range is None and image.dtype != torch.uint8:
                raise ValueError(
                    f"{_name(image)} is deeper than 8 bits (its values go from {image.min():g} to {image.max():g}), so "
                    "intensity_range must say which values become 0 and 1: add "
                    '--intensity#intensity_range "[low, high]", '
                    "as printed by `python -m bundle prepare`, to the training; for scans add configs/data/ct.json or "
                    "configs/data/mr.json to --config_file instead."
                )
            low, high = self.intensity_range or (0, 255)
            result[key] = (image.float() - low) / (high - low)
        return result


class Windowedd(_Intensityd):
    """Applies one or three windows to CT, each of which becomes a channel: (1, H, W, D) -> (windows, H, W, D).

    Values up to ``level - width / 2`` become 0 and values from ``level + width / 2`` become 1, with a linear ramp in
    between. This is DICOM's LINEAR_EXACT; the edges of its default, LINEAR, lie half a unit lower, to suit integer
    displays.

    Args:
        keys: Keys of images in Hounsfield units.
        windows: Names from ``WINDOWS``, or [level, width] in Hounsfield units.
        allow_missing_keys: Whether keys may be missing.

    Raises:
        ValueError: If a window is unknown or has no width, there are neither one nor three, or an image holds grey
            values in place of Hounsfield units.

    >>> volume = torch.tensor([-1000, 0, 40, 80, 500]).view(1, 1, 5, 1)
    >>> Windowedd("image", ["brain"])({"image": volume})["image"].squeeze()
    tensor([0.0000, 0.0000, 0.5000, 1.0000, 1.0000])
    """

    def __init__(
        self, keys: KeysCollection, windows: Sequence[str | Sequence[float]], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if isinstance(windows, str) or len(windows) not in (1, 3):
            raise ValueError(f"windows must be a list of one or three windows, got {windows!r}: {_WINDOWS_HELP}")
        self.windows = [_window(window) for window in windows]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings with the windows as [level, width], since the window of a name may change."""
        return {**super().settings, "windows": self.windows}

    def scaled(self, image: Tensor) -> Tensor:
        file = _name(image)
        if file.lower().endswith(IMAGE_SUFFIXES) and image.dtype in (torch.uint8, torch.int64):  # as unsigned are read
            raise ValueError(
                f"{file} holds grey values and no Hounsfield units, which CT windows need: give the scan as "
                "NIfTI or DICOM, or train a model of such images without configs/data/ct.json."
            )
        level, width = torch.tensor(self.windows, device=image.device).T[..., None, None, None]
        return ((image.float() - level) / width + 0.5).clamp(0, 1)


class _ByForegroundd(_Intensityd):
    """Scales images by the quantiles of the foreground of the whole volume.

    The ``QUANTILES`` come from ``image.meta["foreground_quantiles"]``; those of a whole volume can also be computed.
    """

    lower, upper = QUANTILES[0], QUANTILES[-1]

    def scaled(self, image: Tensor) -> Tensor:
        """Scales an image by its quantiles; an image without contrast becomes black.

        Raises:
            ValueError: If the quantiles of a slice are missing, or there is not one for each of ``QUANTILES``.
        """
        quantiles = _quantiles(image)
        low, high = (float(quantiles[QUANTILES.index(edge)]) for edge in (self.lower, self.upper))
        if low < high:
            return self.between(image, quantiles, low, high)
        logger.warning("%s has no contrast: its foreground is %g everywhere. It becomes black.", _name(image), low)
        return torch.zeros_like(image, dtype=torch.float32)

    @abstractmethod
    def between(self, image: Tensor, quantiles: NDArray[np.float64], low: float, high: float) -> Tensor: ...


class ScaleByForegroundd(_ByForegroundd):
    """Scales MR linearly so that two quantiles of the foreground become 0 and 1, and clips beyond.

    Args:
        keys: Keys of images with ``meta["foreground_quantiles"]``, or of whole volumes.
        lower: Quantile that becomes 0, one of ``QUANTILES``.
        upper: Quantile that becomes 1, one of ``QUANTILES``.
        allow_missing_keys: Whether keys may be missing.

    Raises:
        ValueError: If ``lower`` and ``upper`` are not two of ``QUANTILES`` in ascending order.

    >>> volume = torch.arange(1000.0).view(1, 10, 10, 10)
    >>> scaled = ScaleByForegroundd("image")({"image": volume})["image"]
    >>> scaled.min().item(), scaled.max().item()
    (0.0, 1.0)
    """

    def __init__(
        self,
        keys: KeysCollection,
        lower: float = QUANTILES[0],
        upper: float = QUANTILES[-1],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not (lower in QUANTILES and upper in QUANTILES and lower < upper):
            raise ValueError(f"lower and upper must be two of {QUANTILES}, ascending, got {lower} and {upper}.")
        self.lower, self.upper = lower, upper

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "lower": self.lower, "upper": self.upper}

    def between(self, image: Tensor, quantiles: NDArray[np.float64], low: float, high: float) -> Tensor:
        return ((image.float() - low) / (high - low)).clamp(0, 1)


class MatchLandmarksd(_ByForegroundd):
    """Maps the foreground quantiles of MR to ``landmarks``, linearly between them, and clips beyond.

    Args:
        keys: Keys of images with ``meta["foreground_quantiles"]``, or of whole volumes.
        landmarks: Landmarks, learnt or loaded before the first image; a checkpoint keeps them beside ``settings``.
        allow_missing_keys: Whether keys may be missing.

    >>> landmarks = HistogramLandmarks()
    >>> landmarks.learn([np.linspace(0, 1, len(QUANTILES)) ** 2])
    >>> matched = MatchLandmarksd("image", landmarks)({"image": torch.arange(1000.0).view(1, 10, 10, 10)})["image"]
    >>> matched.min().item(), matched.max().item()
    (0.0, 1.0)
    """

    def __init__(self, keys: KeysCollection, landmarks: HistogramLandmarks, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.landmarks = landmarks

    def between(self, image: Tensor, quantiles: NDArray[np.float64], low: float, high: float) -> Tensor:
        # With few grey levels some quantiles are equal; such a level gets the mean of their landmarks, which keeps the
        # order.
        levels, group = np.unique(quantiles, return_inverse=True)
        targets = np.bincount(group, self.landmarks.values) / np.bincount(group)
        matched = np.interp(image.cpu().numpy(), levels, targets, left=0, right=1)
        return convert_to_dst_type(matched, image, dtype=torch.float32)[0]


_WINDOWS_HELP = f"use [level, width] in Hounsfield units, or one of {', '.join(WINDOWS)}."


def _window(window: str | Sequence[float]) -> list[float]:
    if isinstance(window, str):
        if window not in WINDOWS:
            raise ValueError(f"There is no window {window!r}: {_WINDOWS_HELP}")
        return list(WINDOWS[window])
    try:
        level, width = (float(value) for value in window)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{window!r} is not a window: {_WINDOWS_HELP}") from error
    if not (np.isfinite(level) and 0 < width < np.inf):
        raise ValueError(f"The window {window!r} needs a level and a width above 0: {_WINDOWS_HELP}")
    return [level, width]


def _quantiles(image: Tensor) -> NDArray[np.float64]:
    meta = getattr(image, "meta", {})
    if "foreground_quantiles" in meta:
        quantiles = np.asarray(meta["foreground_quantiles"], np.float64)
        if quantiles.shape != (len(QUANTILES),):
            raise ValueError(
                f"{_name(image)} has foreground quantiles of shape {quantiles.shape}, not {(len(QUANTILES),)}: "
                "delete the cache that it was read from."
            )
        return quantiles
    if image.shape[-1] == 1 or "slice" in meta:
        raise ValueError(
            f"{_name(image)} is a slice of a volume whose foreground quantiles are unknown: set its "
            'meta["foreground_quantiles"] to the result of scripts.data.foreground.foreground_quantiles.'
        )
    return foreground_quantiles(image[0].cpu().numpy())


def _name(image: Tensor) -> str:
    return str(getattr(image, "meta", {}).get("filename_or_obj", "An image"))
