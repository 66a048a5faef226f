"""The noise is the sum of the library's octaves, in rectangles of uniform sides at uniform places."""

import numpy as np
import pytest
import torch
from pyfastnoiselite.pyfastnoiselite import FastNoiseLite, NoiseType, RotationType3D
from scipy.stats import chisquare

from scripts.transforms import FractalNoised, RandFractalNoised
from scripts.transforms.synthesis.noise import fractal_noise

ORIGIN = (513.3, 77.81, 906.4)


def _octave(seed: int, wavelength: float, size: tuple[int, int], origin: tuple[float, float, float]) -> np.ndarray:
    """One octave, point by point."""
    field = FastNoiseLite(seed)
    field.noise_type = NoiseType.NoiseType_OpenSimplex2
    field.rotation_type_3d = RotationType3D.RotationType3D_ImproveXYPlanes
    field.frequency = 1.0
    x, y, z = origin
    return np.array(
        [
            [
                field.get_noise((x + column) / wavelength, (y + row) / wavelength, z / wavelength)
                for column in range(size[1])
            ]
            for row in range(size[0])
        ],
        dtype=np.float64,
    )


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_the_noise_is_the_sum_of_octaves_of_halved_wavelength_and_falling_amplitude(seed: int) -> None:
    expected = sum(0.6**k * _octave(seed, 32 / 2**k, (13, 21), ORIGIN) for k in range(6))
    np.testing.assert_allclose(fractal_noise((13, 21), seed, ORIGIN), expected, atol=1e-6)
    assert expected.std() > 0.1
    expected = sum(0.3**k * _octave(seed, 10 / 2**k, (13, 21), ORIGIN) for k in range(3))
    np.testing.assert_allclose(fractal_noise((13, 21), seed, ORIGIN, 3, 0.3, 10.0), expected, atol=1e-6)


def test_an_octave_has_its_power_about_its_wavelength() -> None:
    """Band-limited noise: little of the power lies below a third or above twice the octave's frequency."""
    power, frequency = np.zeros(64), np.fft.fftfreq(128)
    radius = np.hypot(frequency[:, None], frequency[None])
    for seed in range(20):
        plane = fractal_noise((128, 128), seed, ORIGIN, octaves=1, wavelength=16.0) * np.outer(*[np.hanning(128)] * 2)
        spectrum = np.abs(np.fft.fft2(plane)) ** 2
        power += [spectrum[(radius >= k / 128) & (radius < (k + 1) / 128)].sum() for k in range(64)]
    power /= power.sum()
    assert power[:3].sum() < 0.1  # wavelengths beyond 43
    assert power[24:].sum() < 0.1  # wavelengths below 5.3
    assert 5 <= power.argmax() <= 14


def test_the_amplitudes_are_those_documented() -> None:
    random = np.random.default_rng(0)
    planes = [fractal_noise((31, 31), seed, tuple(random.uniform(0, 1024, 3))) for seed in range(400)]
    octaves = [fractal_noise((31, 31), seed, tuple(random.uniform(0, 1024, 3)), 1) for seed in range(400)]
    assert np.abs(planes).max() <= sum(0.6**k for k in range(6)) < 2.39
    assert np.abs(octaves).max() <= 1
    assert np.sqrt(np.mean(np.square(planes))) == pytest.approx(0.54, abs=0.03)
    assert np.sqrt(np.mean(np.square(octaves))) == pytest.approx(0.44, abs=0.03)
    assert abs(np.mean(planes)) < 0.06


def test_a_fifth_of_the_noise_is_added_to_all_channels_without_clipping() -> None:
    image = torch.stack([torch.zeros(40, 50), torch.full((40, 50), 0.5), torch.ones(40, 50)])
    result = FractalNoised("image", (7, 11, 30, 20), seed=3, origin=ORIGIN)({"image": image})["image"]
    expected = image.double().numpy()
    expected[:, 7:37, 11:31] += 0.2 * fractal_noise((30, 20), 3, ORIGIN)
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert result.min() < 0
    assert result.max() > 1


def test_sides_and_corners_are_uniform_and_reach_their_bounds() -> None:
    image = torch.zeros(3, 36, 41)
    transform = RandFractalNoised("image").set_random_state(0)
    boxes = []
    for _ in range(6000):
        transform.randomize(image)
        assert isinstance(transform.drawn, FractalNoised)
        boxes.append(transform.drawn.box)
    tops, lefts, heights, widths = np.array(boxes).T
    for sides in (heights, widths):
        assert (sides.min(), sides.max()) == (10, 31)
        assert chisquare(np.bincount(sides)[10:]).pvalue > 1e-3
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.05
    for corners, sides, extent in [(tops, heights, 36), (lefts, widths, 41)]:
        for side in (10, 31):
            found = np.bincount(corners[sides == side], minlength=extent - side + 1)
            assert len(found) == extent - side + 1
            assert found.all() or side == 10
            assert chisquare(found).pvalue > 1e-3
    seeds = set()
    for _ in range(200):
        transform.randomize(image)
        seeds.add((transform.drawn.seed, transform.drawn.origin))
    assert len(seeds) == 200
