"""A model bundle as an object, for servers and other programs; ``monai.bundle run inferring`` is a process."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from scripts.data.scans import forget_scan
from scripts.errors import cause_of
from scripts.files import file_sha256
from scripts.handlers import Folding
from scripts.model.calibration import Calibration
from scripts.model.checkpoints import restored

NAME = "medical_anomaly_pdd"  # of a bundle's folder; MONAI Label takes one with "detection" in it for a detector
REMEDY = (
    "Export a trained model: python -m bundle export --format bundle --config_file CONFIGS... --ckpt_path MODEL "
    f"--output models/{NAME}. make demo leaves a small one, of untrained teachers, in demo/{NAME}."
)


class Prediction(NamedTuple):
    """What was found in one scan or image."""

    anomaly_map: MetaTensor  # (1, i, j, k) float32 on the grid of the file, its affine in RAS millimetres
    score: float
    p_value: float | None  # None where the bundle is not calibrated
    slice_scores: list[float]  # of the plane's slices, counted from inferior, anterior or the patient's right
    slice_p_values: list[float | None]  # None also for slices without foreground
    top_slices: list[int]  # the highest first
    plane: str  # axial, coronal or sagittal

    def mask(self, threshold: float) -> MetaTensor:
        """(1, i, j, k) uint8: 1 where the map lies above the threshold, as in ``scripts.transforms.AnomalyMaskd``."""
        above: Any = (self.anomaly_map > threshold).to(torch.uint8)
        return above


class Predictor:
    """Runs what ``configs/inference.json`` of a model bundle names, loaded once; a new checkpoint or calibration of the
    bundle is noticed before the next scan.

    Scans of several threads wait for each other; what is asked of the model meanwhile is answered at once.

    Args:
        bundle: folder, as ``python -m bundle export --format bundle`` writes it.
        device: such as ``"cpu"``; None takes a GPU where there is one.
        cache_dir: for uncompressed copies of scans, see ``scripts.data.scans.open_scan``; None takes the bundle's own.

    Raises:
        FileNotFoundError: if the bundle lacks its configuration or checkpoint.
        ValueError: if checkpoint or calibration do not fit.
    """

    def __init__(self, bundle: str | Path, device: str | None = None, cache_dir: str | Path | None = None) -> None:
        self.bundle, self.device, self.cache_dir = Path(bundle).resolve(), device, cache_dir
        self._loading, self._running = threading.Lock(), threading.Lock()
        self._loaded: tuple[Any, ...] = ()
        self._in_use: _Model
        self._model()

    def __call__(self, image: str | Path) -> Prediction:
        """Maps and scores a NIfTI scan or an image.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it cannot be read faithfully, as of ``scripts.transforms.LoadScand``.
        """
        with self._running:
            model = self._model()
            try:
                item = model.preprocessing({"image": str(image)})
            except RuntimeError as error:
                raise cause_of(error) from None
            with torch.no_grad():
                item["pred"] = model.inferer(item["image"][None].to(model.device), model.network)[0].float().cpu()
            item = model.postprocessing(item)
        result = item["result"]
        names = ("p_value", "slice_scores", "slice_p_values", "top_slices", "plane")
        return Prediction(item["anomaly_map"], result["anomaly_score"], *(result[name] for name in names))

    def forget(self, image: str | Path) -> None:
        """Removes what was kept of a scan, see ``cache_dir``, while its file is still there."""
        with self._running, contextlib.suppress(FileNotFoundError):
            forget_scan(image, self._model().scan_cache_dir)

    @property
    def calibration(self) -> Calibration:
        """Of the checkpoint in use."""
        return self._model().calibration

    @property
    def facts(self) -> dict[str, Any]:
        """``method``, ``untrained`` (names of untrained teachers), ``checkpoint_sha256``, ``version`` of the bundle and
        ``input``, the settings that the network was trained with."""
        return dict(self._model().facts)

    @property
    def rates(self) -> list[float]:
        """False-positive rates of pixels that the calibration knows thresholds of, the highest first."""
        return list(self.calibration.pixel_thresholds)

    def threshold(self, rate: float | None = None) -> float | None:
        """Gives the threshold of the mask: the configured one, or that of a rate; None where there is none.

        Raises:
            ValueError: for another rate than `rates`.
        """
        if rate is None:
            return self._model().threshold
        known = self.calibration.pixel_thresholds
        if rate not in known:
            rates = ", ".join(f"{one:g}" for one in known) or "none"
            raise ValueError(f"There is no threshold for a false-positive rate of {rate:g}; calibrated are: {rates}.")
        return known[rate]

    def _model(self) -> _Model:
        with self._loading:
            stamp = tuple(
                map(_stamp, (self.bundle / "models" / "model.pt", self.bundle / "models" / "calibration.json"))
            )
            if stamp != self._loaded:
                self._in_use, self._loaded = self._load(), stamp
            return self._in_use

    def _load(self) -> _Model:
        file = self.bundle / "configs" / "inference.json"
        if not file.is_file():
            raise FileNotFoundError(f"{self.bundle} is no model bundle: it has no configs/inference.json. {REMEDY}")
        parser = ConfigParser(ConfigParser.load_config_file(file))
        given = {"bundle_root": str(self.bundle)}
        given |= {} if self.device is None else {"device": f"$torch.device('{self.device}')"}
        given |= {} if self.cache_dir is None else {"scan_cache_dir": str(self.cache_dir)}
        for name, value in given.items():
            parser[name] = value
        get: Any = parser.get_parsed_content
        checkpoint = Path(get("ckpt_path"))
        if not checkpoint.is_file():
            raise FileNotFoundError(f"{self.bundle} has no trained model {checkpoint}. {REMEDY}")
        network, training = restored(parser, checkpoint, get("device"))
        network = network.to(get("device"))
        Folding(network, get("amp"))()
        metadata = json.loads((self.bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
        facts = {
            "method": training.get("method", ""),
            "untrained": network.untrained_teachers(),
            "checkpoint_sha256": file_sha256(checkpoint),
            "version": metadata["version"],
            "input": get("input_settings").settings,
        }
        names = ("device", "preprocessing", "inferer", "postprocessing", "threshold", "calibration", "scan_cache_dir")
        return _Model(network, facts, *map(get, names))


class _Model(NamedTuple):
    """What was loaded of one checkpoint and calibration."""

    network: Any
    facts: dict[str, Any]
    device: torch.device
    preprocessing: Any
    inferer: Any
    postprocessing: Any
    threshold: float | None
    calibration: Calibration
    scan_cache_dir: str


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size
