"""Writes docs/options.md: every option of the configs, with its default and what it means.

The meaning of an argument comes from the docstring of the class that a config names, that of a plain value from
``MEANINGS``. Run it by ``make docs``; a test compares the page with the configs.
"""

import inspect
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "options.md"
# Config by title. Each is read over train.json and those named before it.
CONFIGS = {
    "Training": ["train.json"],
    "All scoring: calibration, evaluation and inference": ["scoring.json"],
    "Calibration": ["scoring.json", "calibrate.json"],
    "Evaluation": ["scoring.json", "evaluate.json"],
    "Inference": ["scoring.json", "inference.json"],
    "Overlay of CT": ["data/ct.json"],
    "Overlay of MR": ["data/mr.json"],
    "Overlay of the memory": ["methods/memory.json"],
    "Overlay of RD4AD": ["methods/rd4ad.json"],
    "Overlay of SCRD4AD": ["methods/scrd4ad.json"],
    "Overlay of light teachers": ["teachers/light.json"],
}
PARTS = (
    *("intensity", "preprocessing", "reference", "scoring", "slices", "feature_cache", "network_def", "loss"),
    *("model_folder", "tracking"),
)
# Plain values that nobody sets: what MONAI runs, and what other values decide.
_NO_OPTIONS = {
    *("imports", "initialize", "run", "finalize", "training", "calibrating", "evaluating", "inferring"),
    *("items", "has_masks", "key_metric", "additional_metrics", "optimizer", "lr_scheduler"),
    *("loss", "train"),
}
_FIXED = {"keys", "allow_missing_keys", "config"}  # arguments that the configs give for good
_LONGEST = 50  # characters of a default that is shown

MEANINGS = {
    "bundle_root": "Folder of the bundle, which the other paths start from.",
    "datalist": "Datalist to train on, which `prepare` writes.",
    "dataset_dir": "Folder of the datalist's images; None takes the one that the datalist names.",
    "cache_dir": "Folder for uncompressed copies of scans, from which slices are read. It may be deleted at will.",
    "model_dir": "New model folder; None takes `models/NAME`, NAME being the run's name.",
    "run_name": "Name of the MLflow run, and of the model folder where `model_dir` is None; None makes one of method, "
    "data and seed.",
    "experiment_name": "MLflow experiment, made if missing.",
    "tracking_uri": "MLflow's store; by default the file `eval/mlruns.db`. `configs/mlflow.json` takes a server's.",
    "resume": "Whether to go on from `models/last.pt` of `model_dir`, to the bit as if never interrupted.",
    "device": "PyTorch device; by default a GPU where there is one.",
    "seed": "Seed of the students' weights, the order of the images and random transforms.",
    "amp": "Whether to compute in bfloat16.",
    "local_teacher": "Local teacher of PDD and the memory, the only one of RD4AD and SCRD4AD; the name of a "
    "timm model that supports `features_only`, including `vmamba_*`; a tag may follow a dot.",
    "global_teacher": "Global teacher of PDD, second one of the memory; a name as `local_teacher`'s.",
    "levels": "Levels of PDD's teachers, as timm counts them; None takes all at stride 4 and coarser. The other "
    "methods name theirs in `network_def`.",
    "reference": "Standardisation of the maps by those of normal patients at the same place; None leaves maps as they "
    "are. The overlays of CT and MR bring one.",
    "epochs": "Epochs of the training.",
    "batch_size": "Images of a training step, on each process.",
    "learning_rate": "Learning rate of Adam, from which cosine annealing goes to 0.",
    "val_interval": "Epochs from one validation loss to the next.",
    "early_stop_patience": "Validations without a better loss after which training stops; 0 never stops. The "
    "validation patients then cannot calibrate.",
    "num_workers": "Processes that read images ahead; 0 reads in the main process.",
    "image_size": "Side of the network's input, in pixels.",
    "plane": "Plane of the slices: axial, coronal or sagittal.",
    "augmentation": "Random transform of the images of training and validation, seeded by run, epoch and image. One "
    "that alters `image` itself makes the feature cache useless: set `feature_cache#gibibytes` 0.",
    "ckpt_path": "Checkpoint of the trained students.",
    "calibration_path": "Calibration; where the file is missing there are no thresholds, p-values and masks.",
    "slices_at_once": "Slices of a scan, or images, that the network maps at once.",
    "scan_false_positive_rate": "Promised share of normal patients with a scan above the scan threshold, in (0, 1).",
    "slice_false_positive_rate": "Promised share of a normal patient's slices above the slice threshold, in (0, 1).",
    "mask_false_positive_rate": "Promised share of a normal patient's foreground in the mask, in (0, 1).",
    "output_dir": "Folder of the results.",
    "pixel_bins": "Largest number of thresholds of the pixel metrics, for constant memory; None computes them exactly.",
    "ader": "Whether to add pixel metrics as the ADer benchmark computes them, to compare with its tables alone.",
    "min_lesion_area": "Area of a slice's mask, in square millimetres, from which on the slice counts as abnormal; "
    "0 takes any voxel.",
    "input": "Scans to look at: a NIfTI, image or DICOM file, a folder, a glob, or a datalist.",
    "mask_threshold": "Anomaly above which a voxel is in the mask, of which nothing is promised; None takes the "
    "calibrated one.",
    "display_range": "Anomaly values at which the colours of the pictures begin and end; None takes percentiles of the "
    "run.",
    "secondary_capture": "Whether DICOM results have colour overlays as ordinary pictures too.",
    "windows": "One window of CT, or three as the three channels: brain, subdural, stroke, bone, lung, mediastinum, "
    "abdomen, liver, or `[level, width]` in Hounsfield units.",
}

