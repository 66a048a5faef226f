"""Tells localisers from scans; imports no DICOM package, as MONAI Label needs an older pydicom."""

import re
from collections.abc import Iterable

_NAMES = re.compile(r"scout|topogram|surview|scanogram|locali[sz]er", re.IGNORECASE)
_TYPES = {"LOCALIZER", "SCREEN SAVE"}


def is_localiser(description: str, image_type: Iterable[str]) -> bool:
    """Whether a series is a localiser or a screen save, by its SeriesDescription and the ImageType of an image."""
    return bool(_NAMES.search(description) or _TYPES & set(image_type))
