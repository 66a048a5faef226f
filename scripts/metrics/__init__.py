"""Detection metrics of images, pixels, lesions and patients, and mean losses, for Ignite engines."""

from .image_level import ImageMetrics
from .loss_means import LossMeans
from .patient_level import PatientMetrics
from .pixel_level import PixelMetrics
from .volume_level import VolumeMetrics

__all__ = ["ImageMetrics", "LossMeans", "PatientMetrics", "PixelMetrics", "VolumeMetrics"]
