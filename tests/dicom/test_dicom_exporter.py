"""Results of an inference go back to the DICOM series that a scored file stands for."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from bundle.phantom.dicom import write_series
from scripts.dicom.exporter import DicomExporter
from scripts.dicom.series import Series, find_series, read_series

SHAPE = (12, 10, 6)


@pytest.fixture
def series(tmp_path: Path, scan_affine) -> Series:
    """A series whose slices run against those of its plane."""
    array = np.random.default_rng(1).integers(0, 100, SHAPE).astype(np.int16)
    write_series(tmp_path / "scan", array, scan_affine("flipped"))
    (found,) = find_series(tmp_path / "scan", progress=False).series
    return found


def test_map_and_mask_are_written_as_nifti_and_as_dicom(series, result, algorithm, tmp_path: Path) -> None:
    volume = read_series(series)
    scores = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    given = result(volume, anomaly_map=scores, mask=(scores > 0.87).to(torch.uint8))
    exporter = DicomExporter({"scan.nii": series}, algorithm, secondary_capture=True)
    assert exporter.takes("scan.nii")
    assert not exporter.takes("other.nii")
    stale = tmp_path / "out" / "dicom" / "ct" / "overlay_003.dcm"
    stale.parent.mkdir(parents=True)
    stale.touch()
    written = exporter.write("scan.nii", "ct", tmp_path / "out", given)
    assert written == {"map": "maps/ct.nii.gz", "mask": "masks/ct.nii.gz", "dicom": "dicom/ct"}
    heat, mask = (nib.load(tmp_path / "out" / written[kind]) for kind in ("map", "mask"))
    np.testing.assert_array_equal(heat.get_fdata(), scores[0])
    np.testing.assert_array_equal(mask.get_fdata(), scores[0] > 0.87)
    np.testing.assert_allclose(heat.affine, volume.affine, atol=1e-4)
    objects = {"segmentation.dcm", "anomaly_map.dcm", "report.dcm", "overlay_000.dcm", "overlay_005.dcm"}
    assert {path.name for path in stale.parent.iterdir()} == objects


def test_nothing_is_written_of_a_score_that_is_not_finite(series, result, algorithm, tmp_path: Path) -> None:
    given = result(read_series(series), score=np.nan, anomaly_map=torch.zeros(1, *SHAPE), mask=None)
    with pytest.raises(ValueError, match="NaN or infinite"):
        DicomExporter({"scan.nii": series}, algorithm).write("scan.nii", "ct", tmp_path / "out", given)
    assert not (tmp_path / "out").exists()
