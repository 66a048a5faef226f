"""N4: a known bias field is taken off a phantom."""

import sys

import numpy as np
import pytest
from monai.utils import optional_import

from scripts.data import bias_field
from scripts.data.bias_field import n4_corrected


@pytest.fixture(autouse=True)
def _simpleitk() -> None:
    pytest.importorskip("SimpleITK", reason="N4 is SimpleITK's")


def _phantom(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An ellipsoid of two tissues in air; the smooth field multiplied with it; where its outer tissue is."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) if size > 1 else np.zeros(1) for size in shape], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    tissue = np.where(radius < 0.45, 400.0, np.where(radius < 0.85, 700.0, 0.0))
    noise = 1 + 0.01 * np.random.default_rng(0).standard_normal(shape)
    field = np.exp(0.4 * axes[0] - 0.3 * axes[1] * axes[1] + 0.1 * axes[2])
    return tissue * noise, field, (radius > 0.5) & (radius < 0.8)


def _variation(values: np.ndarray) -> float:
    return float(values.std() / values.mean())


@pytest.mark.parametrize("shape", [(40, 36, 12), (48, 48, 1), (1, 48, 48)])
def test_the_field_is_taken_off_the_tissue(shape: tuple[int, int, int]) -> None:
    clean, field, outer = _phantom(shape)
    biased = (clean * field).astype(np.int16)
    corrected = n4_corrected(biased, (1.0, 1.1, 4.0))
    assert corrected.shape == shape
    assert corrected.dtype == np.float32
    assert _variation(corrected[outer]) < _variation(biased[outer]) / 4
    assert np.isfinite(corrected).all()
    assert (corrected[clean == 0] == 0).all()


@pytest.mark.parametrize("value", [0, -5, 9])
def test_a_volume_without_foreground_comes_back_as_it_is(value: int) -> None:
    volume = np.full((8, 8, 8), value, np.int16)
    np.testing.assert_array_equal(n4_corrected(volume, (1, 1, 1)), volume)


def test_without_simpleitk_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    missing, _ = optional_import("SimpleITK", descriptor=bias_field.MISSING)
    monkeypatch.setattr(bias_field, "sitk", missing)
    with pytest.raises(ImportError, match="pip install SimpleITK"):
        n4_corrected(_phantom((12, 12, 12))[0], (1, 1, 1))
