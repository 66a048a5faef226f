"""A model folder in a second: of a network with random weights and batch statistics of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser

from scripts.model.checkpoints import PROGRESS, save_atomically
from scripts.model.command import merged
from scripts.model.folder import CHECKPOINT
from scripts.model.new_folder import NewModelFolder
from scripts.model.provenance import Provenance
from scripts.networks import Memory

ROOT = Path(__file__).parents[1]
TRAIN = str(ROOT / "configs" / "train.json")


class Bare(NamedTuple):
    """What a training would hold.

    Attributes:
        config: Merged configuration.
        network: Detector in evaluation mode.
        preprocessing: Way of the images to it.
        provenance: Facts of the training.
    """

    config: dict[str, Any]
    network: Any
    preprocessing: Any
    provenance: Provenance

    def states(self) -> dict[str, Any]:
        """Content of ``models/model.pt``."""
        objects = {"model": self.network, "preprocessing": self.preprocessing, "provenance": self.provenance}
        progress = {"epoch_length": 4, "iteration": 8, "max_epochs": 2}
        return {**{name: item.state_dict() for name, item in objects.items()}, PROGRESS: progress}

    def new_folder(self, path: Path | None, **options: Any) -> NewModelFolder:
        """As the training would make it; ``options`` over its arguments."""
        names = ("datalist", "dataset_dir", "tracking_uri")
        given = {"bundle_root": self.config["bundle_root"], "run_name": None, "resume": False}
        given |= {"remembered": {name: self.config[name] for name in names}, "config": self.config}
        return NewModelFolder(path, provenance=self.provenance, **(given | options))

    def write(self, path: Path) -> Path:
        """Writes the model folder and returns its path."""
        folder = self.new_folder(path)
        folder.write(self.save)
        return folder.path

    def save(self, folder: Path) -> None:
        """Writes the checkpoint that inference needs."""
        save_atomically(self.states(), folder / CHECKPOINT)


def bare_model(files: Sequence[str], values: Mapping[str, Any]) -> Bare:
    """Makes the parts of a training.

    Args:
        files: ``configs/train.json`` and its overlays.
        values: Values by id, over the files.
    """
    config = merged(files, dict(values))
    get: Any = ConfigParser(merged(files, dict(values))).get_parsed_content
    network = get("network_def").train()
    side = get("image_size")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(2):
            images = torch.rand(4, 3, side, side)
            if isinstance(network, Memory):  # other images than random ones of the same seed, whose maps would be 0
                images = images.sqrt()
                network.remember(network.features(images), ["a"] * 4, images=8)
            else:
                network(images)
        if isinstance(network, Memory):
            network.consolidate()
    provenance = get("model_folder#provenance")
    provenance.facts |= {"teachers": network.identities(), "untrained_teachers": network.untrained_teachers()}
    return Bare(config, network.eval(), get("preprocessing"), provenance)
