"""The reference of normal maps: weighted statistics by hand, and what a map becomes by them."""

import numpy as np
import pytest
import torch

from scripts.reference import MapReference

PLACES = torch.linspace(0, 1, 500)
PATIENTS = [str(number % 8) for number in range(500)]


def black(maps: torch.Tensor) -> torch.Tensor:
    """Images (N, 3, H, W) without any brightness."""
    return torch.zeros(len(maps), 3, *maps.shape[2:])


def maps_of(places: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Normal maps (N, 1, 4, 4) whose mean and spread grow along the axis."""
    noise = torch.randn(len(places), 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return (1 + places).view(-1, 1, 1, 1) * (5 + noise)


def fitted(**options: object) -> MapReference:
    reference = MapReference(**{"stride": 1, "floor": 0.0, **options})  # type: ignore[arg-type]
    for part in range(0, 500, 70):
        here = slice(part, part + 70)
        reference.add(maps_of(PLACES)[here], black(maps_of(PLACES)[here]), PLACES[here], PATIENTS[here])
    reference.settle()
    return reference


def test_few_patients_leave_the_order_of_values_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    reference, normal = MapReference(stride=1), maps_of(PLACES)
    reference.add(normal, black(normal), PLACES, [str(number % 7) for number in range(500)])
    reference.settle()
    assert "7 normal patients" in caplog.text
    new = maps_of(PLACES, seed=1)
    assert (reference(new, black(new), PLACES).flatten().argsort() == new.flatten().argsort()).all()
    middle = reference(normal.mean().expand(1, 1, 4, 4), black(normal[:1]), torch.tensor([0.3]))
    assert float(middle.mean()) == pytest.approx(np.log(2), abs=0.05)


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_map_is_standardised_by_the_normals_near_its_place(place: float) -> None:
    new, normal = torch.full((1, 1, 4, 4), 7.0), maps_of(PLACES).double().numpy()[:, 0]
    weights = np.exp(-0.5 * ((PLACES.double().numpy() - place) / 0.1) ** 2)
    mean = np.average(normal, 0, weights)
    deviation = np.sqrt(np.average((normal - mean) ** 2, 0, weights))
    expected = np.log1p(np.exp((7 - mean) / deviation))
    found = fitted(bandwidth=0.1)(new, black(new), torch.tensor([place]))
    np.testing.assert_allclose(found[0, 0].numpy(), expected, rtol=1e-4)


def test_normal_maps_look_alike_at_all_places() -> None:
    raw = maps_of(PLACES, seed=1)
    new = fitted(bandwidth=0.05)(raw, black(raw), PLACES)
    assert new[:100].mean() == pytest.approx(float(new[-100:].mean()), abs=0.1)
    assert raw[-100:].mean() > 1.5 * raw[:100].mean()


def test_the_order_of_anomalies_is_kept_and_the_result_is_positive() -> None:
    values = torch.linspace(-500, 500, 16).view(1, 1, 4, 4)
    flat = MapReference(bandwidth=10, floor=0.0, stride=1)
    flat.add(
        torch.randn(300, 1, 1, 1).expand(-1, -1, 4, 4), torch.zeros(300, 3, 4, 4), torch.zeros(300), PATIENTS[:300]
    )
    flat.settle()
    found = flat(values, black(values), torch.tensor([0.0])).flatten()
    assert (found.diff() >= 0).all()
    assert found.min() >= 0
    assert found.isfinite().all()


def test_deviations_are_no_smaller_than_the_floor() -> None:
    reference = MapReference(floor=0.5, stride=1)
    maps = torch.randn(400, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    maps[..., 0] = 1.0
    reference.add(maps, black(maps), torch.full((400,), 0.5), PATIENTS[:400])
    reference.settle()
    assert reference.deviation is not None
    at = reference.deviation[16, 0]
    np.testing.assert_allclose(at[:, 0], 0.5 * float(reference.deviation.mean() / 1.25) * 1.25, rtol=0.3)
    assert (at[:, 1] > 0.8).all()


def test_pixels_share_statistics_by_the_stride() -> None:
    reference = MapReference(stride=4)
    reference.add(torch.rand(10, 1, 32, 16), torch.rand(10, 3, 32, 16), torch.rand(10), PATIENTS[:10])
    reference.settle()
    assert reference.mean is not None
    assert reference.mean.shape[1:] == (1, 8, 4)
    assert reference(torch.rand(3, 1, 32, 16), torch.rand(3, 3, 32, 16), torch.tensor([0.1, 0.2, 1.0])).shape == (
        3,
        1,
        32,
        16,
    )


def test_the_state_restores_it_and_other_settings_are_refused() -> None:
    reference, other = fitted(), MapReference(stride=1, floor=0.0)
    other.load_state_dict(reference.state_dict())
    new = maps_of(PLACES, seed=2)
    torch.testing.assert_close(other(new, black(new), PLACES), reference(new, black(new), PLACES), rtol=0, atol=0)
    with pytest.raises(ValueError, match="other settings"):
        MapReference(bandwidth=0.5).load_state_dict(reference.state_dict())


def test_without_normals_it_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="--resume True"):
        MapReference()(torch.rand(1, 1, 8, 8), torch.rand(1, 3, 8, 8), torch.tensor([0.5]))
    with pytest.raises(ValueError, match="no normal map"):
        MapReference().settle()
    with pytest.raises(ValueError, match="bandwidth > 0"):
        MapReference(bandwidth=0)


def test_what_is_brighter_or_darker_than_normal_at_its_place_adds_its_deviations() -> None:
    generator = torch.Generator().manual_seed(0)
    grey = PLACES.view(-1, 1, 1, 1) + 0.1 * torch.randn(500, 1, 1, 1, generator=generator)
    images, maps = grey.expand(-1, 3, 4, 4), maps_of(PLACES)
    both, plain = (MapReference(bandwidth=0.1, floor=0.0, stride=1, brightness=weight) for weight in (0.5, 0.0))
    for reference in (both, plain):
        reference.add(maps, images, PLACES, PATIENTS)
        reference.settle()
    new, place = maps[250:251], torch.tensor([0.5])
    weights = np.exp(-0.5 * ((PLACES.double().numpy() - 0.5) / 0.1) ** 2)
    values = grey.double().numpy()[:, 0, 0, 0]
    mean = np.average(values, 0, weights)
    deviation = np.sqrt(np.average((values - mean) ** 2, 0, weights))
    for brightness in (0.2, 1.0):
        image = torch.full((1, 3, 4, 4), brightness)
        added = both(new, image, place) - plain(new, image, place)
        away = (brightness - mean) / deviation
        expected = 0.5 * (np.log1p(np.exp(away)) + 0.5 * np.log1p(np.exp(-away)))
        np.testing.assert_allclose(added.numpy(), expected, rtol=1e-3, atol=1e-5)
