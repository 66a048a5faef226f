"""The application folder of a MONAI Application Package: ``python bundle/deploy -i STUDY -o OUT -m MODELS``.

A package holds this folder and, elsewhere, the model bundle, whose code is the one that runs. What is not said on the
command line comes from the environment (HOLOSCAN_INPUT_PATH, HOLOSCAN_OUTPUT_PATH, HOLOSCAN_MODEL_PATH), from app.yaml
(HOLOSCAN_CONFIG_PATH) and from rules.json in this folder.
"""

import argparse
import logging
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

_APP = Path(__file__).resolve().parent


def main() -> int:
    """Runs the application; a wrong input ends with its message and exit code 1, not with a traceback."""
    parser = argparse.ArgumentParser(prog=f"python {_APP.name}", description=__doc__)
    for flag, name in (("-i", "input"), ("-o", "output"), ("-m", "model")):
        variable, default = f"HOLOSCAN_{name.upper()}_PATH", "models" if name == "model" else name
        given = Path(os.environ.get(variable, default))
        parser.add_argument(flag, f"--{name}", type=Path, default=given, help=f"{variable}, or else {default}")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("bundle").setLevel(logging.INFO)
    try:
        options = _options(Path(os.environ.get("HOLOSCAN_CONFIG_PATH", _APP / "app.yaml")))
        model = model_bundle(args.model)
        sys.path.insert(0, str(model))
        capture = bool(options.get("secondary_capture"))
        return import_module("bundle.deploy").deploy(args.input, args.output, model, _APP / "rules.json", capture)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1


def model_bundle(models: Path) -> Path:
    """Gives the model bundle that a folder is or holds.

    Raises:
        FileNotFoundError: If there is none.
    """
    for folder in (models, *(sorted(models.iterdir()) if models.is_dir() else [])):
        if (folder / "configs" / "inference.json").is_file() and (folder / "models" / "model.pt").is_file():
            return folder.resolve()
    raise FileNotFoundError(
        f"There is no model bundle in {models}. Make one by python -m bundle export --format bundle, and name its "
        "folder, or the one that holds it, by --model."
    )


def _options(path: Path) -> dict[str, Any]:
    """Gives the section ``options`` of app.yaml."""
    import yaml

    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("options") or {}


if __name__ == "__main__":
    sys.exit(main())
