"""The application folder of a MONAI Application Package: ``python bundle/deploy -i STUDY -o OUT -m MODELS``.

A package holds this folder and, elsewhere, the model folder, whose code is the one that runs. What is not said on the
command line comes from the environment (HOLOSCAN_INPUT_PATH, HOLOSCAN_OUTPUT_PATH, HOLOSCAN_MODEL_PATH), from app.yaml
(HOLOSCAN_CONFIG_PATH) and from rules.json in this folder.
"""

import argparse
import logging
import os
import sys
from importlib import import_module
from pathlib import Path

import yaml

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
    for name in ("bundle", "scripts.dicom"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        capture = _secondary_capture(Path(os.environ.get("HOLOSCAN_CONFIG_PATH", _APP / "app.yaml")))
        model = model_folder(args.model)
    except (OSError, ValueError) as error:
        return _refuse(error)
    sys.path.insert(0, str(model))
    deploy, cause_of = import_module("bundle.deploy").deploy, import_module("scripts.errors").cause_of
    try:
        return deploy(model, args.input, args.output, _APP / "rules.json", capture)
    except (OSError, ValueError, RuntimeError) as error:
        return _refuse(cause_of(error))


def _refuse(error: BaseException) -> int:
    print(f"python {_APP.name}: {error}", file=sys.stderr)
    return 1


def model_folder(models: Path) -> Path:
    """Finds the model folder that a folder is or holds.

    Raises:
        FileNotFoundError: If there is none.
    """
    for folder in (models, *(sorted(models.iterdir()) if models.is_dir() else [])):
        if (folder / "configs" / "inference.json").is_file() and (folder / "models" / "model.pt").is_file():
            return folder.resolve()
    raise FileNotFoundError(f"There is no model folder in {models}: name one, or the folder that holds it, by --model.")


def _secondary_capture(path: Path) -> bool:
    """Reads the option of app.yaml.

    Raises:
        OSError: If there is no such file.
        ValueError: If it has no such option.
    """
    try:
        wanted = yaml.safe_load(path.read_text(encoding="utf-8"))["options"]["secondary_capture"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} has no options with secondary_capture: begin with the app.yaml of bundle/deploy."
        ) from error
    if not isinstance(wanted, bool):
        raise ValueError(f"{path}: secondary_capture is {wanted!r}, neither true nor false.")
    return wanted


if __name__ == "__main__":
    sys.exit(main())
