"""Slices with the anomaly map painted over them, as Secondary Captures for archives that know nothing else."""

from __future__ import annotations

import textwrap

import highdicom as hd
import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy import ndimage

from scripts.dicom.derived import (
    description,
    first_attributes,
    frames_of,
    identity,
    is_placed,
    map_frames,
    patient_orientation,
    reference,
)
from scripts.dicom.volume import Volume
from scripts.model.algorithm import Algorithm
from scripts.results.result import Result

SERIES_NUMBER = 9004
NOTICE = "NOT FOR CLINICAL USE"
OPACITY = 0.6  # of the highest map value
SMALLEST = 6  # size of the text that can still be read, in pixels
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def secondary_captures(
    volume: Volume, images: list[Dataset], result: Result, algorithm: Algorithm
) -> list[hd.sc.SCImage]:
    """Makes one RGB image for each top slice, in one series, as the source shows it.

    Colours go from the map's median to its highest value, and a red line is the mask's border. The notice and the
    verdict on the scan are burnt in.

    Args:
        volume: The scan.
        images: Its `reference_images`.
        result: What was found, with a map (i, j, k), and a mask of the same shape or None.
        algorithm: Name of the model.

    Raises:
        ValueError: If the map is not finite, or map or mask have another shape than the scan.
    """
    grey = frames_of(volume, volume.array)
    heat = map_frames(result, volume)
    masked = None if result.mask is None else frames_of(volume, np.asarray(result.mask)) > 0
    window = _window(volume)
    scale = float(np.median(heat)), float(heat.max())
    name = "Anomaly overlay"
    names = identity(name, SERIES_NUMBER, algorithm)
    lines = [NOTICE, *(["UNTRAINED TEACHERS"] if algorithm.untrained else []), result.sentence()]
    burned = "YES" if any(source.get("BurnedInAnnotation") == "YES" for source in volume.sources) else "NO"
    made = []
    for number, k in enumerate(result.top_slices, start=1):
        picture = _overlay(_unit(grey[k], *window), _unit(heat[k], *scale), None if masked is None else masked[k])
        capture = hd.sc.SCImage.from_ref_dataset(
            ref_dataset=images[0],
            pixel_array=with_text(picture, lines),
            photometric_interpretation=hd.PhotometricInterpretationValues.RGB,
            bits_allocated=8,
            coordinate_system=hd.CoordinateSystemNames.PATIENT,
            instance_number=number,
            pixel_spacing=tuple(np.linalg.norm(volume.affine[:3, [1, 0]], axis=0)),
            patient_orientation=("L", "P"),  # asked for even where it is unknown
            transfer_syntax_uid=ExplicitVRLittleEndian,
            **(names | {"sop_instance_uid": generate_uid()}),
        )
        capture.copy_patient_and_study_information(images[0])
        capture.PatientOrientation = patient_orientation(volume)
        # The attribute is about annotation that identifies the patient: our text is none, but the source's may be.
        capture.BurnedInAnnotation = burned
        capture.Laterality = images[0].get("Laterality")  # empty where unknown
        for keyword in _LOSSY:  # what was ever compressed so stays so
            if keyword in images[0]:
                setattr(capture, keyword, images[0][keyword].value)
        capture.DerivationDescription = description(name, algorithm)
        capture.SourceImageSequence = [_source(volume, k)]
        made.append(capture)
    return made


def _window(volume: Volume) -> tuple[float, float]:
    """Lowest and highest value shown: the first window of the source, or else the middle 98 %.

    A radiograph has gone through its window already.
    """
    attributes = first_attributes(volume)
    try:
        centre, width = (float(np.atleast_1d(attributes[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
        if width > 0 and is_placed(volume):
            return centre - width / 2, centre + width / 2
    except (KeyError, IndexError, TypeError, ValueError):
        pass  # there is none
    low, high = np.percentile(volume.array, (1, 99))
    return float(low), float(high)


def _unit(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((values.astype(np.float32) - low) / (high - low or 1.0), 0, 1)


def _overlay(grey: np.ndarray, heat: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Paints a map over a slice, both (rows, columns) in [0, 1]: (rows, columns, 3) uint8."""
    opacity = OPACITY * heat[..., None]
    rgb = (1 - opacity) * grey[..., None] + opacity * colormaps["inferno"](heat)[..., :3]
    if mask is not None:
        rgb[mask & ~ndimage.binary_erosion(mask, border_value=0)] = (1, 0, 0)
    return (rgb * 255).round().astype(np.uint8)


def with_text(picture: np.ndarray, lines: list[str]) -> np.ndarray:
    """Writes lines at the top, as wide as the picture if that leaves them low; too small a picture breaks them."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    columns = max(1, int(image.width / ImageFont.load_default(SMALLEST).getlength("0")))
    text = "\n".join(textwrap.fill(line, columns) for line in lines)
    left, _, right, _ = draw.multiline_textbbox((0, 0), text, font=ImageFont.load_default(100))
    size = max(SMALLEST, min(95 * image.width / (right - left), image.height / 20))
    draw.multiline_text(
        *((size / 4, size / 4), text),
        fill=(255, 255, 0),
        font=ImageFont.load_default(size),
        spacing=size / 4,
        stroke_width=1,
        stroke_fill=0,
    )
    return np.asarray(image)


def _source(volume: Volume, k: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, frames = reference(volume, k)
    if frames:
        item.ReferencedFrameNumber = frames
    return item
