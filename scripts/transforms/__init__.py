"""Dictionary transforms between files and the network, beside those MONAI has."""

from scripts.transforms.channels import SliceToImaged, ToThreeChannelsd
from scripts.transforms.geometry import CropToForegroundd, ResizeInPlaned
from scripts.transforms.intensity import MatchLandmarksd, ScaleByForegroundd, ScaleToUnitd, Windowedd
from scripts.transforms.reading import LoadScand, ToPlaned
from scripts.transforms.scoring import (
    AnomalyMaskd,
    AnomalyScored,
    ForegroundInverted,
    GroundTruthd,
    MapInverted,
    SliceLabelsd,
)
from scripts.transforms.summary import ResultSummaryd
from scripts.transforms.synthesis import (
    CutPasted,
    FractalNoised,
    Lesiond,
    RandCutPasted,
    RandFractalNoised,
    RandLesiond,
)

__all__ = [
    "AnomalyMaskd",
    "AnomalyScored",
    "CropToForegroundd",
    "CutPasted",
    "ForegroundInverted",
    "FractalNoised",
    "GroundTruthd",
    "Lesiond",
    "LoadScand",
    "MapInverted",
    "MatchLandmarksd",
    "RandCutPasted",
    "RandFractalNoised",
    "RandLesiond",
    "ResizeInPlaned",
    "ResultSummaryd",
    "ScaleByForegroundd",
    "ScaleToUnitd",
    "SliceLabelsd",
    "SliceToImaged",
    "ToPlaned",
    "ToThreeChannelsd",
    "Windowedd",
]
