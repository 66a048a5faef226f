"""What MLflow runs to load the registered model: code, and no pickle that would have to be trusted."""

from mlflow.models import set_model

from scripts.tracking.registry import AnomalyModel

set_model(AnomalyModel())
