"""The way of an image from its file to the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.transforms import Compose, ResizeWithPadOrCropd

from scripts.transforms.channels import ToThreeChannelsd
from scripts.transforms.geometry import CropToForegroundd, ResizeInPlaned
from scripts.transforms.reading import LoadScand, ToPlaned

_LANDMARKS = "landmarks"
_SETTINGS = "settings"


class Preprocessing(Compose):
    """Reads ``image`` and brings it to (3, image_size, image_size, slices) in [0, 1]; can be inverted.

    A checkpoint keeps the settings and what the intensity transform has learnt, and is refused by other settings.

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

    Attributes:
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
            ]
        )
        self.intensity, self.plane, self.cache_dir = intensity, plane, cache_dir
        self.bias_correction = bias_correction
        own = dict(intensity.settings)
        self.settings: dict[str, Any] = {
            "image_size": image_size,
            "plane": plane,
            "keep_aspect_ratio": keep_aspect_ratio,
            "pixel_spacing": pixel_spacing,
            "crop_to_foreground": crop_to_foreground,
            "neighbours": neighbours,
            "bias_correction": bias_correction,
            "intensity": own.pop("name"),
            **own,
        }

    @property
    def landmarks(self) -> Any:
        """Landmarks that the intensity transform learns from the training scans; None where it learns none."""
        return getattr(self.intensity, _LANDMARKS, None)

    def state_dict(self) -> dict[str, Any]:
        learnt = {} if self.landmarks is None else {_LANDMARKS: self.landmarks.state_dict()}
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
