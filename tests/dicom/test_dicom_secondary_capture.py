"""Overlays for archives that know no other result."""

import numpy as np
import pytest

from scripts.dicom.derived import reference_images, save
from scripts.dicom.secondary_capture import secondary_captures

SHAPE = (192, 144, 3)
NOTICE_ROWS = 30  # of the picture's top


@pytest.fixture
def capture(acquire, finding):
    """One overlay of a scan whose map is 0 but for one spot, and its scan."""

    def make(masked: bool = True, untrained: bool = False, **options):
        volume = acquire(shape=SHAPE, **options)
        scores = np.zeros(SHAPE, np.float32)
        scores[70:80, 40:50, 2] = 1
        mask = scores.astype(np.uint8) if masked else None
        found = finding(volume, top_slices=[2], untrained=untrained)
        (made,) = secondary_captures(volume, reference_images(volume), scores, mask, found)
        return made, volume

    return make


def is_yellow(made) -> np.ndarray:
    red, green, blue = np.moveaxis(made.pixel_array.astype(int), -1, 0)
    return (red == green) & (red > blue + 100)


@pytest.mark.parametrize(
    ("plane", "orientation"),
    [("axial", ["L", "P"]), ("coronal", ["L", "F"]), ("sagittal", ["P", "F"]), ("flipped", ["R", "P"])],
)
@pytest.mark.parametrize("enhanced", [False, True])
def test_is_valid_and_shown_as_the_source_is(
    capture, errors, tmp_path, plane: str, orientation: list[str], enhanced: bool
) -> None:
    made, volume = capture(plane=plane, enhanced=enhanced)
    assert errors(save(made, tmp_path / "overlay.dcm")) == []
    assert list(made.PatientOrientation) == orientation
    assert np.array(made.PixelSpacing, float) == pytest.approx([1.1, 0.7])
    assert (made.Rows, made.Columns, made.SamplesPerPixel) == (144, 192, 3)
    (source,) = made.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == volume.sources[0 if enhanced else 2].SOPInstanceUID
    assert source.get("ReferencedFrameNumber") == (3 if enhanced else None)


def test_paints_where_the_map_is_high_and_rings_the_mask(capture) -> None:
    picture = capture()[0].pixel_array.astype(int)
    bare = capture(masked=False)[0].pixel_array.astype(int)
    coloured = np.ptp(bare[NOTICE_ROWS:], axis=-1).max(axis=0) > 0  # below the notice
    assert np.flatnonzero(coloured).tolist() == list(range(70, 80))
    ringed = np.zeros((144, 192), bool)
    ringed[40:50, 70:80] = True
    ringed[41:49, 71:79] = False
    np.testing.assert_array_equal((picture != bare).any(axis=-1) & ~ringed, False)
    assert (picture[ringed] == (255, 0, 0)).all()


def test_notice_is_burnt_in_and_the_patient_is_not(capture) -> None:
    made, _ = capture()
    assert (made.BurnedInAnnotation, made.SeriesDescription) == ("NO", "Anomaly overlay, not for clinical use")
    yellow = is_yellow(made)
    assert yellow[:NOTICE_ROWS].any()
    assert not yellow[NOTICE_ROWS:].any()
    other = capture(PatientName="Another^Name", PatientID="4711")[0]
    np.testing.assert_array_equal(made.pixel_array, other.pixel_array)
    assert is_yellow(capture(untrained=True)[0]).sum() > yellow.sum()


def test_burnt_in_annotation_of_the_source_is_declared(capture) -> None:
    assert capture(BurnedInAnnotation="YES")[0].BurnedInAnnotation == "YES"


def test_lossy_compression_of_the_source_is_declared(capture, errors, tmp_path) -> None:
    lossy = {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": 10,
        "LossyImageCompressionMethod": "ISO_14495_1",
    }
    made = capture(**lossy)[0]
    assert {keyword: made[keyword].value for keyword in lossy} == lossy
    assert errors(save(made, tmp_path / "overlay.dcm")) == []
    assert "LossyImageCompression" not in capture()[0]


def test_grey_values_follow_the_window_of_the_source(capture) -> None:
    made, volume = capture(masked=False)  # the phantom's window is 40 +- 40 HU
    expected = np.clip(volume.array[:, :, 2].T / 80, 0, 1) * 255
    np.testing.assert_allclose(made.pixel_array[NOTICE_ROWS:, :70, 0], expected[NOTICE_ROWS:, :70], atol=0.6)
