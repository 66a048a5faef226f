"""A checkpoint of version 0.5.0 as a model folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from scripts.data.datalist import datalist_facts, datalist_hash
from scripts.model.checkpoints import PROGRESS, load_checkpoint, restore, save_atomically
from scripts.model.command import merged, value_of
from scripts.model.folder import CHECKPOINT
from scripts.model.new_folder import NewModelFolder
from scripts.model.provenance import Provenance

_LANDMARKS = "landmarks"
_PREPROCESSING = ("keep_aspect_ratio", "pixel_spacing", "neighbours", "crop_to_foreground", "bias_correction")
_MOVED = {  # ids of 0.5.0 that the overlays of a training may hold
    **{name: f"preprocessing#{name}" for name in _PREPROCESSING},
    **{name: f"slices#{name}" for name in ("slice_range", "min_body_fraction", "abnormal_subjects")},
    "held_out_slices": "slices#held_out",
    "intensity_range": "intensity#intensity_range",
    "score_pooling": "scoring#pooling",
    "scan_pooling": "scoring#scan_pooling",
    "foreground_only": "scoring#foreground_only",
    "feature_cache_gib": "feature_cache#gibibytes",
    "checkpoint_interval": "model_folder#checkpoint_interval",
    "registered_model_name": "tracking#registered_model",
}
_PARTS = ("model", "input", "provenance", PROGRESS)


def convert(checkpoint: Path, files: Sequence[str], overrides: Sequence[tuple[str, str]], out: Path) -> Path:
    """Makes a model folder of a checkpoint that version 0.5.0 has written.

    What the checkpoint says of its input wins over the configs, so that only network and intensities must be theirs.

    Args:
        checkpoint: ``models/model.pt`` of 0.5.0.
        files: ``configs/train.json`` and the overlays of the training, in order.
        overrides: Ids and their values as text, JSON where it is.
        out: New folder.

    Returns:
        ``out``.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        FileExistsError: If there is an ``out`` already.
        ValueError: If it is no checkpoint of 0.5.0, or the configs are not those of its training.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists: remove it, or name another --output.")
    if checkpoint.is_dir():
        checkpoint = checkpoint / CHECKPOINT
    old = load_checkpoint(checkpoint)
    if missing := [name for name in _PARTS if name not in old]:
        raise ValueError(f"{checkpoint} is no checkpoint of version 0.5.0: it has no {', '.join(missing)}.")
    parser = ConfigParser(merged(files, {name: value_of(text) for name, text in overrides}))
    if "input_settings" in parser:
        raise ValueError("--config-file begins with configs/train.json of this version, not with that of 0.5.0.")
    settings = {name: value for name, value in old["input"].items() if name != _LANDMARKS}
    for given in ({name: parser.get().pop(name) for name in _MOVED if name in parser}, settings):
        for name, value in given.items():
            place = _MOVED.get(name, name)
            if name != "intensity" and place in parser:
                parser[place] = value
    parser["reference"] = None  # 0.5.0 took scans and maps as they are, and pooled them by their maximum or mean
    parser["preprocessing#align"] = False
    if str(parser["scoring#scan_pooling"]).endswith("%"):
        parser["scoring#scan_pooling"] = "max"
    if parser["scoring#pooling"] not in ("max", "mean"):
        parser["scoring#pooling"] = "max"
    get: Any = parser.get_parsed_content
    network, preprocessing = get("network_def"), get("preprocessing")
    ours = {name: preprocessing.settings.get(name) for name in settings}
    if different := sorted(name for name, value in settings.items() if ours[name] != value):
        pairs = ", ".join(f"{name} {settings[name]}, here {ours[name]}" for name in different)
        raise ValueError(f"{checkpoint} was trained by other configs ({pairs}): name its overlays in --config-file.")
    restore(checkpoint, {"model": network})
    learnt = {_LANDMARKS: old["input"][_LANDMARKS]} if _LANDMARKS in old["input"] else {}
    preprocessing.load_state_dict({"settings": preprocessing.settings, **learnt})
    remembered = {name: get(name) for name in ("datalist", "dataset_dir", "tracking_uri")}
    provenance = Provenance(**old["provenance"], modality=_modality(remembered["datalist"], old["provenance"]))
    provenance.facts |= {"teachers": network.identities(), "untrained_teachers": network.untrained_teachers()}
    provenance.facts |= {"version": "0.5.0"}
    folder = NewModelFolder(out, get("bundle_root"), None, False, provenance, parser.get(), remembered)
    states = {"model": old["model"], "preprocessing": preprocessing.state_dict(), "provenance": provenance.state_dict()}
    folder.write(lambda part: save_atomically({**states, PROGRESS: old[PROGRESS]}, part / CHECKPOINT))
    return out


def _modality(datalist: str, facts: Mapping[str, Any]) -> str | None:
    """Modality that was trained on, which a checkpoint of 0.5.0 does not say; None without its datalist."""
    if not Path(datalist).is_file() or datalist_hash(datalist) != facts.get("datalist_sha256"):
        return None
    return datalist_facts(datalist)["modality"]
