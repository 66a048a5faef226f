"""Detection metrics of images and of pixels, and mean losses, for Ignite engines."""

from .image_level import ImageMetrics
from .loss_means import LossMeans
from .pixel_level import PixelMetrics

__all__ = ["ImageMetrics", "LossMeans", "PixelMetrics"]
