"""Dictionary transforms from a scan's intensities to float32 [0, 1].

All but ``ScaleToUnitd`` take images (1, H, W, D) of any type, as MetaTensor, where D is 1 for a single slice of a
volume; a slice gets the intensities that it has within its volume. All have ``settings``: what a checkpoint keeps of
them for comparison, as JSON values.
"""

import logging
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from numpy.typing import NDArray
from torch import Tensor

from scripts.data.foreground import QUANTILES, foreground_quantiles
from scripts.data.landmarks import HistogramLandmarks

logger = logging.getLogger(__name__)

# Level and width in Hounsfield. Usual values, as in https://radiopaedia.org/articles/windowing-ct; where that gives a
# range (subdural: level 50 to 100, width 130 to 300) its middle. For stroke 32/8 is used too, but so narrow a window
# turns the noise of a scan into black and white.
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


class _Intensityd(MapTransform):
    """Replaces images by what ``scaled`` makes of them."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Raises:
            ValueError: if an image is not (1, H, W, D), and as ``scaled`` does.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            if image.ndim != 4 or image.shape[0] != 1:
                raise ValueError(
                    f"{_name(image)} has the shape {tuple(image.shape)} where one channel and three axes (1, H, W, D) "
                    "are needed: colour images are scaled by ScaleToUnitd."
                )
            result[key] = self.scaled(image)
        return result

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": type(self).__name__}

    @abstractmethod
    def scaled(self, image: Tensor) -> Tensor: ...


class ScaleToUnitd(MapTransform):
    """Maps intensities to float32 [0, 1], linearly and without clipping, so that what is brighter than normal stays so.

    Args:
        keys: images (C, ...) in the type they were stored in.
        intensity_range: the values that become 0 and 1; None takes [0, 255] for 8-bit images and refuses others.
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
                    'intensity_range must say which values become 0 and 1: add --intensity_range "[low, high]", as '
                    "`python -m bundle prepare` prints it, to training, evaluation and inference alike; for scans "
                    "name configs/data/ct.json or configs/data/mr.json as a further file of --config_file."
                )
            low, high = self.intensity_range or (0, 255)
            result[key] = (image.float() - low) / (high - low)
        return result


class Windowedd(_Intensityd):
    """CT through one or three windows, each of which becomes a channel: (1, H, W, D) to (windows, H, W, D).

    What lies below ``level - width / 2`` becomes 0, above ``level + width / 2`` 1, between linearly so. This is DICOM's
    LINEAR_EXACT, not its default LINEAR, whose edges lie half a unit lower for the sake of integer displays.

    Args:
        keys: images in Hounsfield.
        windows: names out of ``WINDOWS`` or [level, width] in Hounsfield.
    """

    def __init__(
        self, keys: KeysCollection, windows: Sequence[str | Sequence[float]], allow_missing_keys: bool = False
    ) -> None:
        """
        Raises:
            ValueError: if a window is unknown or has no width, or they are neither one nor three.
        """
        super().__init__(keys, allow_missing_keys)
        if isinstance(windows, str) or len(windows) not in (1, 3):
            raise ValueError(f"windows must be a list of one or of three windows, got {windows!r}: {_WINDOWS_HELP}")
        self.windows = [_window(window) for window in windows]

    @property
    def settings(self) -> dict[str, Any]:
        """With windows as [level, width], since a name may come to stand for another window."""
        return {**super().settings, "windows": self.windows}

    def scaled(self, image: Tensor) -> Tensor:
        level, width = torch.tensor(self.windows, device=image.device).T[..., None, None, None]
        return ((image.float() - level) / width + 0.5).clamp(0, 1)


class _ByForegroundd(_Intensityd):
    """Scales by the quantiles of the whole volume's foreground.

    They come from ``image.meta["foreground_quantiles"]`` (``QUANTILES`` of them); a whole volume does without.
    """

    lower, upper = QUANTILES[0], QUANTILES[-1]

    def scaled(self, image: Tensor) -> Tensor:
        """
        Raises:
            ValueError: if the quantiles are needed and missing, or not ``QUANTILES``.
        """
        quantiles = _quantiles(image)
        low, high = (float(quantiles[QUANTILES.index(edge)]) for edge in (self.lower, self.upper))
        if low < high:
            return self.between(image, quantiles, low, high)
        logger.warning(
            "%s has no contrast in its foreground, which is %g all over: it becomes black", _name(image), low
        )
        return torch.zeros_like(image, dtype=torch.float32)

    @abstractmethod
    def between(self, image: Tensor, quantiles: NDArray[np.float64], low: float, high: float) -> Tensor: ...


