"""The model bundle that a verb takes when none is named."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def default_bundle() -> Path:
    """Gives the model bundle that this code was exported in, or else the one in the models of this repository.

    Raises:
        FileNotFoundError: If there is neither.
    """
    from scripts.predictor import NAME, REMEDY  # which imports MONAI, and MONAI the SDK of MONAI Deploy

    # An export holds neither Makefile nor tests; the repository may hold a model whose configs are not merged.
    if (ROOT / "models" / "model.pt").is_file() and not (ROOT / "Makefile").is_file():
        return ROOT
    bundle = ROOT / "models" / NAME
    if not bundle.is_dir():
        raise FileNotFoundError(f"There is no model bundle {bundle}. {REMEDY} Or name another one with --bundle.")
    return bundle
