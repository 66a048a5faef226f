"""A result is counted as its series has the slices, whichever way the model looked at the scan."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.data.planes import AXCODES
from scripts.dicom.results import on_series, write_dicom
from scripts.dicom.volume import Volume
from scripts.results.result import Result

SHAPE = (12, 10, 6)


def predicted(volume: Volume, plane: str) -> Result:
    """A result as of the predictor, which turns the scan to the plane: a slice's score is the highest of its map."""
    anomaly_map = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    turned = nib.Nifti1Image(anomaly_map, volume.affine)
    wanted = nib.orientations.axcodes2ornt(AXCODES[plane])
    turned = turned.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(volume.affine), wanted))
    scores = np.asarray(turned.dataobj).max(axis=(0, 1))
    top = np.argsort(scores)[::-1][:3]
    return Result(
        score=float(scores.max()),
        scan_threshold=1.2,
        slice_threshold=1.1,
        mask_threshold=0.87,
        p_value=0.4,
        false_positive_rate=0.05,
        slice_scores=scores.tolist(),
        slice_p_values=[1 / (1 + number) for number in range(len(scores))],
        top_slices=top.tolist(),
        plane=plane,
        anomaly_map=torch.from_numpy(anomaly_map)[None],
        mask=torch.from_numpy(anomaly_map > 0.87).to(torch.uint8)[None],
    )


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("series", ["axial", "coronal", "sagittal", "flipped"])
def test_slices_are_counted_as_the_series_has_them(acquire, series: str, plane: str) -> None:
    volume = acquire(series)
    given = predicted(volume, plane)
    found = on_series(given, volume)
    np.testing.assert_array_equal(found.anomaly_map, given.anomaly_map[0])
    np.testing.assert_array_equal(found.mask, given.anomaly_map[0] > 0.87)
    expected = found.anomaly_map.max(axis=(0, 1))
    np.testing.assert_array_equal(np.float32(found.slice_scores), expected)
    assert found.top_slices == np.argsort(expected)[::-1][:3].tolist()
    assert found.verdict() == {**given.verdict(), "slice_threshold": found.slice_threshold}


def test_p_values_and_the_threshold_go_with_the_slices_they_are_of(acquire) -> None:
    volume = acquire("axial")
    straight, reversed_ = predicted(volume, "axial"), predicted(acquire("flipped"), "axial")
    assert on_series(straight, volume).slice_p_values == straight.slice_p_values
    assert on_series(reversed_, acquire("flipped")).slice_p_values == reversed_.slice_p_values[::-1]
    assert on_series(straight, volume).slice_threshold == 1.1
    across = on_series(predicted(volume, "coronal"), volume)
    assert across.slice_p_values == [None] * 6
    assert across.slice_threshold is None


def test_without_a_mask_there_is_none(acquire) -> None:
    volume = acquire()
    assert on_series(replace(predicted(volume, "axial"), mask=None), volume).mask is None


@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_what_is_not_finite_is_refused(acquire, plane: str) -> None:
    volume = acquire()
    given = predicted(volume, plane)
    for changes in ({"score": np.nan}, {"scan_threshold": np.inf}, {"anomaly_map": given.anomaly_map * np.nan}):
        with pytest.raises(ValueError, match="NaN or infinite"):
            on_series(replace(given, **changes), volume)


def test_counted_results_are_written(acquire, algorithm, errors, tmp_path) -> None:
    volume = acquire("sagittal")
    found = on_series(predicted(volume, "axial"), volume)
    paths = write_dicom(volume, found, algorithm, tmp_path, secondary_capture=True)
    assert [path.name for path in paths[3:]] == [f"overlay_{k:03d}.dcm" for k in found.top_slices]
    assert {path.name: errors(path) for path in paths} == {path.name: [] for path in paths}
