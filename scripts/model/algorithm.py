"""The name that results give to what made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.files import file_sha256

LONGEST = 64  # characters of a DICOM long string (LO)


@dataclass(frozen=True)
class Algorithm:
    """Name, version and weights of a trained model, fit for DICOM.

    Attributes:
        name: Name of the method, as "PDD".
        version: Version of the software that trained the model.
        model_hash: Leading hexadecimal digits of the checkpoint's SHA-256.
        untrained: Whether a teacher has random weights, so that the scores mean nothing.

    Raises:
        ValueError: If a name is empty, too long for DICOM, not in ASCII, or has a backslash.

    >>> Algorithm("PDD", "0.6.0", "0123456789abcdef").untrained
    False
    """

    name: str
    version: str
    model_hash: str
    untrained: bool = False

    def __post_init__(self) -> None:
        for name in ("name", "version", "model_hash"):
            text = getattr(self, name)
            if not (text.strip() and text.isascii() and text.isprintable() and len(text) <= LONGEST):
                raise ValueError(f"{name} {text!r} is not 1 to {LONGEST} ASCII characters.")
            if "\\" in text:
                raise ValueError(f"{name} {text!r} has a backslash, which divides values in DICOM.")


def algorithm_of(network: Any, facts: Mapping[str, Any], checkpoint: Path) -> Algorithm:
    """Names a restored model.

    Args:
        network: Detector, or an exported one in its place.
        facts: Facts of its training, see ``scripts.model.provenance.Provenance``.
        checkpoint: Checkpoint that it was restored from.
    """
    return Algorithm(
        name=str(facts.get("method", "anomaly detector")),
        version=str(facts.get("version", "unknown")),
        model_hash=file_sha256(checkpoint)[:16],
        untrained=bool(network.untrained_teachers()),
    )
