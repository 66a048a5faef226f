"""Synthetic anomalies in normal images, for training (SCRD4AD, ICLR 2025).

Each kind of anomaly has two transforms. The random one draws parameters and passes them to the deterministic one, whose
plain numbers reproduce the anomaly bit for bit. Images are (C, H, W) in [0, 1]. Nothing is clipped: new intensities may
lie below 0 or above 1, like those of real anomalies elsewhere in the bundle.
"""

from scripts.transforms.synthesis.cut_paste import CutPasted, RandCutPasted
from scripts.transforms.synthesis.lesion import Lesiond, RandLesiond
from scripts.transforms.synthesis.noise import FractalNoised, RandFractalNoised

__all__ = ["CutPasted", "FractalNoised", "Lesiond", "RandCutPasted", "RandFractalNoised", "RandLesiond"]
