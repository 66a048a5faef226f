"""The anomaly map as a DICOM Parametric Map: its values, window and units."""

import numpy as np
import pytest

from scripts.dicom.derived import reference_images, save
from scripts.dicom.parametric_map import parametric_map


def test_window_and_mapping_span_the_values(acquire, result, algorithm, anomaly_map) -> None:
    volume = acquire()
    scores = anomaly_map(volume) - 4
    made = parametric_map(volume, reference_images(volume), result(volume, anomaly_map=scores), algorithm)
    shared = made.SharedFunctionalGroupsSequence[0]
    window, mapping = shared.FrameVOILUTSequence[0], shared.RealWorldValueMappingSequence[0]
    low, high = float(scores.min()), float(scores.max())
    assert window.WindowCenter == pytest.approx((low + high) / 2)
    assert window.WindowWidth == pytest.approx(high - low)
    assert mapping.DoubleFloatRealWorldValueFirstValueMapped == low
    assert mapping.DoubleFloatRealWorldValueLastValueMapped == high
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    (quantity,) = mapping.QuantityDefinitionSequence
    assert quantity.ConceptCodeSequence[0].CodeMeaning == "Value of the anomaly map"
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert mapping.MeasurementUnitsCodeSequence[0].CodingSchemeDesignator == "UCUM"
    assert made.ContentQualification == "RESEARCH"
    assert made.SeriesDescription == "Anomaly map, not for clinical use"
    assert made.BitsAllocated == 32


@pytest.mark.parametrize(
    "scores", [np.zeros, np.ones, lambda shape: np.full(shape, 1e-30), lambda shape: np.full(shape, -7)]
)
def test_constant_maps_are_valid(acquire, result, algorithm, errors, tmp_path, scores) -> None:
    volume = acquire()
    made = parametric_map(
        volume, reference_images(volume), result(volume, anomaly_map=scores(volume.array.shape)), algorithm
    )
    assert errors(save(made, tmp_path / "constant.dcm")) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_values_that_are_not_finite(acquire, result, algorithm, anomaly_map, value: float) -> None:
    volume = acquire()
    scores = anomaly_map(volume)
    scores[1, 2, 3] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        parametric_map(volume, reference_images(volume), result(volume, anomaly_map=scores), algorithm)


def test_refuses_another_grid(acquire, result, algorithm, anomaly_map) -> None:
    volume = acquire()
    with pytest.raises(ValueError, match=r"\(12, 10, 6\)"):
        parametric_map(
            volume, reference_images(volume), result(volume, anomaly_map=anomaly_map(volume)[..., :5]), algorithm
        )
