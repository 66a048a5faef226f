"""The model bundle that a verb takes when none is named."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXPORTED = "exported"  # key of an exported model's metadata


def default_bundle() -> Path:
    """Gives the model bundle that this code was exported in, or else the one in the models of this repository.

    Raises:
        FileNotFoundError: If there is neither.
    """
    from scripts.model.predictor import NAME, REMEDY  # which imports MONAI, and MONAI the SDK of MONAI Deploy

    metadata = ROOT / "configs" / "metadata.json"
    if metadata.is_file() and EXPORTED in json.loads(metadata.read_text(encoding="utf-8")):
        return ROOT
    bundle = ROOT / "models" / NAME
    if not bundle.is_dir():
        raise FileNotFoundError(f"There is no model bundle {bundle}. {REMEDY} Or name another one with --bundle.")
    return bundle
