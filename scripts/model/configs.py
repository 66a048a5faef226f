"""The configs of a model folder: each verb's own, whole, with all that the training was given merged in."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.properties import InferProperties
from monai.bundle.utils import merge_kv
from monai.utils.enums import BundlePropertyConfig

ROOT = Path(__file__).parents[2]
SCORING = "scoring.json"  # part of each of the following
SCORING_VERBS = {"calibrate": "calibrating", "evaluate": "evaluating", "inference": "inferring"}  # file and run id
_TRAIN = "train.json"
# Ids that belong to one run or machine and not to the model: a folder has those of the base.
_OF_THE_RUN = (
    *("bundle_root", "device", "cache_dir", "model_dir", "run_name", "resume"),
    *("feature_cache#folder", "model_folder#config", "tracking#parent_run_id"),
)
_ROOTS = ("imports", "initialize", "run", "finalize")
_REFERENCE = re.compile(r"[@%](\w+)")


def folder_configs(trained: Mapping[str, Any], remembered: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Makes the configs of a model folder, by file name.

    Args:
        trained: Merged configuration of the training, before anything in it is resolved.
        remembered: Values by id that later verbs take where they are given no others, as the datalist.

    Returns:
        ``train.json``, which makes a folder alike, and one config for each of ``SCORING_VERBS``, of which what it does
        not use is left out.
    """
    base = ConfigParser(copy.deepcopy(dict(trained)))
    ours = ConfigParser(_load(_TRAIN))
    for name in _OF_THE_RUN:
        if name in ours:
            base[name] = ours[name]
    base.update(dict(remembered))
    configs = {_TRAIN: copy.deepcopy(base.get())}
    for verb, run_id in SCORING_VERBS.items():
        merged = ConfigParser(copy.deepcopy(base.get()))
        for name in ("run", "training", "finalize", "train", "validate"):
            merged.get().pop(name, None)
        for key, value in (_load(SCORING) | _load(f"{verb}.json")).items():
            if key not in merged:  # an option that the training was given stays
                merge_kv(merged, key, copy.deepcopy(value))
        if merged["reference"] is not None:
            merged["reference#path"] = "@ckpt_path"
        if merged["preprocessing#align"]:
            merged["preprocessing#path"] = "@ckpt_path"
        configs[f"{verb}.json"] = _used(merged.get(), run_id)
    return configs


def _load(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "configs" / name).read_text(encoding="utf-8"))


def _used(config: dict[str, Any], run_id: str) -> dict[str, Any]:
    """Keeps the top-level ids that a run needs, directly or by reference, and those that MONAI's tools ask for."""
    asked = {str(one[BundlePropertyConfig.ID]).replace("::", "#").split("#")[0] for one in InferProperties.values()}
    waiting = [name for name in (*_ROOTS, run_id, *asked) if name in config]
    used: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in used:
            used.add(name)
            waiting += [found for found in _references(config[name]) if found in config]
    return {name: value for name, value in config.items() if name in used}


def _references(value: Any) -> Iterable[str]:
    """Top-level ids that a config value refers to."""
    if isinstance(value, str) and value[:1] in ("@", "$", "%"):
        return _REFERENCE.findall(value)
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [name for child in children for name in _references(child)]


def teachers(value: Any, name: str = "network_def") -> Iterable[tuple[str, dict[str, Any]]]:
    """Parts of a network's definition that are teachers, with their ids."""
    if isinstance(value, dict):
        if str(value.get("_target_", "")).endswith(".Teacher"):
            yield name, value
        for key, child in value.items():
            yield from teachers(child, f"{name}#{key}")
