"""Overlays for archives that know no other result."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import ImageDraw

from scripts.dicom.derived import reference_images, save
from scripts.dicom.secondary_capture import secondary_captures, with_text
from scripts.model.algorithm import Algorithm

SHAPE = (192, 144, 3)
NOTICE_ROWS = 30  # of the picture's top
SHAPING = ("font", "spacing", "stroke_width")


@pytest.fixture
def capture(acquire, result, algorithm):
    """One overlay of a scan whose map is 0 but for one spot, and its scan."""

    def make(masked: bool = True, algorithm: Algorithm = algorithm, changes: dict[str, Any] | None = None, **options):
        volume = acquire(shape=SHAPE, **options)
        scores = np.zeros(SHAPE, np.float32)
        scores[70:80, 40:50, 2] = 1
        mask = scores.astype(np.uint8) if masked else None
        found = result(volume, top_slices=[2], anomaly_map=scores, mask=mask, **(changes or {}))
        (made,) = secondary_captures(volume, reference_images(volume), found, algorithm)
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


def test_notice_is_burnt_in_and_the_patient_is_not(capture, untrained) -> None:
    made, _ = capture()
    assert (made.BurnedInAnnotation, made.SeriesDescription) == ("NO", "Anomaly overlay, not for clinical use")
    yellow = is_yellow(made)
    assert yellow[:NOTICE_ROWS].any()
    assert not yellow[NOTICE_ROWS:].any()
    other = capture(PatientName="Another^Name", PatientID="4711")[0]
    np.testing.assert_array_equal(made.pixel_array, other.pixel_array)
    assert is_yellow(capture(algorithm=untrained)[0]).sum() > yellow.sum()


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "not abnormal: score 0.99, scan threshold 1.2, p 0.4"),
        ({"score": 1.3, "p_value": 0.02}, "abnormal: score 1.3, scan threshold 1.2, p 0.02"),
        ({"scan_threshold": None}, "score 0.99, not calibrated"),
    ],
)
def test_verdict_is_burnt_in_under_the_notice(
    capture, untrained, monkeypatch, changes: dict[str, Any], verdict: str
) -> None:
    drawn = []

    def draw(self: ImageDraw.ImageDraw, place: tuple[float, float], text: str, **_: Any) -> None:
        drawn.append(text)

    monkeypatch.setattr(ImageDraw.ImageDraw, "multiline_text", draw)
    capture(changes=changes)
    capture(changes=changes, algorithm=untrained)
    assert drawn == [f"NOT FOR CLINICAL USE\n{verdict}", f"NOT FOR CLINICAL USE\nUNTRAINED TEACHERS\n{verdict}"]


@pytest.mark.parametrize("width", [64, 96, 128, 192, 512, 2000])
def test_all_text_lies_within_the_picture(monkeypatch, width: int) -> None:
    boxes = []
    draw: Callable[..., None] = ImageDraw.ImageDraw.multiline_text

    def measured(self: ImageDraw.ImageDraw, place: tuple[float, float], text: str, **options: Any) -> None:
        boxes.append(self.multiline_textbbox(place, text, **{name: options[name] for name in SHAPING}))
        draw(self, place, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "multiline_text", measured)
    lines = ["NOT FOR CLINICAL USE", "UNTRAINED TEACHERS", "not abnormal: score 0.9876, scan threshold 1.235, p 0.0412"]
    with_text(np.zeros((width, width, 3), np.uint8), lines)
    ((left, top, right, bottom),) = boxes
    assert min(left, top) > -1  # of the outline
    assert right <= width
    assert bottom <= (width if width < 128 else 0.35 * width)


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
