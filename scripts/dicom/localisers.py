"""What tells localisers from scans; without imports of DICOM, as MONAI Label's pydicom is an older one."""

import re
from collections.abc import Iterable

_NAMES = re.compile(r"scout|topogram|surview|scanogram|locali[sz]er", re.IGNORECASE)
_TYPES = {"LOCALIZER", "SCREEN SAVE"}


def is_localiser(description: str, image_type: Iterable[str]) -> bool:
    """Says whether a series is one, or a screen save, by its SeriesDescription and an image's ImageType."""
    return bool(_NAMES.search(description) or _TYPES & set(image_type))
