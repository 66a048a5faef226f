"""The trained model for MLflow's registry: one that ``mlflow models serve`` and ``predict`` run by themselves."""

import base64
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import torch
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from monai.bundle import ConfigParser
from monai.networks.utils import convert_to_torchscript

from scripts.networks.detector import Detector

# The part of a training's configuration that stands between a file and its score.
SETTINGS = ("image_size", "keep_aspect_ratio", "intensity_range", "preprocessing", "score_pooling", "scoring")
_REQUIREMENTS = ("torch", "torchvision", "monai", "timm", "pytorch-ignite", "numpy", "pandas", "pillow", "tifffile")


class AnomalyModel(mlflow.pyfunc.PythonModel):
    """Takes images, gives anomaly scores and maps. Teachers and distiller are in one TorchScript file.

    Args:
        config: the ``SETTINGS`` of the training.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def load_context(self, context: Any) -> None:
        self.network = torch.jit.load(context.artifacts["network"], map_location="cpu").eval()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Column ``image``: path of a file, or its content in base64 -> columns ``score`` and ``anomaly_map`` (rows of
        floats, in the pixels of the network's input)."""
        return pd.DataFrame([self._predict_one(image) for image in model_input["image"]])

    def _predict_one(self, image: str) -> dict[str, Any]:
        parser = ConfigParser(self.config)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(image)
            if len(image) > 4096 or not path.is_file():
                path = Path(folder) / "image"
                path.write_bytes(base64.b64decode(image, validate=True))
            item = parser.get_parsed_content("preprocessing")({"image": str(path)})
        with torch.no_grad():
            anomaly_map = self.network(item["image"].as_tensor()[None])
        scored = parser.get_parsed_content("scoring")({"pred": anomaly_map[0]})
        return {"score": float(scored["score"]), "anomaly_map": anomaly_map[0, 0].tolist()}


def register_model(network: Detector, config: dict[str, Any], run_id: str, name: str) -> None:
    """Logs the model with MLflow run ``run_id`` and registers it as a new version of ``name``.

    Args:
        network: as trained, with its teachers.
        config: of the training; see ``SETTINGS``.
    """
    device = next(network.parameters()).device
    side = config["image_size"]
    training = network.training
    traced = convert_to_torchscript(
        network.eval(), inputs=[torch.zeros(1, 3, side, side, device=device)], use_trace=True, device=str(device)
    )
    network.train(training)
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_id=run_id):
        path = Path(folder) / "network.ts"
        torch.jit.save(traced, path)
        mlflow.pyfunc.log_model(
            name="model",
            python_model=AnomalyModel({key: config[key] for key in SETTINGS}),
            artifacts={"network": str(path)},
            code_paths=[str(Path(__file__).parent)],
            pip_requirements=[f"{package}=={version(package)}" for package in _REQUIREMENTS],
            signature=ModelSignature(inputs=Schema([ColSpec("string", "image")])),
            registered_model_name=name,
        )