class ScaleByForegroundd(_ByForegroundd):
    """MR: two quantiles of the foreground become 0 and 1, linearly and with clipping.

    Args:
        keys: images with ``meta["foreground_quantiles"]``, or whole volumes.
        lower: the quantile that becomes 0, one of ``QUANTILES``.
        upper: the quantile that becomes 1, one of ``QUANTILES``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        lower: float = QUANTILES[0],
        upper: float = QUANTILES[-1],
        allow_missing_keys: bool = False,
    ) -> None:
        """
        Raises:
            ValueError: if ``lower`` and ``upper`` are not two ascending ``QUANTILES``.
        """
        super().__init__(keys, allow_missing_keys)
        if not (lower in QUANTILES and upper in QUANTILES and lower < upper):
            raise ValueError(f"lower and upper must be two ascending of {QUANTILES}, got {lower} and {upper}.")
        self.lower, self.upper = lower, upper

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "lower": self.lower, "upper": self.upper}

    def between(self, image: Tensor, quantiles: NDArray[np.float64], low: float, high: float) -> Tensor:
        return ((image.float() - low) / (high - low)).clamp(0, 1)


class MatchLandmarksd(_ByForegroundd):
    """MR: brings the foreground's quantiles to ``landmarks``, linearly between them and with clipping beyond.

    Args:
        keys: images with ``meta["foreground_quantiles"]``, or whole volumes.
        landmarks: learnt or loaded before the first image; a checkpoint keeps them beside ``settings``.
    """

    def __init__(self, keys: KeysCollection, landmarks: HistogramLandmarks, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.landmarks = landmarks

    def between(self, image: Tensor, quantiles: NDArray[np.float64], low: float, high: float) -> Tensor:
        # Few grey levels give equal quantiles: such a level gets the mean of their landmarks, which keeps the order.
        levels, group = np.unique(quantiles, return_inverse=True)
        targets = np.bincount(group, self.landmarks.values) / np.bincount(group)
        matched = np.interp(image.cpu().numpy(), levels, targets, left=0, right=1)
        return convert_to_dst_type(matched, image, dtype=torch.float32)[0]


_WINDOWS_HELP = f"take [level, width] in Hounsfield, or a name out of {', '.join(WINDOWS)}."


def _window(window: str | Sequence[float]) -> list[float]:
    if isinstance(window, str):
        if window not in WINDOWS:
            raise ValueError(f"There is no window {window!r}: {_WINDOWS_HELP}")
        return list(WINDOWS[window])
    try:
        level, width = (float(value) for value in window)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{window!r} is no window: {_WINDOWS_HELP}") from error
    if not (np.isfinite(level) and 0 < width < np.inf):
        raise ValueError(f"The window {window!r} needs a level, and a width above 0: {_WINDOWS_HELP}")
    return [level, width]


def _quantiles(image: Tensor) -> NDArray[np.float64]:
    meta = getattr(image, "meta", {})
    if "foreground_quantiles" in meta:
        quantiles = np.asarray(meta["foreground_quantiles"], np.float64)
        if quantiles.shape != (len(QUANTILES),):
            raise ValueError(
                f"{_name(image)} comes with foreground quantiles of shape {quantiles.shape}, not {(len(QUANTILES),)}: "
                "delete the cache it was read from."
            )
        return quantiles
    if image.shape[-1] == 1 or "slice" in meta:
        raise ValueError(
            f"{_name(image)} is a slice of a volume whose foreground quantiles are unknown: put them, as "
            'scripts.data.foreground.foreground_quantiles gives them, into its meta["foreground_quantiles"].'
        )
    return foreground_quantiles(image[0].cpu().numpy())


def _name(image: Tensor) -> str:
    return str(getattr(image, "meta", {}).get("filename_or_obj", "An image"))
