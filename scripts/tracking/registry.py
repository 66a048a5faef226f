"""The trained model for MLflow's registry: one that ``mlflow models serve`` and ``predict`` run by themselves."""

import base64
import io
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array
from PIL import Image

from scripts.files import link_or_copy
from scripts.model.folder import RESUME
from scripts.model.predictor import Predictor

_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string", "image")]),
    outputs=Schema([ColSpec("double", "score"), ColSpec(Array(Array("double")), "anomaly_map")]),
)
_REQUIREMENTS = (
    *("torch", "torchvision", "monai", "timm", "pytorch-ignite", "numpy", "pandas", "pillow", "tifffile", "pypng"),
    *("safetensors", "huggingface_hub", "requests", "filelock", "tqdm", "nibabel", "scipy", "pyfastnoiselite"),
    *("fire", "numba", "llvmlite", "SimpleITK"),
)


class AnomalyModel(PythonModel):
    """Takes images, and returns anomaly scores and maps as ``Predictor`` makes them. Its artifact ``model`` is the
    model folder without code.
    """

    def load_context(self, context: Any) -> None:
        self.predictor = Predictor(context.artifacts["model"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Column ``image``: path of a file, or its content in base64 -> columns ``score`` and ``anomaly_map`` (rows of
        floats, in the pixels of the image)."""
        return pd.DataFrame([self._predict_one(image) for image in model_input["image"]])

    def _predict_one(self, image: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            path = image
            if not os.path.isfile(image):  # takes any string, where Path.is_file fails on a long one
                path = os.path.join(folder, "image")
                Path(path).write_bytes(_decoded(image))
            found = self.predictor(path)
        return {"score": found.score, "anomaly_map": np.asarray(found.anomaly_map)[0, ..., 0].tolist()}


def _decoded(image: str) -> bytes:
    try:
        return base64.b64decode(image, validate=True)
    except ValueError as error:
        raise ValueError(
            f"'{image[:200]}' is neither a file on this machine nor base64: give an image's path or encoded content."
        ) from error


def register_model(model: Path, run_id: str, name: str) -> None:
    """Logs a model with the MLflow run of its training, and registers it as a new version.

    Args:
        model: Model folder.
        run_id: MLflow run.
        name: Name in the registry.
    """
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_id=run_id):
        unwanted = shutil.ignore_patterns(Path(RESUME).name)
        for part in ("configs", "models"):
            shutil.copytree(model / part, Path(folder, part), ignore=unwanted, copy_function=link_or_copy)
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"model": folder},
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
