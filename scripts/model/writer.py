"""Writes the model folder while a training runs, and resumes from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from scripts.distributed import rank
from scripts.model.checkpoints import PROGRESS, RandomState, restore, resume, save_atomically
from scripts.model.folder import CHECKPOINT, RESUME
from scripts.model.new_folder import NewModelFolder
from scripts.networks.detector import Detector
from scripts.reference import MapReference
from scripts.transforms.preprocessing import Preprocessing


class ModelWriter:
    """Saves a checkpoint into the model folder every few epochs and at the end; the first one makes the folder.

    ``model.pt`` holds the distiller, what the preprocessing has learnt, and where the model comes from; ``last.pt``
    also what a training goes on with, to the bit as if never interrupted. Both are tensors and primitives only.

    Args:
        folder: Model folder of this training, which says whether it is resumed.
        network: Detector that is trained.
        preprocessing: Way of the images to it.
        resumable: Further objects with ``state_dict()`` and ``load_state_dict()``, by name.
        device: Device of restored tensors.
        reference: Maps of normal patients, fitted when the training ends; None where the model has none.

    >>> from scripts.model.provenance import Provenance
    >>> from scripts.networks import RD4AD, Teacher
    >>> from scripts.transforms import ScaleToUnitd
    >>> folder = NewModelFolder("models/brain", ".", None, False, Provenance(), {}, {})
    >>> network = RD4AD(Teacher("test_resnet", weights="untrained", levels=[1, 2, 3]), 1, 1, "basic")
    >>> writer = ModelWriter(folder, network, Preprocessing(ScaleToUnitd("image"), 64), {})
    >>> sorted(writer.trained)
    ['model', 'preprocessing', 'provenance']
    """

    def __init__(
        self,
        folder: NewModelFolder,
        network: Detector,
        preprocessing: Preprocessing,
        resumable: Mapping[str, Any],
        device: str | torch.device = "cpu",
        reference: MapReference | None = None,
    ) -> None:
        self.folder, self.device = folder, device
        folder.provenance.facts |= {
            "teachers": network.identities(),
            "untrained_teachers": network.untrained_teachers(),
        }
        self.trained: dict[str, Any] = {
            "model": network,
            "preprocessing": preprocessing,
            "provenance": folder.provenance,
        }
        if reference is not None:
            self.trained["reference"] = reference
        given = {name: item for name, item in resumable.items() if item is not None}
        self.resumable = {**self.trained, **given, "random": RandomState()}
        self._saved = -1  # the iteration of the latest checkpoint

    def attach(self, engine: Engine) -> None:
        if rank() == 0:
            engine.add_event_handler(Events.STARTED, self.folder.begin)
        if self.folder.resume:
            engine.add_event_handler(Events.STARTED, self._resume)
        if rank() > 0:
            return
        if self.folder.checkpoint_interval:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.folder.checkpoint_interval), self)
        engine.add_event_handler(Events.COMPLETED, self, last=True)
        engine.add_event_handler(Events.COMPLETED, self.folder.release)

    def __call__(self, engine: Engine, last: bool = False) -> None:
        if self._saved == engine.state.iteration and not (last and "reference" in self.trained):
            return
        self._saved = engine.state.iteration
        states = {name: item.state_dict() for name, item in self.resumable.items()}
        progress = {PROGRESS: dict(engine.state_dict())}

        def save(folder: Path) -> None:
            save_atomically({**states, **progress}, folder / RESUME)
            save_atomically({**{name: states[name] for name in self.trained}, **progress}, folder / CHECKPOINT)

        self.folder.write(save)
        self.folder.claim()

    def _resume(self, engine: Engine) -> None:
        checkpoint = restore(self.folder.last, self.resumable, self.device)
        resume(engine, checkpoint, self.folder.last)
