"""Dictionary transforms between files and the network, beside those MONAI has."""

from scripts.transforms.channels import SliceToImaged, ToThreeChannelsd
from scripts.transforms.geometry import CropToForegroundd, ResizeInPlaned
from scripts.transforms.intensity import MatchLandmarksd, ScaleByForegroundd, ScaleToUnitd, Windowedd
from scripts.transforms.places import SlicePlaced
from scripts.transforms.preprocessing import Preprocessing
from scripts.transforms.reading import LoadScand, ToPlaned
from scripts.transforms.scoring import (
    AnomalyScored,
    ForegroundInverted,
    GroundTruthd,
    MapInverted,
    SliceLabelsd,
)
from scripts.transforms.summary import Resultd
from scripts.transforms.synthesis import (
    CutPasted,
    FractalNoised,
    Lesiond,
    RandCutPasted,
    RandFractalNoised,
    RandLesiond,
)

__all__ = [
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
    "Preprocessing",
    "RandCutPasted",
    "RandFractalNoised",
    "RandLesiond",
    "ResizeInPlaned",
    "Resultd",
    "ScaleByForegroundd",
    "ScaleToUnitd",
    "SliceLabelsd",
    "SlicePlaced",
    "SliceToImaged",
    "ToPlaned",
    "ToThreeChannelsd",
    "Windowedd",
]
