"""Synthetic anomalies in normal images, for training (SCRD4AD, ICLR 2025).

Each kind is a random transform, which draws its parameters and hands them to a deterministic one, whose parameters are
plain numbers and repeat the anomaly to the bit. Images are (C, H, W) in [0, 1]. No kind clips: the intensities that it
makes may lie below 0 and above 1, as those of anomalies do elsewhere in the bundle.
"""

from scripts.transforms.synthesis.cut_paste import CutPasted, RandCutPasted
from scripts.transforms.synthesis.lesion import Lesiond, RandLesiond
from scripts.transforms.synthesis.noise import FractalNoised, RandFractalNoised

__all__ = ["CutPasted", "FractalNoised", "Lesiond", "RandCutPasted", "RandFractalNoised", "RandLesiond"]
