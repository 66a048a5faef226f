"""The mask as a DICOM Segmentation: what it says of itself, and masks that are empty or none."""

import subprocess

import numpy as np
import pytest
from pydicom import dcmread

from scripts.dicom.derived import reference_images, save
from scripts.dicom.segmentation import segmentation


@pytest.mark.parametrize("enhanced", [False, True])
def test_an_empty_mask_is_a_valid_segmentation_of_zeros(
    acquire, result, algorithm, errors, program, tmp_path, enhanced: bool
) -> None:
    volume = acquire(enhanced=enhanced)
    mask = np.zeros(volume.array.shape, np.uint8)
    path = save(
        segmentation(volume, reference_images(volume), result(volume, mask=mask), algorithm), tmp_path / "empty.dcm"
    )
    assert errors(path) == []
    dataset = dcmread(path)
    assert dataset.pixel_array.shape == (6, 10, 12)
    assert not dataset.pixel_array.any()
    words = ["--inputDICOM", path, "--outputDirectory", tmp_path]
    subprocess.run([program("segimage2itkimage"), *map(str, words)], check=True, capture_output=True)


def test_segment_says_what_it_shows_and_who_found_it(acquire, result, untrained) -> None:
    volume = acquire()
    mask = np.ones(volume.array.shape, np.uint8)
    made = segmentation(volume, reference_images(volume), result(volume, mask=mask), untrained)
    (segment,) = made.SegmentSequence
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (made.SegmentationType, segment.SegmentLabel, segment.SegmentAlgorithmType) == (
        "BINARY",
        "Anomaly",
        "AUTOMATIC",
    )
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "49755003"
    assert segment.AnatomicRegionSequence[0].CodeValue == "69536005"  # the phantom is a HEAD
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("PDD", "1.2.3")
    assert algorithm.AlgorithmParameters == "model=0123456789abcdef,untrained=yes,mask_threshold=0.87"
    assert made.SeriesDescription == "Anomaly mask, untrained teachers, not for clinical use"


@pytest.mark.parametrize(("shape", "value", "message"), [((12, 10, 6), 2, "0 and 1"), ((10, 12, 6), 1, "grid")])
def test_refuses_what_is_no_mask_of_the_scan(
    acquire, result, algorithm, shape: tuple, value: int, message: str
) -> None:
    volume = acquire()
    with pytest.raises(ValueError, match=message):
        segmentation(volume, reference_images(volume), result(volume, mask=np.full(shape, value)), algorithm)
