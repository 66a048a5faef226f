"""A model folder as an object, for servers and other programs; ``monai.bundle run inferring`` is a process."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import torch

from scripts.data.scans import forget_scan
from scripts.errors import cause_of
from scripts.files import file_sha256
from scripts.model.algorithm import Algorithm, algorithm_of
from scripts.model.calibration import Calibration
from scripts.model.folder import ModelFolder
from scripts.results.result import Result


class Predictor:
    """Runs what ``configs/inference.json`` of a model folder names, loaded once; a new checkpoint or calibration of the
    folder is noticed before the next scan.

    Scans of several threads wait for each other; what is asked of the model meanwhile is answered at once.

    Args:
        folder: Model folder.
        device: Name of the device, such as ``"cpu"``; None takes a GPU where there is one.
        cache_dir: Folder for uncompressed copies of scans, see ``scripts.data.scans.open_scan``; None takes the
            config's own.

    Raises:
        FileNotFoundError: If there is no such folder, or it lacks configuration or checkpoint.
        ValueError: If checkpoint or calibration do not fit, or the folder is of version 0.5.0.
    """

    def __init__(self, folder: str | Path, device: str | None = None, cache_dir: str | Path | None = None) -> None:
        self.folder, self.device, self.cache_dir = ModelFolder(Path(folder).resolve()), device, cache_dir
        self._loading, self._running = threading.Lock(), threading.Lock()
        self._loaded: tuple[Any, ...] = ()
        self._in_use: _Model
        self._model()

    def __call__(self, image: str | Path) -> Result:
        """Maps and scores a NIfTI scan or an image.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it cannot be read faithfully, see ``scripts.transforms.LoadScand``.
        """
        with self._running:
            model = self._model()
            try:
                item = model.preprocessing({"image": str(image)})
            except RuntimeError as error:
                raise cause_of(error) from None
            with torch.no_grad():
                item["pred"] = model.inferer(item["image"][None].to(model.device), model.network)[0].float().cpu()
            return model.postprocessing(item)["found"]

    def forget(self, image: str | Path) -> None:
        """Removes what was kept of a scan, see ``cache_dir``, while its file is still there."""
        with self._running, contextlib.suppress(FileNotFoundError):
            forget_scan(image, self._model().preprocessing.cache_dir)

    @property
    def calibration(self) -> Calibration:
        """Calibration of the checkpoint in use."""
        return self._model().calibration

    @property
    def algorithm(self) -> Algorithm:
        """Name, version and hash of the model in use."""
        return self._model().algorithm

    @property
    def facts(self) -> dict[str, Any]:
        """``method``, ``untrained`` (names of untrained teachers), ``checkpoint_sha256`` and ``version``."""
        return dict(self._model().facts)

    @property
    def plane(self) -> str:
        """Plane of the slices that the model looks at."""
        return self._model().preprocessing.plane

    @property
    def modality(self) -> str | None:
        """Modality that the model was trained on, such as CT; None where that is not known."""
        return self.folder.modality

    @property
    def rates(self) -> list[float]:
        """False-positive rates of voxels that the calibration knows thresholds of, the highest first."""
        return list(self.calibration.mask_thresholds)

    def mask_threshold(self, rate: float | None = None) -> float | None:
        """Threshold of the mask: the calibrated one, or that of a rate; None where there is none.

        Raises:
            ValueError: If the rate is none of `rates`.
        """
        if rate is None:
            return self.calibration.mask_threshold
        known = self.calibration.mask_thresholds
        if rate not in known:
            rates = ", ".join(f"{one:g}" for one in known) or "none"
            raise ValueError(f"There is no threshold for a false-positive rate of {rate:g}; calibrated are: {rates}.")
        return known[rate]

    def _model(self) -> _Model:
        with self._loading:
            stamp = tuple(map(_stamp, (self.folder.checkpoint, self.folder.calibration)))
            if stamp != self._loaded:
                self._in_use, self._loaded = self._load(), stamp
            return self._in_use

    def _load(self) -> _Model:
        given = {} if self.device is None else {"device": f"$torch.device('{self.device}')"}
        given |= {} if self.cache_dir is None else {"cache_dir": str(self.cache_dir)}
        get: Any = self.folder.config("inference", **given).get_parsed_content
        get("handlers#0")()  # restores the network
        network, training = get("network_def").to(get("device")), get("provenance").facts
        facts = {
            "method": training.get("method", ""),
            "untrained": network.untrained_teachers(),
            "checkpoint_sha256": file_sha256(self.folder.checkpoint),
            "version": self.folder.metadata["version"],
        }
        algorithm = algorithm_of(network.eval(), training, self.folder.checkpoint)
        names = ("device", "preprocessing", "inferer", "postprocessing", "calibration")
        return _Model(network, facts, algorithm, *map(get, names))


class _Model(NamedTuple):
    """Parts loaded for one checkpoint and calibration."""

    network: Any
    facts: dict[str, Any]
    algorithm: Algorithm
    device: torch.device
    preprocessing: Any
    inferer: Any
    postprocessing: Any
    calibration: Calibration


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size