_INTRODUCTION = """# Options

Made of the configs and docstrings by `make docs`; do not edit it.

An option is the id of a value in a config. Give it to MONAI's commands as `--epochs 50` or
`--preprocessing#neighbours True`, or in a JSON file of your own, the last of `--config_file`. Give it to the bundle's
verbs as `--set epochs 50`; `--help` shows the frequent ones, which have names of their own. `true`, `false` and `null`
are JSON's, for files and `--set`; MONAI's commands take `True`, `False` and `None`. A model folder keeps what its
training was given, so no later verb needs it again.
"""


def page() -> str:
    """The whole page."""
    sections = [_INTRODUCTION]
    for title, files in CONFIGS.items():
        rows = "\n".join(f"| `{name}` | {default} | {meaning} |" for name, default, meaning in options(files))
        named = " over `configs/train.json`" if "Overlay" in title else ""
        sections.append(
            f"## {title}\n\n`configs/{files[-1]}`{named}\n\n| option | default | meaning |\n|---|---|---|\n{rows}\n"
        )
    return "\n".join(sections)


def options(files: list[str]) -> Iterator[tuple[str, str, str]]:
    """Id, default and meaning of each option that the last of the configs has, over those before it."""
    every = [ROOT / "configs" / name for name in ("train.json", *files)]
    merged = ConfigParser(ConfigParser.load_config_files([str(path) for path in every]))
    for name, value in json.loads(every[-1].read_text(encoding="utf-8")).items():
        part, _, argument = name.partition("#")
        if part in PARTS and argument:
            yield name, _shown(value), arguments(_located(merged[part]["_target_"]))[argument]
        elif part in PARTS and value is not None:
            yield from _of_part(name, value)
        elif part not in _NO_OPTIONS and not isinstance(value, dict) and not _components(value):
            yield name, _shown(value), MEANINGS[name]


def plain_values() -> set[str]:
    """Ids of all plain values of the configs that are options."""
    return {name for files in CONFIGS.values() for name, _, _ in options(files) if "#" not in name}


def arguments(cls: type) -> dict[str, str]:
    """Meaning of each argument of a class, as its Google-style docstring has them."""
    found: dict[str, str] = {}
    doc = inspect.getdoc(cls) or ""
    section = re.search(r"^(?:Args|Attributes):\n((?:    .*\n?|\n(?=    ))+)", doc, re.MULTILINE)
    for entry in re.split(r"\n(?=    \S)", section[1]) if section else []:
        names, _, text = entry.partition(":")
        words = " ".join(text.split()).replace("``", "`").replace("|", "\\|")
        found |= {name.strip(): words for name in names.split(",")}
    return found


def _of_part(name: str, part: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Options of a component, those of the components in it included."""
    cls = _located(part["_target_"])
    meanings = arguments(cls)
    for argument, parameter in inspect.signature(cls).parameters.items():
        value = part.get(argument, parameter.default)
        if argument in _FIXED or value is parameter.empty or str(value)[:1] in ("@", "%"):
            continue
        if not isinstance(value, dict):
            yield f"{name}#{argument}", _shown(value), meanings[argument]
        elif "_target_" in value:
            yield from _of_part(f"{name}#{argument}", value)


def _located(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


def _components(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(one, dict) for one in value)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if text.startswith("$") and len(text) > _LONGEST:
        return "computed"
    return f"`{text}`" if text else "empty"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
