"""The way of an image from its file to the network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose, ResizeWithPadOrCropd, Transform

from scripts.data.scans import Scan, is_scan, open_every, open_scan
from scripts.data.template import Template
from scripts.transforms.channels import ToThreeChannelsd
from scripts.transforms.geometry import CropToForegroundd, ResizeInPlaned
from scripts.transforms.intensity import ShiftToTemplated
from scripts.transforms.reading import LoadScand, ToPlaned

_LANDMARKS = "landmarks"
_SETTINGS = "settings"
_TEMPLATE = "template"


class Preprocessing(Compose):
    """Reads ``image`` and brings it to (3, image_size, image_size, slices) in [0, 1]; can be inverted.

    With ``align``, scans are brought to a template, on whose grid ``image`` then lies, and whose slices a ``slice``
    counts; a whole scan also gets ``scan``, as it lies in its file otherwise.

    A checkpoint keeps the settings, what the intensity transform has learnt, and the template; it is refused by other
    settings.

    Args:
        intensity: Transform of (C, rows, columns, slices) to [0, 1]; names its own ``settings``, and holds what it has
            learnt as ``landmarks``.
        image_size: Side of the network's input, in pixels.
        plane: axial, coronal or sagittal.
        cache_dir: Folder for uncompressed copies of scans, see ``scripts.data.scans.open_scan``.
        keep_aspect_ratio: Whether to pad to the square, which images are stretched to otherwise.
        pixel_spacing: Millimetres of a pixel, in place of fitting the square; None fits.
        crop_to_foreground: Whether to cut away what is empty all over a scan.
        neighbours: Whether the channels are the slice below, the slice and the slice above (2.5D).
        bias_correction: Whether to correct the bias field of MR by N4, once a scan.
        align: Whether to bring scans to a template, see ``Template``.
        path: Checkpoint to take what was learnt from where nobody restores it, as in MONAI Label's own app.

    Attributes:
        template: The template; None where scans are not aligned.
        reading: The first part, which makes what a picture shows: (C, rows, columns, slices) in [0, 1].
        settings: All that changes the network's input, as JSON values.

    >>> from scripts.transforms import ScaleToUnitd
    >>> Preprocessing(ScaleToUnitd("image"), image_size=64).settings["image_size"]
    64
    """

    def __init__(
        self,
        intensity: Any,
        image_size: int,
        plane: str = "axial",
        cache_dir: str | Path = "cache",
        keep_aspect_ratio: bool = False,
        pixel_spacing: float | None = None,
        crop_to_foreground: bool = False,
        neighbours: bool = False,
        bias_correction: bool = False,
        align: bool = False,
        path: str = "",
    ) -> None:
        read = LoadScand("image", cache_dir, plane, neighbours=int(neighbours), bias_correction=bias_correction)
        self.reading = Compose([read, ToPlaned("image", plane), intensity])
        super().__init__(
            [
                self.reading,
                *([CropToForegroundd("image")] if crop_to_foreground else []),
                ResizeInPlaned("image", image_size, keep_aspect_ratio, pixel_spacing),
                ResizeWithPadOrCropd("image", spatial_size=(image_size, image_size, -1)),
                ToThreeChannelsd("image", neighbours=neighbours),
                *([_Alignment(self)] if align else []),
            ]
        )
        self.intensity, self.plane, self.cache_dir = intensity, plane, cache_dir
        self.bias_correction, self.path = bias_correction, Path(path)
        self.template = Template(self._read, image_size, plane) if align else None
        load = LoadScand("image", cache_dir, plane, int(neighbours), bias_correction, template=self.template)
        self._aligned = Compose(
            [
                load,
                ToPlaned("image", plane),
                intensity,
                ShiftToTemplated("image"),
                ToThreeChannelsd("image", neighbours=neighbours),
            ]
        )
        own = dict(intensity.settings)
        self.settings: dict[str, Any] = {
            "image_size": image_size,
            "plane": plane,
            "keep_aspect_ratio": keep_aspect_ratio,
            "pixel_spacing": pixel_spacing,
            "crop_to_foreground": crop_to_foreground,
            "neighbours": neighbours,
            "bias_correction": bias_correction,
            "align": align,
            "intensity": own.pop("name"),
            **own,
        }

    def __call__(self, input_: Mapping[Any, Any], *others: Any, **more: Any) -> Any:  # type: ignore[override]
        if "slice" in input_ and self.template is not None and self.template.known:
            return self._aligned(input_)
        return super().__call__(input_, *others, **more)

    def beside(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Puts the aligned ``image`` of a whole scan beside the one that is there, which becomes ``scan``."""
        if self.template is None or not is_scan(data["image"].meta["filename_or_obj"]):
            return dict(data)
        if not self.template.known and self.path.is_file():
            self.load_state_dict(torch.load(self.path, map_location="cpu", weights_only=True)["preprocessing"])
        if not self.template.known:
            return dict(data)
        aligned: Any = self._aligned({"image": data["image"].meta["filename_or_obj"]})
        return {**data, "image": aligned["image"], "scan": data["image"]}

    def learn(self, files: Sequence[str]) -> None:
        """Learns what the intensity transform and the template need from normal scans; of images they learn nothing.

        Args:
            files: Paths of the training images.

        Raises:
            ValueError: If they cannot be learnt from.
        """
        files = [file for file in files if is_scan(file)]
        if self.landmarks is None and self.template is None:
            return
        scans = open_every(files, self.open_file)
        if self.landmarks is not None:
            self.landmarks.learn([scan.quantiles for scan in scans.values()])
        if self.template is not None and files:
            self.template.learn(list(scans.values()), self.cache_dir, json.dumps(self.settings))

    def open(self, file: str) -> Scan:
        """Opens a scan as the network sees it: on the grid of the template, if scans are aligned."""
        scan = self.open_file(file)
        if self.template is None or not self.template.known:
            return scan
        return self.template.aligned(scan, self.cache_dir)[0]

    def open_file(self, file: str) -> Scan:
        """Opens a scan as it lies in its file."""
        return open_scan(file, self.cache_dir, bias_correction=self.bias_correction)

    def _read(self, file: str) -> Any:
        return self.reading({"image": file})["image"]

    @property
    def landmarks(self) -> Any:
        """Landmarks that the intensity transform learns from the training scans; None where it learns none."""
        return getattr(self.intensity, _LANDMARKS, None)

    def state_dict(self) -> dict[str, Any]:
        learnt = {} if self.landmarks is None else {_LANDMARKS: self.landmarks.state_dict()}
        if self.template is not None:
            learnt[_TEMPLATE] = self.template.state_dict()
        return {_SETTINGS: self.settings, **learnt}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Raises:
            ValueError: If the state is one of other settings; names them.
        """
        trained = state[_SETTINGS]
        different = [name for name in {**trained, **self.settings} if trained.get(name) != self.settings.get(name)]
        if different:
            pairs = ", ".join(f"{name} {trained.get(name)}, now {self.settings.get(name)}" for name in different)
            raise ValueError(f"it was trained on images of other settings ({pairs}).")
        if self.landmarks is not None:
            self.landmarks.load_state_dict(state[_LANDMARKS])
        if self.template is not None:
            self.template.load_state_dict(state[_TEMPLATE])


class _Alignment(Transform):
    """Last step of ``Preprocessing``, a transform of its own since MONAI Label runs the steps one by one."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        return self.preprocessing.beside(data)
