"""A trained model as a MONAI bundle of its own, in the model zoo's form, that runs anywhere without further options."""

from __future__ import annotations

import copy
import filecmp
import json
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.utils import merge_kv

from bundle.exported import EXPORTED
from scripts.files import file_sha256
from scripts.model.predictor import NAME
from scripts.model.provenance import git_commit
from scripts.networks.teachers import PRETRAINED, UNTRAINED
from scripts.networks.weights import teacher_weights

ROOT = Path(__file__).parents[2]
_FILES = (
    *("LICENSE", "README.md", "pyproject.toml", "constraints.txt"),
    *("docs/README.md", "docs/clinic.md", "docs/data_license.txt"),
)
_BASES = ("train.json", "evaluate.json", "inference.json")
# Of the machine and the run, not of the model: the bundle keeps its own defaults.
_NOT_THE_MODELS = (
    *("bundle_root", "device", "datalist", "dataset_dir", "scan_cache_dir", "feature_cache_dir", "ckpt_path"),
    *("resume_path", "calibration_path", "input", "output_dir", "results_dir", "tracking_uri", "experiment_name"),
    *("run_name", "parent_run_id", "registered_model_name", "exported_path"),
)


def merged_configs(overlays: list[str], overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Gives the bundle's configs by file name, with what a training was given merged in.

    Args:
        overlays: config files, the later ones on top; what they say of a machine is left out.
        overrides: ids and their values, on top of these.
    """
    given = [pair for overlay in overlays for pair in ConfigParser.load_config_file(overlay).items()]
    given = [(key, value) for key, value in [*given, *overrides.items()] if key not in _NOT_THE_MODELS]
    merged = {}
    for name in _BASES:
        parser = ConfigParser(ConfigParser.load_config_file(ROOT / "configs" / name))
        for key, value in given:
            # An evaluation comes on top of the training's config, and would hide what it names itself.
            if name != "evaluate.json" or key in parser:
                merge_kv(parser, key, copy.deepcopy(value))
        merged[name] = parser.get()
    return merged


def write_bundle(
    overlays: list[str],
    overrides: Mapping[str, Any],
    checkpoint: Path,
    calibration: Path | None,
    out: Path,
    bundle_root: str = ".",
) -> Path:
    """Writes ``medical_anomaly_pdd/``, or a zip that holds it: configs with overlays and overrides merged in, model,
    calibration, weights of the teachers, code, licence and model card.

    Args:
        overlays: config files of the training, behind train.json.
        overrides: ids and their values.
        checkpoint: that fits these.
        calibration: of the checkpoint; None where there is none.
        out: a new folder of that name, or a new ``.zip``.
        bundle_root: of the training, below which ``models/`` holds fetched weights.

    Returns:
        ``out``.

    Raises:
        FileExistsError: If there is an ``out`` already.
        ValueError: If its name would mislead MONAI Label, or the calibration is not the checkpoint's.
        OSError: If it cannot be written; nothing is left then.
    """
    zipped = out.suffix == ".zip"
    if not zipped and "detection" in out.name.lower():
        raise ValueError(f"MONAI Label takes a bundle named {out.name} for a detector of boxes. Call it {NAME}.")
    if out.exists():
        raise FileExistsError(f"{out} exists: remove it, or name another --output.")
    configs = merged_configs(overlays, overrides)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as temporary:
        folder = Path(temporary) / (NAME if zipped else out.name)
        (folder / "models").mkdir(parents=True)
        shutil.copy(checkpoint, folder / "models" / "model.pt")
        if calibration is not None:
            _check(configs["inference.json"], calibration, checkpoint)
            shutil.copy(calibration, folder / "models" / "calibration.json")
        _copy_code(folder)
        _mark(folder / "configs" / "metadata.json", checkpoint)
        _copy_weights(configs, bundle_root, folder / "models")
        for name, content in configs.items():
            (folder / "configs" / name).write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
        if zipped:
            _zip(folder, Path(temporary) / out.name)
            folder = Path(temporary) / out.name
        os.replace(folder, out)
    return out


def _check(config: dict[str, Any], calibration: Path, checkpoint: Path) -> None:
    """Raises ValueError if the calibration is not the checkpoint's."""
    parser = ConfigParser(copy.deepcopy(config))
    parser["calibration_path"], parser["ckpt_path"] = str(calibration), str(checkpoint)
    parser.get_parsed_content("calibration")


def _copy_code(folder: Path) -> None:
    unwanted = shutil.ignore_patterns("__pycache__", ".*")
    for name in ("bundle", "configs", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for name in _FILES:
        if (ROOT / name).is_file():  # a bundle that was exported has what its own export had
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for path in (folder, *folder.rglob("*")):  # or else a bundle of read-only code could be neither finished nor used
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def _mark(metadata: Path, checkpoint: Path) -> None:
    """Says in the metadata that this is an exported model, and which."""
    content = json.loads(metadata.read_text(encoding="utf-8"))
    content[EXPORTED] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "checkpoint_sha256": file_sha256(checkpoint),
    }
    metadata.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def _copy_weights(configs: dict[str, dict[str, Any]], bundle_root: str, models: Path) -> None:
    """Copies the weights of every teacher, and has the configs name the copies where they named a file."""
    for content in configs.values():
        parser = ConfigParser(copy.deepcopy(content))
        parser["bundle_root"] = bundle_root
        for name, teacher in _teachers(content.get("network_def"), "network_def"):
            weights: Any = parser.get_parsed_content(f"{name}#weights") if "weights" in teacher else PRETRAINED
            if weights == UNTRAINED:
                continue
            pretrained = weights == PRETRAINED
            source = teacher_weights(teacher["name"], Path(bundle_root, "models")) if pretrained else Path(weights)
            copied = models / source.name
            if copied.exists() and not filecmp.cmp(copied, source, shallow=False):  # another file of that name
                copied = models / f"{file_sha256(source)[:12]}-{source.name}"
            if not copied.exists():
                shutil.copy(source, copied)
            if not pretrained:
                teacher["weights"] = f"$@bundle_root + {f'/models/{copied.name}'!r}"


def _teachers(value: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The parts of a config that are teachers, with their ids."""
    if isinstance(value, dict):
        if str(value.get("_target_", "")).endswith(".Teacher"):
            yield name, value
        for key, child in value.items():
            yield from _teachers(child, f"{name}#{key}")


def _zip(folder: Path, out: Path) -> None:
    # Installed code may have no times of its own, but 1970, which a zip cannot say.
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
