"""A model folder as training writes it: a complete MONAI bundle from the first checkpoint on."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout
from monai.bundle import ConfigParser

from scripts.files import file_sha256, link_or_copy, replacing
from scripts.model.card import model_card
from scripts.model.configs import ROOT, folder_configs, teachers
from scripts.model.folder import CHECKPOINT, MODEL, RESUME
from scripts.model.provenance import Provenance
from scripts.model.unfinished import remove_abandoned, unfinished
from scripts.networks.teachers import PRETRAINED, UNTRAINED
from scripts.networks.weights import teacher_weights

logger = logging.getLogger(__name__)

PATIENCE_S = 10.0  # for a folder's lock: what loads images for a killed training outlives it by some seconds
_LOCK = ".lock"
_CODE = ("bundle", "configs", "scripts")
_FILES = ("LICENSE", "pyproject.toml", "constraints.txt", "docs/clinic.md", "docs/data_license.txt")
# MONAI Label takes a bundle with one of these words in its name for a detector of boxes, or another kind of model.
_MISLEADING = re.compile("detection|deepedit|deepgrow|classification", re.IGNORECASE)


class NewModelFolder:
    """Names the folder of a training, and makes it.

    Args:
        path: Folder; None takes ``models/NAME`` below the bundle root, NAME being the run's name, and numbers it where
            there is one of another training.
        bundle_root: Folder of the training's bundle, whose ``models/`` holds fetched weights.
        run_name: Name of the MLflow run; None takes ``Provenance.run_name``.
        resume: Whether the folder is there already, and goes on.
        provenance: Facts of the training, for metadata and model card.
        config: Merged configuration of the training, or its JSON text.
        remembered: Values by id that later verbs take where they are given no others: datalist, dataset_dir and
            tracking_uri.
        checkpoint_interval: Epochs from one checkpoint to the next; 0 writes one at the end alone.

    Attributes:
        path: Where the folder is or will be.

    Raises:
        FileExistsError: If ``path`` was given, or ``run_name``, and is there already.
        FileNotFoundError: If there is nothing to resume.
        PermissionError: If it cannot be written.
        ValueError: If the name would mislead MONAI Label.

    >>> folder = NewModelFolder("models/brain", ".", None, False, Provenance(), {}, {})
    >>> folder.checkpoint.as_posix()
    'models/brain/models/model.pt'
    """

    def __init__(
        self,
        path: str | Path | None,
        bundle_root: str | Path,
        run_name: str | None,
        resume: bool,
        provenance: Provenance,
        config: Mapping[str, Any] | str,
        remembered: Mapping[str, Any],
        checkpoint_interval: int = 1,
    ) -> None:
        self.bundle_root, self.resume, self.provenance = Path(bundle_root), resume, provenance
        self.config: dict[str, Any] = json.loads(config) if isinstance(config, str) else dict(config)
        self.remembered, self.checkpoint_interval = dict(remembered), checkpoint_interval
        derived = self.bundle_root / "models" / _file_name(run_name or provenance.run_name)
        self.path = derived if path is None else Path(path)
        self._option = "model_dir" if path is not None else "run_name" if run_name is not None else None
        self._made = resume
        self._lock: BaseFileLock | None = None
        if _MISLEADING.search(self.path.name):
            raise ValueError(f"MONAI Label takes a model named {self.path.name} for another kind: name another folder.")
        if resume and not self.last.is_file():
            raise FileNotFoundError(
                f"There is no checkpoint {self.last} to resume from. Name the folder of the training by --model_dir, "
                "or leave --resume out."
            )
        if not resume:
            if self._option and self.path.exists():
                raise FileExistsError(
                    f"{self.path} exists: name another --{self._option}, go on with its training by --resume True, or "
                    "remove the folder."
                )
            self.path = _free(self.path)
        there = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not os.access(there, os.W_OK):
            raise PermissionError(f"{there} cannot be written: name another --model_dir.")

    @property
    def checkpoint(self) -> Path:
        """File of the trained distiller."""
        return self.path / CHECKPOINT

    @property
    def last(self) -> Path:
        """File that a training resumes from."""
        return self.path / RESUME

    def begin(self) -> None:
        """Claims a folder that is resumed, and removes what killed trainings have left beside it.

        Of several processes that train together, one alone calls this.

        Raises:
            RuntimeError: If another training goes on in the folder.
        """
        if self.resume:
            self.claim()
        remove_abandoned(self.path.parent)

    def claim(self) -> None:
        """Keeps trainings of other processes out of the folder, until ``release`` or the end of this process.

        Raises:
            RuntimeError: If another training goes on in it.
        """
        file = self.path / _LOCK
        if self._lock is not None and Path(self._lock.lock_file) == file and file.exists():
            return
        self.release()
        # One for the whole process, as a training that has failed may go on in it.
        lock = FileLock(file, is_singleton=True)
        try:
            lock.acquire(timeout=PATIENCE_S)
        except Timeout as error:
            raise RuntimeError(
                f"Another training goes on in {self.path}: wait for its end, or train into another --model_dir without "
                "--resume."
            ) from error
        self._lock = lock

    def release(self) -> None:
        """Lets other trainings into the folder."""
        if self._lock is not None:
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release(force=True)
            self._lock = None

    def write(self, save: Callable[[Path], None]) -> None:
        """Makes the folder as a whole or, where it is this training's own, replaces its checkpoints.

        Where another training has made a folder of the name meanwhile, that one stays and this one's gets a number.

        Args:
            save: Writes ``models/model.pt`` and ``models/last.pt`` below the folder that it is given.

        Raises:
            OSError: If it cannot be written; no half of it is left.
        """
        if self._made and self.path.exists():
            save(self.path)
            self._mark(self.path)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(self.path.parent) as temporary:
            folder = temporary / self.path.name
            (folder / "models").mkdir(parents=True)
            _copy_code(folder)
            configs = folder_configs(self.config, self._remembered())
            _link_weights(configs, self.bundle_root, folder / "models")
            for name, content in configs.items():
                (folder / "configs" / name).write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
            save(folder)
            if self.path.exists():
                taken, self.path = self.path, _free(self.path)
                logger.warning("Another training has made %s meanwhile: this one's is %s", taken, self.path)
            self._mark(folder)
            os.replace(folder, self.path)
        self._made = True
        logger.info("The model folder is %s", self.path)

    def _remembered(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in ("datalist", "dataset_dir"):
            if self.remembered.get(name) is not None:
                found[name] = str(Path(self.remembered[name]).resolve())
        if uri := self.remembered.get("tracking_uri"):
            store = {"_target_": "scripts.tracking.store", "trained": uri, "bundle_root": "@bundle_root"}
            found["tracking_uri"] = store
        return found

    def _mark(self, folder: Path) -> None:
        """Says in metadata and model card which model this is."""
        metadata = json.loads((ROOT / "configs" / "metadata.json").read_text(encoding="utf-8"))
        metadata[MODEL] = {
            "name": self.path.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "checkpoint_sha256": file_sha256(folder / CHECKPOINT),
            **self.provenance.facts,
        }
        metadata["network_data_format"]["inputs"]["image"]["modality"] = self.provenance.facts.get("modality") or "any"
        with replacing(folder / "configs" / "metadata.json") as part:
            part.write_text(json.dumps(metadata, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
        with replacing(folder / "docs" / "README.md") as part:
            part.write_text(model_card(metadata), encoding="utf-8")


def _free(path: Path) -> Path:
    """The path itself, or, where it is taken, its first numbered one that is not."""
    return next(
        one
        for n in itertools.count(1)
        if not (one := path.with_name(f"{path.name}-{n}" if n > 1 else path.name)).exists()
    )


def _file_name(name: str) -> str:
    return _MISLEADING.sub("", re.sub(r"[^\w.-]+", "-", name)).strip("-.") or "model"


def _copy_code(folder: Path) -> None:
    unwanted = shutil.ignore_patterns("__pycache__", ".*")
    for name in _CODE:
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for overlay in ("data", "methods", "teachers"):  # these are merged into the configs
        shutil.rmtree(folder / "configs" / overlay, ignore_errors=True)
    for name in _FILES:
        if (ROOT / name).is_file():  # a model folder has what its own training's code had
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for path in (folder, *folder.rglob("*")):  # or else a folder of read-only code could be neither finished nor used
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def _link_weights(configs: dict[str, dict[str, Any]], bundle_root: Path, models: Path) -> None:
    """Puts the weights of every teacher into the folder, and has the configs name them where they named a file.

    A hard link costs no room; weight files are replaced as a whole and never changed.
    """
    for content in configs.values():
        parser = ConfigParser(copy.deepcopy(content))
        parser["bundle_root"] = str(bundle_root)
        for name, teacher in teachers(content.get("network_def")):
            model: Any = parser.get_parsed_content(f"{name}#name")
            weights: Any = parser.get_parsed_content(f"{name}#weights") if "weights" in teacher else PRETRAINED
            if weights == UNTRAINED:
                continue
            if weights == PRETRAINED:
                place: Any = parser.get_parsed_content(f"{name}#models_dir") if "models_dir" in teacher else "models"
                source = teacher_weights(model, place)
                linked = models / source.name
                teacher["models_dir"] = "$@bundle_root + '/models'"
            else:
                source = Path(weights)  # named by its content: its own name may be another's, even the checkpoint's
                linked = models / f"{model}-{file_sha256(source)[:12]}{source.suffix}"
                teacher["weights"] = f"$@bundle_root + {f'/models/{linked.name}'!r}"
            if not linked.exists():
                link_or_copy(source.resolve(), linked)
