"""A checkpoint of version 0.5.0 as a model folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from scripts.model.checkpoints import load_checkpoint, restore, save_atomically
from scripts.model.command import merged, value_of
from scripts.model.folder import CHECKPOINT
from scripts.model.new_folder import NewModelFolder
from scripts.model.provenance import Provenance

_LANDMARKS = "landmarks"
_ELSEWHERE = {  # settings of 0.5.0 that are not top-level ids of today
    name: f"preprocessing#{name}"
    for name in ("keep_aspect_ratio", "pixel_spacing", "neighbours", "crop_to_foreground", "bias_correction")
}
_OF_INTENSITY = {"windows": "windows", "intensity_range": "intensity#intensity_range"}
_PARTS = ("model", "input", "provenance", "trainer")


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
    if checkpoint.is_dir():
        checkpoint = checkpoint / CHECKPOINT
    old = load_checkpoint(checkpoint)
    if missing := [name for name in _PARTS if name not in old]:
        raise ValueError(f"{checkpoint} is no checkpoint of version 0.5.0: it has no {', '.join(missing)}.")
    settings = {name: value for name, value in old["input"].items() if name != _LANDMARKS}
    config = merged(list(files), {name: value_of(text) for name, text in overrides})
    parser = ConfigParser(config)
    for name, value in settings.items():
        place = _ELSEWHERE.get(name) or _OF_INTENSITY.get(name, name)
        if name != "intensity" and place in parser:
            parser[place] = value
    provenance = Provenance(**old["provenance"])
    network: Any = parser.get_parsed_content("network_def")
    preprocessing: Any = parser.get_parsed_content("preprocessing")
    ours = {name: preprocessing.settings.get(name) for name in settings}
    if different := sorted(name for name, value in settings.items() if ours[name] != value):
        pairs = ", ".join(f"{name} {settings[name]}, here {ours[name]}" for name in different)
        raise ValueError(f"{checkpoint} was trained by other configs ({pairs}): name its overlays in --config-file.")
    restore(checkpoint, {"model": network})
    learnt = {_LANDMARKS: old["input"][_LANDMARKS]} if _LANDMARKS in old["input"] else {}
    preprocessing.load_state_dict({"settings": preprocessing.settings, **learnt})
    provenance.facts |= {"teachers": network.identities(), "untrained_teachers": network.untrained_teachers()}
    provenance.facts |= {"version": "0.5.0"}
    folder = NewModelFolder(out, ".", None, False, provenance, parser.get(), {})
    states = {"model": old["model"], "preprocessing": preprocessing.state_dict(), "provenance": provenance.state_dict()}
    folder.write(lambda part: save_atomically({**states, "trainer": old["trainer"]}, part / CHECKPOINT))
    return out
