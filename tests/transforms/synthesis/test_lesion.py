"""Lesions have the outline, the edge and the displacement that their parameters say."""

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline

from scripts.transforms import Lesiond, RandLesiond


def _distance(centre: tuple[float, float], radius: float, size: tuple[int, int]) -> np.ndarray:
    down, right = np.indices(size) - np.reshape(centre, (2, 1, 1))
    return np.hypot(down, right) / radius


@pytest.mark.parametrize("intensity", [0.3, -0.7])
def test_a_disc_gets_the_intensity_with_a_soft_edge_and_no_clipping(intensity: float) -> None:
    image = torch.full((3, 60, 70), 0.5)
    result = Lesiond("image", (25, 33), (14, 14), intensity=intensity, softness=0.4)({"image": image})["image"]
    distance = _distance((25, 33), 14, (60, 70))
    inner = distance <= 0.6
    np.testing.assert_allclose(result[:, inner], 0.5 + intensity, atol=1e-6)
    np.testing.assert_array_equal(result[:, distance >= 1], 0.5)
    edge = (distance > 0.6) & (distance < 1)
    smooth = CubicHermiteSpline([0.6, 1], [intensity, 0], [0, 0])
    np.testing.assert_allclose(result[0, edge], 0.5 + smooth(distance[edge]), atol=1e-6)


def test_an_ellipse_lies_along_its_angle_and_has_its_area() -> None:
    image = torch.zeros(1, 101, 101)
    result = Lesiond("image", (50, 50), (30, 12), angle=0.6, softness=0.01, intensity=1.0)({"image": image})["image"]
    weights = result[0].numpy().astype(float)
    assert weights.sum() == pytest.approx(np.pi * 30 * 12, rel=0.02)
    down, right = np.indices(weights.shape) - 50
    moments = np.array([[(weights * a * b).sum() for a in (down, right)] for b in (down, right)]) / weights.sum()
    values, vectors = np.linalg.eigh(moments)
    np.testing.assert_allclose(values, [12**2 / 4, 30**2 / 4], rtol=0.03)
    np.testing.assert_allclose(np.abs(vectors[:, 1]), [np.cos(0.6), np.sin(0.6)], atol=0.01)
    assert vectors[0, 1] * vectors[1, 1] > 0


def test_waves_change_the_radius_of_a_disc_in_every_direction() -> None:
    image = torch.zeros(1, 121, 121)
    outline = [(0.1, 0.5), (0.15, 2.0)]  # two and three waves
    result = Lesiond("image", (60, 60), (30, 30), outline=outline, softness=0.01, intensity=1.0)({"image": image})
    lesion = result["image"][0].numpy() > 0.5
    for direction in np.linspace(0, 2 * np.pi, 40, endpoint=False):
        along = np.arange(0, 60, 0.05)
        down, right = along * np.cos(direction), along * np.sin(direction)
        inside = lesion[np.rint(60 + down).astype(int), np.rint(60 + right).astype(int)]
        expected = 30 * (1 + 0.1 * np.cos(2 * direction + 0.5) + 0.15 * np.cos(3 * direction + 2))
        assert inside.sum() * 0.05 == pytest.approx(expected, abs=1.2)


@pytest.mark.parametrize("swelling", [0.6, 0.2, -0.5, -0.9])
def test_tissue_moves_by_the_radial_field(swelling: float) -> None:
    """A ramp shows where its pixels come from: interpolation of linear values is exact."""
    centre, radius, size = (41.0, 52.0), 15.0, (90, 100)
    rows, columns = np.indices(size, dtype=np.float32) / 100
    image = torch.from_numpy(np.stack([rows, columns]))
    result = Lesiond("image", centre, (radius, radius), swelling=swelling)({"image": image})["image"].numpy() * 100
    down, right = np.indices(size) - np.reshape(centre, (2, 1, 1))
    distance = np.hypot(down, right)
    inside = distance < 2 * radius
    came_from = np.hypot(result[0] - centre[0], result[1] - centre[1])
    expected = distance * (1 - swelling * (1 - distance / (2 * radius)) ** 2)
    np.testing.assert_allclose(came_from[inside], expected[inside], atol=1e-3)
    np.testing.assert_allclose((result[0] - centre[0]) * right, (result[1] - centre[1]) * down, atol=2e-3)  # same ray
    np.testing.assert_array_equal(result[:, ~inside], (image.numpy() * 100)[:, ~inside])
    along = np.argsort(distance[inside])
    assert (np.diff(came_from[inside][along]) > -1e-3).all()  # nothing folds over


@pytest.mark.parametrize(("swelling", "grows"), [(0.5, True), (-0.5, False)])
def test_positive_swelling_makes_what_is_there_larger(swelling: float, grows: bool) -> None:
    image = torch.from_numpy((_distance((40, 40), 6, (80, 80)) < 1).astype(np.float32))[None]
    result = Lesiond("image", (40, 40), (12, 12), swelling=swelling)({"image": image})["image"]
    assert (result.sum() > 1.2 * image.sum()) == grows
    assert (result.sum() < image.sum() / 1.2) != grows


def test_a_lesion_without_intensity_and_swelling_changes_nothing() -> None:
    image = torch.rand(3, 30, 30)
    assert torch.equal(Lesiond("image", (10, 12), (8, 5))({"image": image})["image"], image)
    transform = RandLesiond("image", intensity=(0, 0), swelling=(0, 0)).set_random_state(0)
    assert torch.equal(transform({"image": image})["image"], image)


def test_drawn_lesions_reach_the_bounds_of_their_ranges() -> None:
    image = torch.zeros(3, 64, 50)
    transform = RandLesiond("image", radius=(4, 10), irregularity=0.4).set_random_state(0)
    drawn = []
    for _ in range(2000):
        transform.randomize(image)
        assert isinstance(transform.drawn, Lesiond)
        drawn.append(transform.drawn)
    for values, low, high in [
        ([one.radii[0] for one in drawn], 4, 10),
        ([one.radii[1] for one in drawn], 4, 10),
        ([one.angle for one in drawn], 0, np.pi),
        ([one.softness for one in drawn], 0.2, 0.8),
        ([abs(one.intensity) for one in drawn], 0.1, 0.4),
        ([one.swelling for one in drawn], -0.5, 0.5),
        ([amplitude for one in drawn for amplitude, _ in one.outline], 0, 0.1),
        ([phase for one in drawn for _, phase in one.outline], 0, 2 * np.pi),
    ]:
        margin = 0.01 * (high - low)
        assert low <= min(values) < low + margin
        assert high - margin < max(values) <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=3 * margin)
    assert np.mean([one.intensity > 0 for one in drawn]) == pytest.approx(0.5, abs=0.05)
    rows, columns = np.array([one.centre for one in drawn]).T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 63, 0, 49)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"radii": (0, 3)}, "radii must be positive"),
        ({"outline": [(0.6, 0), (-0.5, 0)]}, "with a sum below 1"),
        ({"outline": [(0.1, 0)] * 5}, "at most 4 amplitudes"),
        ({"softness": 0}, "softness must be"),
        ({"swelling": 1}, "swelling must lie between -1 and 1"),
    ],
)
def test_lesions_that_cannot_be_are_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lesiond("image", (5, 5), **{"radii": (3, 3), **parameters})  # type: ignore[arg-type]
