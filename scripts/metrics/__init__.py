"""Detection metrics of images, pixels, lesions and patients, and mean losses, for Ignite engines."""

from .class_level import ClassMetrics, class_means
from .image_level import ImageMetrics
from .item_curves import ItemCurves
from .loss_means import LossMeans
from .patient_level import PatientMetrics
from .pixel_level import PixelMetrics
from .volume_level import VolumeMetrics

__all__ = [
    "ClassMetrics",
    "ImageMetrics",
    "ItemCurves",
    "LossMeans",
    "PatientMetrics",
    "PixelMetrics",
    "VolumeMetrics",
    "class_means",
]
