"""The coded concepts of the results."""

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

# Concepts that no standard has.
SCHEME = "99PDD"
SCORE = Code("anomaly-score", SCHEME, "Anomaly score")
SLICE_SCORE = Code("slice-score", SCHEME, "Anomaly score of a slice")
THRESHOLD = Code("threshold", SCHEME, "Threshold of the anomaly score")
INTENDED_USE = Code("intended-use", SCHEME, "Intended use")
RESEARCH = Code("research", SCHEME, "Not for clinical use")
MODEL_STATE = Code("model-state", SCHEME, "State of the model")
UNTRAINED = Code("untrained", SCHEME, "Untrained teachers: scores mean nothing")

ABNORMALITY = codes.SCT.MorphologicallyAbnormalStructure  # category and type of what the mask shows
LEARNED = codes.cid7162.ArtificialIntelligence  # family of the algorithm
NO_UNIT = codes.UCUM.NoUnits

_REGIONS = {name.upper(): getattr(codes.cid4031, name) for name in codes.cid4031.dir()} | {
    "BRAIN": codes.SCT.Brain,
    "CSPINE": codes.SCT.CervicalSpine,
    "TSPINE": codes.SCT.ThoracicSpine,
    "LSPINE": codes.SCT.LumbarSpine,
}
_PROCEDURES = {
    "CT": codes.cid100.CTUnspecifiedBodyRegion,
    "MR": codes.cid100.MRIUnspecifiedBodyRegion,
    "PT": codes.cid100.PETUnspecifiedBodyRegion,
    "NM": codes.cid100.NMUnspecifiedBodyRegion,
    "CR": codes.cid100.XRUnspecifiedBodyRegion,
    "DX": codes.cid100.XRUnspecifiedBodyRegion,
}


def region_of(body_part: str) -> Code:
    """Gives the region of a BodyPartExamined such as ``"HEAD"``; "Entire body" where it is unknown or empty."""
    return _REGIONS.get(body_part.upper().replace(" ", ""), codes.SCT.EntireBody)


def procedure_of(modality: str) -> Code:
    """Gives the procedure that makes images of a modality such as ``"CT"``."""
    return _PROCEDURES.get(modality, codes.cid100.ImagingProcedure)


def coding_scheme() -> CodingSchemeIdentificationItem:
    """Says what the private codes of this file are."""
    return CodingSchemeIdentificationItem(SCHEME, name="Private concepts of the PDD anomaly detector")
