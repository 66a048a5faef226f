"""Teachers and the detectors that distil them."""

from scripts.networks.detector import Detector, Distillation
from scripts.networks.memory import Memory
from scripts.networks.pdd import PDD
from scripts.networks.rd4ad import RD4AD
from scripts.networks.scrd4ad import SCRD4AD
from scripts.networks.teachers import Teacher

__all__ = ["PDD", "RD4AD", "SCRD4AD", "Detector", "Distillation", "Memory", "Teacher"]
