"""Coded concepts of the results."""

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

# Concepts that no standard has. A meaning has at most 64 characters.
SCHEME = "99PDD"
SCORE = Code("anomaly-score", SCHEME, "Anomaly score of the scan")
SCAN_THRESHOLD = Code("scan-threshold", SCHEME, "Score above which the scan is abnormal")
FALSE_POSITIVE_RATE = Code("false-positives", SCHEME, "Promised share of normal patients above the scan threshold")
P_VALUE = Code("p-value", SCHEME, "Share of normal patients expected to score at least as high")
SLICE_SCORE = Code("slice-score", SCHEME, "Anomaly score of a slice")
SLICE_THRESHOLD = Code("slice-threshold", SCHEME, "Score above which a slice is abnormal")
MAP_VALUE = Code("map-value", SCHEME, "Value of the anomaly map")
MASK_THRESHOLD = Code("mask-threshold", SCHEME, "Threshold of the mask, a value of the anomaly map")
VERDICT = Code("verdict", SCHEME, "Verdict on the scan")
ABNORMAL = Code("abnormal", SCHEME, "Abnormal")
NOT_ABNORMAL = Code("not-abnormal", SCHEME, "Not abnormal")
NOT_CALIBRATED = Code("not-calibrated", SCHEME, "Not calibrated")
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
    """Region of a BodyPartExamined such as ``"HEAD"``; "Entire body" where it is unknown or empty."""
    return _REGIONS.get(body_part.upper().replace(" ", ""), codes.SCT.EntireBody)


def procedure_of(modality: str) -> Code:
    """Procedure that makes images of a modality such as ``"CT"``."""
    return _PROCEDURES.get(modality, codes.cid100.ImagingProcedure)


def coding_scheme() -> CodingSchemeIdentificationItem:
    """Declaration of the scheme that the private codes belong to."""
    return CodingSchemeIdentificationItem(SCHEME, name="Private concepts of the PDD anomaly detector")
