"""Rectangles of fractal OpenSimplex noise, the anomalies of SCRD4AD."""

from __future__ import annotations

import numpy as np
import torch
from monai.config import KeysCollection
from numpy.typing import NDArray
from pyfastnoiselite.pyfastnoiselite import FastNoiseLite, FractalType, NoiseType, RotationType3D
from torch import Tensor

from scripts.transforms.synthesis.base import RandSynthesisd, Synthesisd, check_range
from scripts.transforms.synthesis.boxes import Box, draw_corner, draw_sides, part

# Within which the origin is drawn, in pixels. Far beyond, float32 coordinates could not tell pixels apart.
EXTENT = 1024.0


class FractalNoised(Synthesisd):
    """Adds ``factor`` times fractal noise within ``box``, the same to all channels. Nothing is clipped.

    Args:
        keys: images (C, H, W).
        box: top, left, height and width in pixels.
        seed: of the noise, from 0 to 2**31 - 1.
        origin: see ``fractal_noise``.
        factor: of the noise.
        octaves: see ``fractal_noise``.
        persistence: see ``fractal_noise``.
        wavelength: see ``fractal_noise``.
        foreground_only: whether only what is above 0 in any channel is altered.
    """

    def __init__(
        self,
        keys: KeysCollection,
        box: Box,
        seed: int,
        origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
        factor: float = 0.2,
        octaves: int = 6,
        persistence: float = 0.6,
        wavelength: float = 32.0,
        foreground_only: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, foreground_only, allow_missing_keys)
        self.box, self.seed, self.origin, self.factor = box, seed, origin, factor
        self.octaves, self.persistence, self.wavelength = octaves, persistence, wavelength

    def altered(self, image: Tensor) -> Tensor:
        image = image.clone()
        noise = fractal_noise(self.box[2:], self.seed, self.origin, self.octaves, self.persistence, self.wavelength)
        part(image, self.box).add_(torch.from_numpy(self.factor * noise).to(image))
        return image


class RandFractalNoised(RandSynthesisd):
    """``FractalNoised`` in one rectangle at a uniform position, with a new field of noise each time.

    Args:
        keys: images (C, H, W), of one size within an item.
        prob: of an item to be altered.
        side: of the rectangle, from and to in pixels, both included; height and width are drawn separately, uniformly,
            and no longer than the image's.
        factor: of the noise.
        octaves: see ``fractal_noise``.
        persistence: see ``fractal_noise``.
        wavelength: see ``fractal_noise``.
        foreground_only: see ``RandSynthesisd``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 1.0,
        side: tuple[int, int] = (10, 31),
        factor: float = 0.2,
        octaves: int = 6,
        persistence: float = 0.6,
        wavelength: float = 32.0,
        foreground_only: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        """
        Raises:
            ValueError: if ``side`` is not two ascending lengths.
        """
        super().__init__(keys, prob, foreground_only, allow_missing_keys)
        check_range("side", side, low=1)
        self.side, self.factor = side, factor
        self.octaves, self.persistence, self.wavelength = octaves, persistence, wavelength

    def draw(self, foreground: NDArray[np.bool_]) -> FractalNoised | None:
        rows, columns = foreground.shape
        sides = draw_sides(self.R, self.side, (rows, columns))
        corner = draw_corner(self.R, foreground, sides)
        seed = int(self.R.randint(2**31 - 1))
        x, y, z = self.R.uniform(0, EXTENT, 3).tolist()
        if corner is None:
            return None
        return FractalNoised(
            self.keys,
            (*corner, *sides),
            seed,
            (x, y, z),
            self.factor,
            self.octaves,
            self.persistence,
            self.wavelength,
            self.foreground_only,
            self.allow_missing_keys,
        )


def fractal_noise(
    size: tuple[int, int],
    seed: int,
    origin: tuple[float, float, float],
    octaves: int = 6,
    persistence: float = 0.6,
    wavelength: float = 32.0,
) -> NDArray[np.float64]:
    """A plane of z of a field of fractal noise: the sum of octaves of 3-D OpenSimplex2 noise, not normalised.

    Octave k, from 0 on, is ``persistence**k * noise(x / w, y / w, z / w)`` with ``w = wavelength / 2**k``, where the
    noise is within [-1, 1], with a standard deviation of about 0.44. All have the same seed. So the sum of six is
    within [-2.39, 2.39], with a standard deviation of about 0.54.

    Args:
        size: height and width in pixels.
        seed: of the field, from 0 to 2**31 - 1.
        origin: x, y and z of the first pixel within the field, in pixels. At integers, as at (0, 0, 0), the finest
            octaves meet the lattice of the noise, where it is always 0.
        octaves: how many.
        persistence: the amplitude of an octave relative to that before.
        wavelength: of the first octave, in pixels.

    Returns:
        (height, width).
    """
    field = FastNoiseLite(seed)
    field.noise_type = NoiseType.NoiseType_OpenSimplex2
    field.fractal_type = FractalType.FractalType_None  # the library's own sum is normalised and changes the seed
    field.rotation_type_3d = RotationType3D.RotationType3D_ImproveXYPlanes  # alike in all directions of the plane
    field.frequency = 1.0
    y, x = np.indices(size, dtype=float).reshape(2, -1)
    points = np.stack([x + origin[0], y + origin[1], np.full(x.size, origin[2])])
    total = np.zeros(x.size)
    for octave in range(octaves):
        scaled = points * (2**octave / wavelength)
        total += persistence**octave * np.asarray(field.gen_from_coords(scaled.astype(np.float32)))
    return total.reshape(size)
