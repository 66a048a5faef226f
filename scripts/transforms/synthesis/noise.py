"""Anomalies made of a rectangle of fractal OpenSimplex noise, as in SCRD4AD."""

from __future__ import annotations

import numpy as np
import torch
from monai.config import KeysCollection
from numpy.typing import NDArray
from pyfastnoiselite.pyfastnoiselite import FastNoiseLite, FractalType, NoiseType, RotationType3D
from torch import Tensor

from scripts.transforms.synthesis.base import RandSynthesisd, Synthesisd, check_range
from scripts.transforms.synthesis.boxes import Box, draw_corner, draw_sides, part

# Range of the origin's coordinates, in pixels; far beyond it, float32 could not tell neighbouring pixels apart.
EXTENT = 1024.0


class FractalNoised(Synthesisd):
    """Adds ``factor`` times fractal noise within ``box``, the same to all channels. Nothing is clipped.

    Args:
        keys: Keys of images (C, H, W).
        box: Top, left, height and width of the rectangle, in pixels.
        seed: Seed of the noise, from 0 to 2**31 - 1.
        origin: Position of the first pixel in the field of noise, x, y and z in pixels; see ``fractal_noise``.
        factor: Factor on the noise.
        octaves: Number of octaves.
        persistence: Amplitude of an octave relative to the one before.
        wavelength: Wavelength of the first octave, in pixels.
        foreground_only: Whether to alter the foreground only, which is above 0 in any channel.
        allow_missing_keys: Whether keys may be missing.

    >>> noise = FractalNoised("image", box=(2, 3, 4, 5), seed=0, origin=(0.5, 0.5, 0.5))
    >>> altered = noise({"image": torch.zeros(3, 16, 16)})["image"]
    >>> altered.amax(0).nonzero().amin(0).tolist(), altered.amax(0).nonzero().amax(0).tolist()
    ([2, 3], [5, 7])
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
    """``FractalNoised`` in a rectangle at a uniform random position, with new noise each time.

    Args:
        keys: Keys of images (C, H, W), of the same size within an item.
        prob: Probability that an item is altered, in [0, 1].
        side: Shortest and longest side of the rectangle, in pixels. Height and width are drawn separately and
            uniformly, and cut to those of the image.
        factor: Factor on the noise.
        octaves: Number of octaves.
        persistence: Amplitude of an octave relative to the one before.
        wavelength: Wavelength of the first octave, in pixels.
        foreground_only: Whether the rectangle is centred in the foreground and alters nothing else; see
            ``RandSynthesisd``.
        allow_missing_keys: Whether keys may be missing.

    Raises:
        ValueError: If ``side`` does not ascend, or is below 1.

    >>> transform = RandFractalNoised("image", side=(4, 4)).set_random_state(seed=0)
    >>> transform({"image": torch.zeros(1, 16, 16)})["image"].count_nonzero().item()
    16
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
    """Plane of constant z in a field of fractal noise: the sum of octaves of 3D OpenSimplex2 noise, not normalised.

    Octave k, counted from 0, is ``persistence**k * noise(x / w, y / w, z / w)`` with ``w = wavelength / 2**k``. The
    noise lies in [-1, 1], with a standard deviation of about 0.44, and all octaves have the same seed. The sum of six
    octaves thus lies in [-2.39, 2.39], with a standard deviation of about 0.54.

    Args:
        size: Height and width, in pixels.
        seed: Seed of the field, from 0 to 2**31 - 1.
        origin: Position of the first pixel in the field, x, y and z in pixels. At integers, such as (0, 0, 0), the
            finest octaves hit the lattice of the noise, where it is always 0.
        octaves: Number of octaves.
        persistence: Amplitude of an octave relative to the one before.
        wavelength: Wavelength of the first octave, in pixels.

    Returns:
        Noise, (height, width).
    """
    field = FastNoiseLite(seed)
    field.noise_type = NoiseType.NoiseType_OpenSimplex2
    field.fractal_type = FractalType.FractalType_None  # the library's own sum is normalised, with a seed per octave
    field.rotation_type_3d = RotationType3D.RotationType3D_ImproveXYPlanes  # isotropic within the plane
    field.frequency = 1.0
    y, x = np.indices(size, dtype=float).reshape(2, -1)
    points = np.stack([x + origin[0], y + origin[1], np.full(x.size, origin[2])])
    total = np.zeros(x.size)
    for octave in range(octaves):
        scaled = points * (2**octave / wavelength)
        total += persistence**octave * np.asarray(field.gen_from_coords(scaled.astype(np.float32)))
    return total.reshape(size)
