"""MLflow runs of training, evaluation and inference."""

from scripts.tracking.evaluation import EvaluationRun
from scripts.tracking.inference import InferenceRun
from scripts.tracking.run import Tracking, store
from scripts.tracking.training import TrainingRun

__all__ = ["EvaluationRun", "InferenceRun", "Tracking", "TrainingRun", "store"]
