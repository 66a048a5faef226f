"""Blobs that are brighter or darker than the tissue and displace it."""

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

# How far the displacement of tissue reaches, relative to the outline.
REACH = 2.0
# Waves around the outline. One wave would but shift it.
WAVES = (2, 3, 4, 5)


class Lesiond(Synthesisd):
    """A lesion: tissue is pushed away from its centre or drawn towards it, then it gets brighter or darker.

    Let t be the distance from the centre relative to that of the outline in the same direction. Then a pixel

    - shows, for t < 2, what lay on the same ray at ``1 - swelling * (1 - t / 2) ** 2`` times the distance, between
      pixels by linear interpolation, the image's edge repeated beyond it;
    - is raised, for t < 1, by ``intensity``, which falls to 0 over the last ``softness`` of the radius (smoothstep).

    Nothing is clipped.

    Args:
        keys: images (C, H, W).
        centre: row and column in pixels.
        radii: the semi-axes of the ellipse in pixels.
        angle: of the first axis, in radians from down (along the rows) to the right.
        outline: amplitude and phase of a wave in the radius for each of ``WAVES``: the ellipse's radius is multiplied
            by ``1 + sum(amplitude * cos(waves * direction + phase))``; the amplitudes' sum is below 1.
        softness: the part of the radius over which the edge is soft, in (0, 1].
        intensity: added; negative makes darker.
        swelling: in (-1, 1): positive expands the tissue, at the centre by ``1 / (1 - swelling)``, negative contracts.
        foreground_only: whether only what is above 0 in any channel is altered.
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
        """
        Raises:
            ValueError: if a parameter is beyond its range.
        """
        super().__init__(keys, foreground_only, allow_missing_keys)
        if not min(radii) > 0:
            raise ValueError(f"radii must be positive (pixels), got {radii}.")
        if len(outline) > len(WAVES) or not sum(abs(amplitude) for amplitude, _ in outline) < 1:
            raise ValueError(f"outline must have at most {len(WAVES)} amplitudes of a sum below 1, got {outline}.")
        if not 0 < softness <= 1:
            raise ValueError(f"softness must be above 0 and at most 1, got {softness}.")
        if not -1 < swelling < 1:  # else tissue would fold over
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
        """The pixels that are altered: rows, columns, and t of the class's description."""
        if not all(0 <= middle < extent for middle, extent in zip(self.centre, size, strict=True)):
            raise ValueError(
                f"The centre (row, column) {self.centre} is not within an image of {size[0]} x {size[1]} pixels: apply "
                "the transform to images of the size that its parameters were drawn for."
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
    """``Lesiond`` about a uniform pixel, in any direction.

    Args:
        keys: images (C, H, W), of one size within an item.
        prob: of an item to be altered.
        radius: of either semi-axis, uniform from and to in pixels, and no longer than half the image's shorter side.
        irregularity: the largest sum of the amplitudes of the outline's waves, in [0, 1); 0 leaves an ellipse.
        softness: the part of the radius over which the edge is soft, uniform from and to.
        intensity: how much brighter or, as often, darker the lesion is, uniform from and to.
        swelling: uniform from and to; positive expands the tissue, negative contracts it.
        foreground_only: see ``RandSynthesisd``.
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
        """
        Raises:
            ValueError: if a range does not ascend or leaves the values that ``Lesiond`` takes.
        """
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
