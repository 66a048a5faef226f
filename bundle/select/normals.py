"""Normal slices and images that trainings have held back."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scripts.model.checkpoints import restore
from scripts.model.folder import MODEL, ModelFolder

Item = dict[str, Any]


def held_back(folders: Mapping[str, ModelFolder], values: Mapping[str, dict[str, Any]]) -> list[Item]:
    """Slices and images without anomaly on which no model was trained, the same for all of them.

    Args:
        folders: Model folders by name.
        values: Config values by id, for each of the names.

    Returns:
        Items; those of scans have a ``slice``.

    Raises:
        ValueError: If there are none, or the models differ in what they have held back.
    """
    first, *others = folders
    if "datalist" not in values[first]:
        _check_datalists(folders)
    normals = _of_model(folders[first], values[first])
    for name in others:
        if _keys(_of_model(folders[name], values[name])) != _keys(normals):
            raise ValueError(
                f"{first} and {name} have held back different slices, so their scores do not compare: select among "
                "models with the same datalist, plane and choice of slices (slices#...)."
            )
    return normals


def taken_evenly(items: Sequence[Item], number: int, seed: int) -> list[Item]:
    """Takes a number of items, evenly spread over all of them, from a start that the seed draws.

    >>> taken_evenly([{"slice": slice} for slice in range(8)], 4, seed=0)
    [{'slice': 1}, {'slice': 3}, {'slice': 5}, {'slice': 7}]
    """
    if number >= len(items):
        return list(items)
    start = np.random.default_rng(seed).random()
    return [items[int(place)] for place in (np.arange(number) + start) * len(items) / number]


def digest(items: Sequence[Item]) -> str:
    """SHA-256 that is the same for the same slices, 64 hex digits."""
    return hashlib.sha256(json.dumps(_keys(items)).encode()).hexdigest()


def _of_model(folder: ModelFolder, values: dict[str, Any]) -> list[Item]:
    config = folder.config("train", **{**values, "slices#training": []})
    restore(folder.checkpoint, {"preprocessing": config.get_parsed_content("preprocessing")})
    slices: Any = config.get_parsed_content("slices")
    training: Any = config.get_parsed_content("train#items") if slices.held_out else []
    normals = slices.validation(config.get_parsed_content("validate#items"), training)
    if not normals:
        raise ValueError(
            f"{config.get_parsed_content('datalist')}: no normal patient in validation, and the training of "
            f"{folder.path} has held back no slices. Prepare it with --validation-fraction and train again, or name "
            "another by --datalist, whose validation patients the training has not seen."
        )
    return sorted(normals, key=lambda item: (item["group"], *_key(item)))


def _check_datalists(folders: Mapping[str, ModelFolder]) -> None:
    known = {name: folder.metadata[MODEL].get("datalist_sha256") for name, folder in folders.items()}
    first = next(iter(known))
    for name, digest in known.items():
        if digest != known[first]:
            raise ValueError(
                f"{first} and {name} were trained by different datalists: select among models of one datalist, or name "
                "one by --datalist, whose validation patients no training has seen."
            )


def _key(item: Item) -> tuple[str, int]:
    return item["image"], item.get("slice", 0)


def _keys(items: Sequence[Item]) -> list[tuple[str, int]]:
    return [_key(item) for item in items]
