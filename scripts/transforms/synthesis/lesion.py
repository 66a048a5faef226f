"""Anomalies shaped like lesions: blobs, brighter or darker than the tissue, that displace it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from torch import Tensor

from scripts.transforms.synthesis.base import RandSynthesisd, Synthesisd, check_range
from scripts.transforms.synthesis.boxes import draw_corner

# Reach of the displacement of tissue, in multiples of the outline's radius.
REACH = 2.0
# Numbers of waves around the outline; a single wave would only shift it.
WAVES = (2, 3, 4, 5)


class Lesiond(Synthesisd):
    """Adds a lesion: pushes tissue away from a centre or pulls it in, then makes the lesion brighter or darker.

    Let t be the distance from the centre divided by that of the outline in the same direction. Then each pixel

    - shows, for t < 2, the intensity that was on the same ray at ``1 - swelling * (1 - t / 2) ** 2`` times the
      distance, with linear interpolation, and with the edge of the image repeated beyond it;
    - gains, for t < 1, ``intensity``, which falls to 0 over the outer ``softness`` of the radius (smoothstep).

    Nothing is clipped.

    Args:
        keys: Keys of images (C, H, W).
        centre: Row and column of the centre, in pixels.
        radii: Semi-axes of the ellipse, in pixels.
        angle: Angle of the first axis in radians, from down (along the rows) towards the right.
        outline: Amplitude and phase of a wave in the radius, for each of ``WAVES``. The radius of the ellipse is
            multiplied by ``1 + sum(amplitude * cos(waves * direction + phase))``; the amplitudes must sum to less than
            1.
        softness: Fraction of the radius over which the edge fades, in (0, 1].
        intensity: Intensity to add; negative values darken.
        swelling: Displacement of the tissue, in (-1, 1). Positive values expand it, by ``1 / (1 - swelling)`` at the
            centre; negative values contract it.
        foreground_only: Whether to alter the foreground only, which is above 0 in any channel.
        allow_missing_keys: Whether keys may be missing.

    Raises:
        ValueError: If a parameter is outside its range.

    >>> lesion = Lesiond("image", centre=(8, 8), radii=(4, 4), intensity=0.5)
    >>> altered = lesion({"image": torch.zeros(1, 16, 16)})["image"][0]
    >>> altered[8, 8].item(), altered[8, 12].item()
    (0.5, 0.0)
    """

    def __init__(
        self,
        keys: KeysCollection,
        centre: tuple[float, float],
        radii: tuple[float, float],
        angle: float = 0.0,
        outline: Sequence[tuple[float, float]] = (),
        softness: float = 0.5,
        intensity: float = 0.0,
        swelling: float = 0.0,
        foreground_only: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, foreground_only, allow_missing_keys)
        if not min(radii) > 0:
            raise ValueError(f"radii must be positive (pixels), got {radii}.")
        if len(outline) > len(WAVES) or not sum(abs(amplitude) for amplitude, _ in outline) < 1:
            raise ValueError(f"outline must have at most {len(WAVES)} amplitudes with a sum below 1, got {outline}.")
        if not 0 < softness <= 1:
            raise ValueError(f"softness must be above 0 and at most 1, got {softness}.")
        if not -1 < swelling < 1:  # otherwise tissue would fold over
            raise ValueError(f"swelling must lie between -1 and 1, got {swelling}.")
        self.centre, self.radii, self.angle, self.outline = centre, radii, angle, outline
        self.softness, self.intensity, self.swelling = softness, intensity, swelling

    def altered(self, image: Tensor) -> Tensor:
        rows, columns, distance = self._reached(image.shape[1:])
        image = image.clone()
        if self.swelling:
            scale = 1 - self.swelling * (1 - distance / REACH) ** 2
            source = [
                middle + (pixels - middle) * scale for middle, pixels in zip(self.centre, (rows, columns), strict=True)
            ]
            moved = [map_coordinates(channel, source, order=1, mode="nearest") for channel in image.cpu().numpy()]
            image[:, rows, columns] = torch.from_numpy(np.stack(moved)).to(image)
        if self.intensity:
            inside = distance < 1
            inwards = np.minimum((1 - distance[inside]) / self.softness, 1)
            added = self.intensity * inwards**2 * (3 - 2 * inwards)
            image[:, rows[inside], columns[inside]] += torch.from_numpy(added).to(image)
        return image

    def _reached(self, size: Sequence[int]) -> tuple[NDArray[np.int_], NDArray[np.int_], NDArray[np.float64]]:
        """Rows and columns of the pixels to alter, and their t (see the class)."""
        if not all(0 <= middle < extent for middle, extent in zip(self.centre, size, strict=True)):
            raise ValueError(
                f"The centre (row, column) {self.centre} is not within an image of {size[0]} x {size[1]} pixels: apply "
                "the transform to images of the size for which its parameters were drawn."
            )
        farthest = REACH * max(self.radii) * (1 + sum(abs(amplitude) for amplitude, _ in self.outline))
        window = tuple(
            slice(max(0, int(middle - farthest)), min(extent, int(middle + farthest) + 2))
            for middle, extent in zip(self.centre, size, strict=True)
        )
        rows, columns = np.mgrid[window].reshape(2, -1)
        down, right = rows - self.centre[0], columns - self.centre[1]
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        along, across = (down * cos + right * sin) / self.radii[0], (right * cos - down * sin) / self.radii[1]
        direction = np.arctan2(across, along)
        radius = np.ones(rows.shape)
        for waves, (amplitude, phase) in zip(WAVES, self.outline, strict=False):
            radius += amplitude * np.cos(waves * direction + phase)
        distance = np.hypot(along, across) / radius
        reached = distance < REACH
        return rows[reached], columns[reached], distance[reached]


class RandLesiond(RandSynthesisd):
    """``Lesiond`` with a random centre, shape and intensity, all drawn uniformly.

    Args:
        keys: Keys of images (C, H, W), of the same size within an item.
        prob: Probability that an item is altered, in [0, 1].
        radius: Shortest and longest semi-axis in pixels; both axes are cut to half the shorter side of the image.
        irregularity: Maximum sum of the amplitudes of the outline's waves, in [0, 1); 0 leaves an ellipse.
        softness: Lowest and highest fraction of the radius over which the edge fades.
        intensity: Lowest and highest intensity of the lesion; it darkens with probability 1/2.
        swelling: Lowest and highest displacement of the tissue; positive values expand it, negative values contract it.
        foreground_only: Whether the lesion is centred in the foreground and alters nothing else; see
            ``RandSynthesisd``.
        allow_missing_keys: Whether keys may be missing.

    Raises:
        ValueError: If a range does not ascend, or exceeds the values that ``Lesiond`` takes.

    >>> transform = RandLesiond("image", radius=(3, 5)).set_random_state(seed=0)
    >>> altered = transform({"image": torch.zeros(1, 32, 32)})["image"]
    >>> 0.1 <= altered.abs().max().item() <= 0.4
    True
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 1.0,
        radius: tuple[float, float] = (5.0, 16.0),
        irregularity: float = 0.4,
        softness: tuple[float, float] = (0.2, 0.8),
        intensity: tuple[float, float] = (0.1, 0.4),
        swelling: tuple[float, float] = (-0.5, 0.5),
        foreground_only: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, foreground_only, allow_missing_keys)
        check_range("radius", radius, low=1)
        check_range("softness", softness, low=0.01, high=1)
        check_range("intensity", intensity, low=0)
        check_range("swelling", swelling, low=-0.99, high=0.99)
        if not 0 <= irregularity < 1:
            raise ValueError(f"irregularity must be at least 0 and below 1, got {irregularity}.")
        self.radius, self.irregularity, self.softness = radius, irregularity, softness
        self.intensity, self.swelling = intensity, swelling

    def draw(self, foreground: NDArray[np.bool_]) -> Lesiond | None:
        first, second = np.minimum(self.R.uniform(*self.radius, 2), min(foreground.shape) / 2).tolist()
        angle = float(self.R.uniform(0, np.pi))
        amplitudes = self.R.uniform(0, self.irregularity / len(WAVES), len(WAVES)).tolist()
        phases = self.R.uniform(0, 2 * np.pi, len(WAVES)).tolist()
        softness = float(self.R.uniform(*self.softness))
        intensity = float(self.R.uniform(*self.intensity) * self.R.choice([-1, 1]))
        swelling = float(self.R.uniform(*self.swelling))
        centre = draw_corner(self.R, foreground, (1, 1))
        if centre is None:
            return None
        return Lesiond(
            self.keys,
            centre,
            (first, second),
            angle,
            tuple(zip(amplitudes, phases, strict=True)),
            softness,
            intensity,
            swelling,
            self.foreground_only,
            self.allow_missing_keys,
        )
