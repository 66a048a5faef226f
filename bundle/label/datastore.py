"""MONAI Label's list of images, shared by processes that lose nothing of each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import LocalDatastore

from scripts.data.scans import SCAN_SUFFIXES
from scripts.files import replacing


class SharedDatastore(LocalDatastore):
    """Reads what others have written before it writes, and writes the list of images whole or not at all.

    MONAI Label scores in a process of its own, which writes back what it has read some time before: without this, a
    mark that a reader sets meanwhile would be lost.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self._auto_reload:
            self._handler.on_moved = lambda event: self._init_from_datastore_file()  # `replacing` moves files

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        with self._read_again():
            super().update_image_info(image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        with self._read_again():
            super().update_label_info(label_id, label_tag, info)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        with self._read_again():
            return super().add_image(image_id, image_filename, image_info)

    def save_label(self, *label: Any) -> str:
        with self._read_again():
            return super().save_label(*label)

    @cached_property
    def _writing(self) -> FileLock:
        # MONAI Label's own lock will not do, as it is taken within.
        return FileLock(Path(self._datastore_path, ".writing.lock"))

    @contextmanager
    def _read_again(self) -> Iterator[None]:
        """Keeps others from writing, and reads what they have written before."""
        with self._writing:
            self._config_ts = 0  # two files written in a row may have the same time
            self._init_from_datastore_file()
            yield

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        with self._writing:  # or else what another thread is changing would be lost
            super()._init_from_datastore_file(throw_exception)

    def _reconcile_datastore(self) -> None:
        with self._writing:
            super()._reconcile_datastore()

    def _update_datastore_file(self, lock: bool = True) -> None:
        path = Path(self._datastore_config_path)
        with self._writing:
            with replacing(path) as part:
                content = self._datastore.model_dump(exclude={"base_path"})
                part.write_text(json.dumps(content, indent=2, default=str), encoding="utf-8")
            self._config_ts = path.stat().st_mtime  # type: ignore[assignment]


class NiftiStudies(SharedDatastore):
    """Folder of NIfTI, whose scans are the images."""

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Puts a new scan into the folder.

        Raises:
            ValueError: If it is not a NIfTI, or there is an image of this name.
        """
        if not image_filename.endswith(SCAN_SUFFIXES):
            raise ValueError(f"{image_id} is not a NIfTI (.nii, .nii.gz).")
        with self._writing:
            if image_id in self.list_images():
                raise ValueError(f"There is already an image {image_id!r}: give another name, or delete that image.")
            return super().add_image(image_id, image_filename, image_info)

    def _to_id(self, file: str) -> tuple[str, str]:
        for suffix in SCAN_SUFFIXES:
            if file.endswith(suffix):
                return file.removesuffix(suffix), suffix
        return super()._to_id(file)
