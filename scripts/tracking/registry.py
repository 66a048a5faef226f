"""The trained model for MLflow's registry: one that ``mlflow models serve`` and ``predict`` run by themselves."""

import base64
import io
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import torch
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array
from monai.bundle import ConfigParser
from monai.networks.utils import convert_to_torchscript
from PIL import Image

from scripts.networks.detector import Detector

_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string", "image")]),
    outputs=Schema([ColSpec("double", "score"), ColSpec(Array(Array("double")), "anomaly_map")]),
)
_REQUIREMENTS = (
    *("torch", "torchvision", "monai", "timm", "pytorch-ignite", "numpy", "pandas", "pillow", "tifffile", "pypng"),
    *("safetensors", "huggingface_hub", "requests", "filelock", "tqdm", "nibabel", "scipy", "pyfastnoiselite"),
)


class AnomalyModel(PythonModel):
    """Takes images, gives anomaly scores and maps. Its artifacts are ``network``, teachers and distiller in one
    TorchScript file, and ``settings``, the configuration of the training.
    """

    def load_context(self, context: Any) -> None:
        parser = ConfigParser(ConfigParser.load_config_file(context.artifacts["settings"]))
        self.preprocessing = parser.get_parsed_content("preprocessing")
        self.scoring = parser.get_parsed_content("scoring")
        with _quiet_torchscript():
            self.network = torch.jit.load(context.artifacts["network"], map_location="cpu").eval()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Column ``image``: path of a file, or its content in base64 -> columns ``score`` and ``anomaly_map`` (rows of
        floats, in the pixels of the network's input)."""
        return pd.DataFrame([self._predict_one(image) for image in model_input["image"]])

    def _predict_one(self, image: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            path = image
            if not os.path.isfile(image):  # takes any string, where Path.is_file fails on a long one
                path = os.path.join(folder, "image")
                Path(path).write_bytes(_decoded(image))
            item = self.preprocessing({"image": path})
        with torch.no_grad():
            anomaly_map = self.network(item["image"].as_tensor()[None, ..., 0])
        scored = self.scoring({"pred": anomaly_map[0, ..., None], "image": item["image"]})
        return {"score": float(scored["score"]), "anomaly_map": anomaly_map[0, 0].tolist()}


def _decoded(image: str) -> bytes:
    try:
        return base64.b64decode(image, validate=True)
    except ValueError as error:
        raise ValueError(
            f"'{image[:200]}' is neither a file on this machine nor base64: give an image's path or encoded content."
        ) from error


def register_model(network: Detector, config: dict[str, Any], run_id: str, name: str) -> None:
    """Logs the model with MLflow run ``run_id`` and registers it as a new version of ``name``.

    Args:
        network: Trained detector with its teachers.
        config: Configuration of the training, of which ``preprocessing`` and ``scoring`` are used.
    """
    device = next(network.parameters()).device
    side = config["image_size"]
    training = network.training
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_id=run_id):
        path, settings = Path(folder) / "network.ts", Path(folder) / "settings.json"
        settings.write_text(json.dumps(config))
        with _quiet_torchscript():
            traced = convert_to_torchscript(
                network.eval(), inputs=[torch.zeros(1, 3, side, side, device=device)], use_trace=True, device=device
            )
            torch.jit.save(traced, path)
        network.train(training)
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"network": str(path), "settings": str(settings)},
            code_paths=[str(Path(__file__).parents[1])],
            pip_requirements=[f"{package}=={version(package)}" for package in _REQUIREMENTS],
            signature=_SIGNATURE,
            input_example=pd.DataFrame({"image": [_example()]}),
            registered_model_name=name,
        )


def _example() -> str:
    """A black image, 8 x 8 pixels, as a request carries it."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@contextmanager
def _quiet_torchscript() -> Iterator[None]:
    """Hides what is known: TorchScript is deprecated, and traced networks keep the size they were traced with."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        yield
