"""Teachers and the detectors that distil them."""

from scripts.networks.detector import Detector, Distillation
from scripts.networks.pdd import PDD
from scripts.networks.teachers import Teacher

__all__ = ["PDD", "Detector", "Distillation", "Teacher"]
