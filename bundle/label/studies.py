"""Series of a DICOMweb server, as the images of a MONAI Label datastore."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.utils.convert import binary_to_image
from monailabel.datastore.utils.dicom import dicom_web_download_series
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.exception import ImageNotFoundException
from pydicom import Dataset

from bundle.label.datastore import SharedDatastore
from bundle.label.errors import EmptyMaskError
from bundle.label.learning import NORMAL
from bundle.label.segments import ALGORITHM, MANUFACTURER, labels_of, require_convertible, segment_info
from scripts.dicom.localisers import is_localiser

_UID = re.compile(r"[0-9.]{1,64}")
_LISTED_FOR = 30  # seconds until the server is asked again


class DicomStudies(DICOMWebDatastore, SharedDatastore):
    """Lists series without localisers; only what a reader has saved counts as a label, not our own results."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._listed: tuple[float, list[str]] = (-float("inf"), [])
        self._is_scan: dict[str, bool] = {}
        self._labels: dict[str, str | None] = {}  # labelled series by its SEG series
        super().__init__(*args, **options)

    def list_images(self) -> list[str]:
        """Series of the searched modality that are not localisers."""
        when, series = self._listed
        if time.monotonic() - when > _LISTED_FOR:
            found = map(Dataset.from_json, self._client.search_for_series(search_filters=self._search_filter))
            series = sorted(str(one.SeriesInstanceUID) for one in found if self._scan(one))
            self._listed = (time.monotonic(), series)
        return series

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Series that a reader's segmentation refers to."""
        found = map(Dataset.from_json, self._client.search_for_series(search_filters={"Modality": "SEG"}))
        labelled = {self._labelled_by(one) for one in found}
        return [image for image in self.list_images() if image in labelled]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Series that no reader's segmentation refers to."""
        labelled = set(self.get_labeled_images())
        return [image for image in self.list_images() if image not in labelled]

    def get_image_uri(self, image_id: str) -> str:
        """Path of a series' NIfTI; fetches the series the first time.

        Raises:
            ImageNotFoundException: If there is no such series.
        """
        wanted = {"SeriesInstanceUID": image_id}
        if not (_UID.fullmatch(image_id) and self._client.search_for_series(search_filters=wanted)):
            raise ImageNotFoundException(f"There is no series {image_id} on the DICOMweb server.")
        folder = Path(self._datastore.image_path(), image_id)
        # MONAI Label scores in a process of its own: neither may take a series that the other is still fetching.
        with FileLock(folder.with_name(f".{image_id}.lock")):
            if not folder.is_dir():
                part = folder.with_name(f".{image_id}.part")
                shutil.rmtree(part, ignore_errors=True)
                dicom_web_download_series(None, image_id, str(part), self._client, self._fetch_by_frame)
                part.rename(folder)
            scan = Path(f"{folder}.nii.gz").resolve()
            if (made := Path(super().get_image_uri(image_id))) != scan:
                made.unlink()  # a temporary file, which the cache has a copy of
            return str(scan)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Adds to the information on a series, which is kept beside its NIfTI."""
        self.get_image_uri(image_id)
        super().update_image_info(image_id, info)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refuses a new image, which would take the place of a fetched series.

        Raises:
            ValueError: Always.
        """
        raise ValueError("Images cannot be added here: send new series to the DICOMweb server.")

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Saves a label; a final one goes to the DICOMweb server, with codes where the client names none.

        Raises:
            EmptyMaskError: If a final label has no segment.
            ValueError: If a final label is not on the grid of its series, or dcmqi cannot convert the series.
        """
        if label_tag != DefaultLabelTag.FINAL:
            return super().save_label(image_id, label_filename, label_tag, label_info, label_id)
        scan, converted = self.get_image_uri(image_id), ""
        require_convertible(scan.removesuffix(".nii.gz"))
        if label_filename.endswith(".bin"):  # the bare voxels that OHIF sends
            label_filename = converted = binary_to_image(scan, label_filename)
        try:
            if not (labels := labels_of(label_filename, scan)):
                raise EmptyMaskError(
                    "DICOM cannot hold an empty label. If the scan is normal, mark it: PUT /datastore/image/info "
                    f'with info={{"{NORMAL}": true}}.'
                )
            entries = segment_info(labels, automatic=False, given=label_info.get("label_info"))
            label_info = {**label_info, "label_info": entries}
            return super().save_label(image_id, label_filename, label_tag, label_info, label_id)
        finally:
            if converted:
                os.unlink(converted)

    def _scan(self, series: Dataset) -> bool:
        """Checks whether a series is a scan, by one of its instances: no series-level attribute tells of localisers."""
        uid = str(series.SeriesInstanceUID)
        if uid not in self._is_scan:
            instances = self._client.search_for_instances(
                str(series.StudyInstanceUID), uid, fields=["ImageType"], limit=1
            )
            image_type = Dataset.from_json(instances[0]).get("ImageType") if instances else None
            described = str(series.get("SeriesDescription") or "")
            self._is_scan[uid] = not is_localiser(described, _texts(image_type))
        return self._is_scan[uid]

    def _labelled_by(self, segmentation: Dataset) -> str | None:
        uid = str(segmentation.SeriesInstanceUID)
        if uid not in self._labels:
            metadata = self._client.retrieve_series_metadata(str(segmentation.StudyInstanceUID), uid)
            self._labels[uid] = labelled_series(Dataset.from_json(metadata[0])) if metadata else None
        return self._labels[uid]


def labelled_series(segmentation: Dataset) -> str | None:
    """Series that a segmentation labels; None if it names none, or is the model's own result."""
    segments = segmentation.get("SegmentSequence") or []
    ours = bool(segments) and all(
        segment.get("SegmentAlgorithmType") == "AUTOMATIC" and segment.get("SegmentAlgorithmName") == ALGORITHM
        for segment in segments
    )
    referenced = segmentation.get("ReferencedSeriesSequence") or []
    if ours or segmentation.get("Manufacturer") == MANUFACTURER or not referenced:
        return None
    return str(referenced[0].SeriesInstanceUID)


def _texts(value: Any) -> Sequence[str]:
    return [value] if isinstance(value, str) else list(value or ())
