"""The models that MONAI Label offers to viewers and other clients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.transform.writer import Writer

from bundle.label.errors import NotCalibratedError, OptionError
from bundle.label.options import DISPLAYS, LABELS, Options, checked, identity, offered, result_dtype, result_extension
from bundle.label.requests import is_name
from scripts.data.scans import SCAN_SUFFIXES
from scripts.model.predictor import Predictor
from scripts.results.result import NOTICE, Result


class AnomalyTask(InferTask):
    """Computes the anomaly map of a scan, and makes of it what clients receive.

    Args:
        predictor: Model that is served.
        kind: Kind of model, by which viewers decide whether to offer it.
        labels: Values of the labels by name.
        description: Text shown to the user.
    """

    def __init__(self, predictor: Predictor, kind: InferType, labels: dict[str, int], description: str) -> None:
        super().__init__(type=kind, labels=labels, dimension=3, description=description)
        self.predictor = predictor

    def info(self) -> dict[str, Any]:
        return super().info() | {"version": self.predictor.facts["version"]}

    def config(self) -> dict[str, Any]:
        return offered(self.predictor)

    def is_valid(self) -> bool:
        return True

    def get_path(self, validate: bool = True) -> str:
        """Path of the weights, which clients may download."""
        return str(self.predictor.folder.checkpoint)

    def check(self, request: Mapping[str, Any]) -> Options:
        """Reads the options of a request.

        Raises:
            OptionError: If one is wrong.
            NotCalibratedError: If the result needs a threshold, and there is none.
        """
        result_dtype(request, self.dtype)
        result_extension(request)
        if (tag := request.get("label_tag")) is not None and not is_name(tag):  # it becomes a folder
            raise OptionError(f"label_tag {tag!r} is not a name.")
        return checked(request, self.predictor)

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | np.ndarray | None, dict[str, Any]]:
        """Infers ``request["image"]``, a NIfTI.

        Returns:
            The file of the result, or its array (i, j, k) where ``result_write_to_file`` is false; and a summary of
            the scan's `Result` with further facts, as JSON values.

        Raises:
            OptionError, NotCalibratedError: See `check`.
            FileNotFoundError, ValueError: If the scan cannot be read.
            RuntimeError: If the model's output is not finite.
        """
        path = str(request["image"])
        if not path.endswith(SCAN_SUFFIXES):
            raise ValueError(f"{Path(path).name} is not a NIfTI (.nii, .nii.gz).")
        while True:
            used, options = identity(self.predictor), self.check(request)
            found, facts = self.predictor(path), self.predictor.facts
            if identity(self.predictor) == used:  # or else a training has installed another model meanwhile
                break
        if not (found.is_finite and bool(torch.isfinite(torch.as_tensor(found.anomaly_map)).all())):
            raise RuntimeError("The model's output is NaN or infinite: its weights are damaged. Train it again.")
        about = {
            **replace(found, mask_threshold=options.mask_threshold).summary(),
            "top_slice": found.top_slices[0],
            "band_thresholds": options.band_thresholds,
            "checkpoint_sha256": facts["checkpoint_sha256"],
            "untrained": facts["untrained"],
        }
        dtype = result_dtype(request, self.dtype)
        array, said = self.result(found, options, dtype)
        volume = MetaTensor(torch.from_numpy(array), affine=_map(found).affine)
        content = {name: request[name] for name in ("result_compress", "result_write_to_file") if name in request}
        content |= {"result_extension": result_extension(request), "result_dtype": dtype}
        return Writer(label="pred", json="result")({**content, "pred": volume, "result": {**about, **said}})

    @property
    @abstractmethod
    def dtype(self) -> str:
        """Type of the result's voxels, unless the client asks for another."""

    @abstractmethod
    def result(self, found: Result, options: Options, dtype: np.dtype[Any]) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns the result (i, j, k), fit for ``dtype``, and more facts about it as JSON values."""


class AnomalySegmentation(AnomalyTask):
    """Voxels above the mask threshold: as a mask, or in bands, which any viewer of labels shows as colours."""

    dtype = "uint8"

    def __init__(self, predictor: Predictor) -> None:
        text = "Voxels above the mask threshold: a mask, or bands that begin at higher false-positive rates. "
        labels = {name: value for value, name in enumerate(LABELS, 1)}
        super().__init__(predictor, InferType.SEGMENTATION, labels, text + NOTICE)

    def config(self) -> dict[str, Any]:
        return super().config() | {"display": list(DISPLAYS)}

    def check(self, request: Mapping[str, Any]) -> Options:
        options = super().check(request)
        if options.mask_threshold is None:
            raise NotCalibratedError(
                "The model is not calibrated, so there is no threshold for a mask. Give a mask_threshold above 0, run "
                "python -m bundle calibrate, or train on normal images here."
            )
        return options

    def result(self, found: Result, options: Options, dtype: np.dtype[Any]) -> tuple[np.ndarray, dict[str, Any]]:
        assert options.mask_threshold is not None  # `check` has seen to it
        assert options.band_thresholds is not None
        used = options.band_thresholds if options.display == "bands" else [options.mask_threshold]
        labels = sum((_map(found)[0] > threshold).to(torch.uint8).numpy() for threshold in used)
        return np.asarray(labels), {"display": options.display}


class AnomalyMap(AnomalyTask):
    """Anomaly map, for programs; viewers would take it for labels, so they do not offer it.

    Integers are scaled to 0..255, as rounding would make a map of small values 0 everywhere.
    """

    dtype = "float32"

    def __init__(self, predictor: Predictor) -> None:
        text = "Anomaly map as float32; with a result_dtype of integers, map = scale * value + offset. "
        super().__init__(predictor, InferType.OTHERS, {}, text + NOTICE)

    def result(self, found: Result, options: Options, dtype: np.dtype[Any]) -> tuple[np.ndarray, dict[str, Any]]:
        values = _map(found)[0].numpy()
        if dtype.kind == "f":
            return values, {"scale": 1.0, "offset": 0.0}
        offset = float(values.min())
        scale = (float(values.max()) - offset) / 255 or 1.0
        return np.rint((values - offset) / scale), {"scale": scale, "offset": offset}


def _map(found: Result) -> Any:
    """Anomaly map of a result, a MetaTensor with its affine."""
    return found.anomaly_map
