"""Code that MLflow runs to load the registered model, in place of a pickle that would have to be trusted."""

from mlflow.models import set_model

from scripts.tracking.registry import AnomalyModel

set_model(AnomalyModel())
