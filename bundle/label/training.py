"""Training on the normal images of a datastore, by the model folder's own commands."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from bundle.label.errors import OptionError
from bundle.label.learning import NORMAL
from scripts.files import file_sha256, replacing
from scripts.model.card import CARD, model_card
from scripts.model.folder import CALIBRATION, CHECKPOINT, MODEL, RESUME, ModelFolder
from scripts.model.predictor import Predictor

logger = logging.getLogger(__name__)

_RATES = {"scan": 0.05, "slice": 0.05, "mask": 0.005}  # promised where there are enough patients
_CAUSE = "The cause: "  # as scripts.errors.end_with_the_cause begins it


class AnomalyTraining(TrainTask):
    """Trains a new model on normal images without labels, calibrates it on some that were held out, and installs it in
    the served model folder; if anything fails before, the old model stays.

    Args:
        predictor: Model that is served; it notices new files by itself.
        folder: Folder for datalist, model folder and records of the training.
    """

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        super().__init__(f"Training on images whose information says {NORMAL}: true; with all_images, on all of them")
        self.predictor, self.folder = predictor, folder

    def config(self) -> dict[str, Any]:
        train = json.loads((self.predictor.folder.path / "configs" / "train.json").read_text(encoding="utf-8"))
        return {"max_epochs": train["epochs"], "val_split": 0.2, "all_images": False}

    def stats(self) -> dict[str, Any]:
        """Facts of the last training; empty before the first."""
        try:
            return json.loads(self._stats.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Trains, calibrates and installs a model.

        Raises:
            OptionError: If an option is wrong, or there are fewer than two normal images.
            RuntimeError: If training or calibration fail; names the cause.
        """
        options = self._checked(request)
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):  # a training overwrites the files of the one before
            return self._train(options, datastore)

    def _train(self, options: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        images = normal_images(datastore, options["all_images"])
        training, validation = split(images, options["val_split"])
        datalist, model = self.folder / "datalist.json", self.folder / "model"
        write_datalist(datalist, training, validation, datastore, self.predictor.modality)
        shutil.rmtree(model, ignore_errors=True)  # the training before has left it
        cache = self.predictor.cache_dir or self.folder / "cache"
        values = {"model_dir": model, "datalist": datalist, "epochs": options["max_epochs"], "cache_dir": cache}
        values["tracking_uri"] = f"sqlite:///{self.folder}/mlruns.db"
        words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
        self._run("monai.bundle", "run", "training", "--config_file", "configs/train.json", *words)
        rates = possible_rates(len(validation))
        words = [word for level, rate in rates.items() for word in (f"--{level}-false-positive-rate", repr(rate))]
        self._run("bundle", "calibrate", str(model), "--cache-dir", str(cache), *words)
        install(model, self.predictor.folder.path)
        counts = {"images": len(training), "validation": len(validation), "epochs": options["max_epochs"]}
        sha256 = file_sha256(model / CHECKPOINT)
        stats = {**counts, "false_positive_rates": rates, "checkpoint_sha256": sha256}
        self._stats.write_text(json.dumps(stats), encoding="utf-8")
        return stats

    @property
    def _stats(self) -> Path:
        return self.folder / "stats.json"

    def _checked(self, request: Mapping[str, Any]) -> dict[str, Any]:
        options = {name: request.get(name, default) for name, default in self.config().items()}
        if type(options["max_epochs"]) is not int or options["max_epochs"] < 1:
            raise OptionError(f"max_epochs {options['max_epochs']!r} is not a whole number of at least 1.")
        part = options["val_split"]
        if type(part) not in (int, float) or not 0 < part < 1:
            raise OptionError(f"val_split {part!r} is not between 0 and 1: images are needed for both parts.")
        if type(options["all_images"]) is not bool:
            raise OptionError(f"all_images {options['all_images']!r} is neither true nor false.")
        return options

    def _run(self, module: str, *words: str) -> None:
        """Runs a command in the served model folder, by the folder's own code; its output goes to the log."""
        command = [sys.executable, "-m", module, *words]
        tail: deque[str] = deque(maxlen=20)
        environment = {**os.environ, "PYTHONPATH": str(self.predictor.folder.path)}
        with subprocess.Popen(
            command,
            cwd=self.predictor.folder.path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            for line in filter(None, map(str.strip, process.stdout)):
                logger.info(line)
                tail.append(line)
        if process.returncode:
            causes = [line.removeprefix(_CAUSE) for line in tail if line.startswith(_CAUSE)]
            cause = (causes or list(tail) or [f"exit code {process.returncode}"])[-1]
            raise RuntimeError(f"{words[0] if module == 'bundle' else 'training'} failed, the old model stays: {cause}")


def normal_images(datastore: Datastore, all_images: bool) -> list[str]:
    """Unlabelled images that are marked as normal, or all unlabelled ones, in alphabetical order.

    Raises:
        OptionError: If there are fewer than two.
    """
    images = sorted(datastore.get_unlabeled_images())
    chosen = [image for image in images if all_images or datastore.get_image_info(image).get(NORMAL) is True]
    if len(chosen) < 2:
        found = f"{len(images)} unlabelled images" + ("" if all_images else f", {len(chosen)} of them marked as normal")
        raise OptionError(
            f"There are {found}: at least 2 are needed. Mark normal images by PUT /datastore/image/info with "
            f'info={{"{NORMAL}": true}}, or train with all_images: true if all are normal.'
        )
    return chosen


def split(images: Sequence[str], validation: float) -> tuple[list[str], list[str]]:
    """Splits images into those to train on and those to calibrate on, at least one each; the same way every time.

    Args:
        images: Names of the images, at least two.
        validation: Share to calibrate on, between 0 and 1.
    """
    shuffled = random.Random(0).sample(images, len(images))
    held_out = min(max(round(validation * len(images)), 1), len(images) - 1)
    return sorted(shuffled[held_out:]), sorted(shuffled[:held_out])


def write_datalist(
    path: Path,
    training: Sequence[str],
    validation: Sequence[str],
    datastore: Datastore,
    modality: str | None = None,
) -> None:
    """Writes the datalist of a training; each image counts as a patient of its own."""
    parts = {"training": training, "validation": validation}
    items = {
        name: [{"image": datastore.get_image_uri(image), "group": image, "label": 0} for image in images]
        for name, images in parts.items()
    }
    path.write_text(json.dumps({"name": "MONAI Label", "modality": modality, **items}, indent=1), encoding="utf-8")


def possible_rates(patients: int) -> dict[str, float]:
    """Usual false-positive rates by level, or the lowest that so few patients can promise.

    Args:
        patients: Number of patients to calibrate on.
    """
    return {level: max(rate, 1 / (patients + 1)) for level, rate in _RATES.items()}


def install(new: Path, served: Path) -> None:
    """Replaces the model of the served folder, file by file, each at once.

    In between, the model has no calibration for a moment, but never that of another model.

    Args:
        new: Model folder that was trained and calibrated.
        served: Model folder in use.

    Raises:
        FileNotFoundError: If the new model is not complete; nothing is replaced.
    """
    metadata = ModelFolder(new).metadata
    metadata[MODEL]["name"] = served.name
    texts = {
        "configs/metadata.json": json.dumps(metadata, indent=4, ensure_ascii=False) + "\n",
        CARD: model_card(metadata),
    }
    with ExitStack() as stack:
        # What is entered last is moved into place first.
        for name in (*texts, CALIBRATION, CHECKPOINT, RESUME):
            part = stack.enter_context(replacing(served / name))
            if name in texts:
                part.write_text(texts[name], encoding="utf-8")
            else:
                shutil.copyfile(new / name, part)
        (served / CALIBRATION).unlink(missing_ok=True)
