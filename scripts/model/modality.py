"""Modalities that a model was trained on, as DICOM names them."""

UNKNOWN = "unknown"  # what a datalist says where nobody named its modality
_JOINT = "+"  # between the modalities of a datalist of several


def trained_modalities(named: str | None) -> tuple[str, ...] | None:
    """Modalities that a model's datalist names.

    Args:
        named: Modality of the datalist, such as ``"CT"``, or ``"CT+MR"`` for a model of both.

    Returns:
        The modalities in capitals; None where they are not known, so that any may be the model's.

    >>> trained_modalities("ct"), trained_modalities("CT+MR"), trained_modalities("unknown"), trained_modalities(None)
    (('CT',), ('CT', 'MR'), None, None)
    """
    if not named or named.lower() == UNKNOWN:
        return None
    return tuple(part.strip().upper() for part in named.split(_JOINT))
