"""Files that an evaluation and an inference leave behind."""

from scripts.results.evaluation import EvaluationResults
from scripts.results.inference import InferenceResults

__all__ = ["EvaluationResults", "InferenceResults"]
