"""A model folder as every verb after training reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from scripts.model.configs import SCORING_VERBS

CHECKPOINT = "models/model.pt"
RESUME = "models/last.pt"
CALIBRATION = "models/calibration.json"
MODEL = "model"  # key of a model folder's metadata
REMEDY = (
    "Training writes one: python -m monai.bundle run training --config_file configs/train.json; "
    "make demo leaves a small one, of untrained teachers, in demo/model."
)
_CONVERT = (
    "Make a model folder of a checkpoint of version 0.5.0: python -m bundle export CHECKPOINT "
    "--config-file configs/train.json OVERLAYS... --output models/NAME"
)


class ModelFolder:
    """A trained model with all that it needs: a complete MONAI bundle.

    Args:
        path: Folder that a training has written, or a copy of it.

    Raises:
        FileNotFoundError: If there is no such folder, or it is no model folder.
        ValueError: If it was made by version 0.5.0; names the way to a folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_file():
            raise ValueError(f"{self.path} is a file and no model folder. {_CONVERT}")
        if not self.path.is_dir():
            raise FileNotFoundError(f"There is no model folder {self.path}. {REMEDY}")
        if not (self.path / "configs" / "inference.json").is_file():
            if (self.path / "model.pt").is_file():
                raise ValueError(f"{self.path} has a checkpoint and no configs. {_CONVERT}")
            raise FileNotFoundError(f"{self.path} is no model folder: it has no configs/inference.json. {REMEDY}")
        if MODEL not in self.metadata:
            if not (self.path / CHECKPOINT).is_file():
                raise FileNotFoundError(f"{self.path} has configs and no trained model. {REMEDY}")
            raise ValueError(f"{self.path} was exported by version 0.5.0. {_CONVERT}")
        if not self.checkpoint.is_file():
            raise FileNotFoundError(f"{self.path} has no trained model {CHECKPOINT}. {REMEDY}")

    @property
    def checkpoint(self) -> Path:
        """File of the trained distiller."""
        return self.path / CHECKPOINT

    @property
    def calibration(self) -> Path:
        """File of the calibration, which may be missing."""
        return self.path / CALIBRATION

    @property
    def metadata(self) -> dict[str, Any]:
        """Content of ``configs/metadata.json``, with the facts of the model under ``model``."""
        path = self.path / "configs" / "metadata.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read ({error}): the model folder is damaged, copy it again.") from error

    @property
    def modality(self) -> str | None:
        """Modality that was trained on, such as CT; None where the datalist named none."""
        return self.metadata[MODEL].get("modality")

    def config(self, verb: str, **values: Any) -> ConfigParser:
        """Parses one of the folder's configs.

        Args:
            verb: Name of the config: train, calibrate, evaluate or inference.
            values: Values by id, over the config's own.
        """
        parser = ConfigParser(ConfigParser.load_config_file(self._file(verb)))
        parser.update({"bundle_root": str(self.path), **values})
        return parser

    def run(self, verb: str, **values: Any) -> ConfigWorkflow:
        """Runs one of the folder's configs as ``python -m monai.bundle run`` does.

        Args:
            verb: calibrate, evaluate or inference.
            values: Values by id, over the config's own.

        Returns:
            The workflow, whose parts can be asked for.
        """
        given = {"bundle_root": str(self.path), **values}
        workflow = ConfigWorkflow(str(self._file(verb)), workflow_type="inference", run_id=SCORING_VERBS[verb], **given)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return workflow

    def exported(self, file: Path) -> dict[str, Any]:
        """Values by id with which an exported file runs in place of the network."""
        return {"network_def": {"_target_": "scripts.networks.exported.ExportedDetector", "path": str(file)}}

    def _file(self, verb: str) -> Path:
        path = self.path / "configs" / f"{verb}.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.path} has no configs/{verb}.json: the model folder is damaged, copy it again."
            )
        return path
