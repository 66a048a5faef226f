"""What a checkpoint holds besides weights, and how it reaches the disk."""

import logging
import os
import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from torch import nn

from scripts.files import replacing
from scripts.model.provenance import Provenance

logger = logging.getLogger(__name__)

_PROGRESS = "trainer"  # key of the engine's own state
_LANDMARKS = "landmarks"
_OVERLAYS = {  # that build the network of a method
    "PDD": "no file of configs/methods",
    "RD4AD": "configs/methods/rd4ad.json",
    "SCRD4AD": "configs/methods/scrd4ad.json",
}


def save_atomically(content: Mapping[str, Any], path: str | Path) -> None:
    """Writes a checkpoint so that ``path`` holds the old or the new one whole, whatever happens meanwhile.

    Raises:
        OSError: naming the file, if it cannot be written; an older checkpoint stays as it is.
    """
    path = Path(path)
    try:
        with replacing(path) as part, part.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise OSError(
            f"Cannot write the checkpoint {path}: {error}. Free space, or set ckpt_path and resume_path elsewhere."
        ) from error


class CheckpointWriter:
    """Saves ``objects`` and the engine's progress atomically: every ``interval`` epochs, and at the end.

    Args:
        path: of the checkpoint, overwritten each time.
        objects: name to anything with ``state_dict()``; tensors and primitives only.
        interval: in epochs; 0 saves at the end alone.
    """

    def __init__(self, path: str | Path, objects: Mapping[str, Any], interval: int = 0) -> None:
        self.path, self.objects, self.interval = Path(path), objects, interval

    def attach(self, engine: Engine) -> None:
        if self.interval:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        states = {name: item.state_dict() for name, item in self.objects.items()}
        save_atomically({**states, _PROGRESS: dict(engine.state_dict())}, self.path)


class CheckpointReader:
    """Restores ``objects`` from a checkpoint when the engine starts.

    Args:
        path: of the checkpoint.
        objects: name to anything with ``load_state_dict()``.
        resume: whether the engine goes on where the checkpoint's left off.
        map_location: device of the restored tensors.
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Any],
        resume: bool = False,
        map_location: str | torch.device = "cpu",
    ) -> None:
        self.path, self.objects, self.resume, self.map_location = Path(path), objects, resume, map_location

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """
        Raises:
            FileNotFoundError: if there is no such checkpoint.
            ValueError: if it is damaged, lacks an object or fits none, or is already past the epochs asked for.
        """
        checkpoint = load_checkpoint(self.path, self.map_location)
        missing = [name for name in self.objects if name not in checkpoint]
        if missing:
            raise ValueError(f"{self.path} does not hold {', '.join(missing)}: it is no checkpoint of this bundle.")
        for name, item in self.objects.items():
            try:
                item.load_state_dict(checkpoint[name])
            except (RuntimeError, ValueError) as error:
                raise ValueError(f"{self.path} does not fit: {_misfit(item, checkpoint, error)}") from error
        if self.resume:
            self._resume(engine, checkpoint[_PROGRESS])
        logger.info("Restored %s from %s", ", ".join(self.objects), self.path)

    def _resume(self, engine: Engine, progress: dict[str, Any]) -> None:
        asked, length = engine.state.max_epochs or 0, engine.state.epoch_length or 0
        if progress["epoch_length"] != length:
            raise ValueError(
                f"{self.path} comes from epochs of {progress['epoch_length']} iterations, these have {length}: resume "
                "with the same datalist, batch size and number of processes."
            )
        done = progress["iteration"] // length
        if done > asked:
            raise ValueError(f"{self.path} already has {done} epochs behind it, {asked} were asked for: ask for more.")
        engine.load_state_dict({**progress, "max_epochs": asked})


def _misfit(item: Any, checkpoint: Mapping[str, Any], error: Exception) -> str:
    """Says why ``item`` did not take its state; torch's own text lists hundreds of keys and no remedy."""
    trained, ours = checkpoint.get("provenance", {}).get("method"), type(item).__name__
    if not isinstance(item, nn.Module):
        return str(error)
    if trained in _OVERLAYS and ours in _OVERLAYS and trained != ours:
        return f"it was trained as {trained}, but {ours} is configured: name {_OVERLAYS[trained]} in --config_file."
    if str(error).startswith("Error(s) in loading state_dict"):
        return (
            f"its weights{f', trained as {trained},' if trained else ''} are not those of the {ours} that is "
            "configured: name the same overlays in --config_file and set the same network_def#... as in training."
        )
    return str(error)


def load_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Reads a checkpoint: tensors and primitives only, no code.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no checkpoint {path}. Train a model first (python -m monai.bundle run training --config_file "
            "configs/train.json), or say where it is: --ckpt_path, for --resume --resume_path."
        )
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        # The error's own text is left to the traceback: torch's proposes to load with weights_only=False.
        reason = type(error).__name__
        raise ValueError(f"{path} is damaged or no checkpoint ({reason}). Take another one, or train again.") from error


def restored(
    config: ConfigParser, checkpoint: str | Path, map_location: str | torch.device = "cpu"
) -> tuple[Any, dict[str, Any]]:
    """Gives the network of a training's or inference's config with the weights of the checkpoint, in evaluation mode,
    and what the checkpoint says of its training, see ``scripts.model.provenance.Provenance``.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it was trained otherwise than configured.
    """
    network: Any = config.get_parsed_content("network_def")
    provenance = Provenance()
    objects = {"model": network, "input": config.get_parsed_content("input_settings"), "provenance": provenance}
    CheckpointReader(checkpoint, objects, map_location=map_location)(Engine(lambda engine, batch: None))
    return network.eval(), provenance.facts


class RandomState:
    """The state of Python's, NumPy's and torch's generators, as part of a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        numpy_state: Any = np.random.get_state()  # noqa: NPY002  the global one is what libraries draw from
        return {
            "python": random.getstate(),
            "numpy": (numpy_state[0], torch.from_numpy(numpy_state[1].astype(np.int64)), *numpy_state[2:]),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        random.setstate(state["python"])
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
        torch.set_rng_state(state["torch"].cpu())
        if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([value.cpu() for value in state["cuda"]])


class InputSettings:
    """How images are brought to the network. Loading a checkpoint that was trained with other settings is an error.

    Args:
        intensity: the transform of intensities, which names its own ``settings``; what it learnt as ``landmarks`` is
            kept and restored.
        settings: name to JSON value, as the configs name them.
    """

    def __init__(self, intensity: Any = None, **settings: Any) -> None:
        if intensity is not None:
            own = dict(intensity.settings)
            settings |= {"intensity": own.pop("name"), **own}
        self.settings = settings
        self.landmarks = getattr(intensity, "landmarks", None)

    def state_dict(self) -> dict[str, Any]:
        return self.settings | ({} if self.landmarks is None else {_LANDMARKS: self.landmarks.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        trained = {name: value for name, value in state.items() if name != _LANDMARKS}
        different = {name: value for name, value in trained.items() if self.settings.get(name) != value}
        if different:
            remedy = ", ".join(
                f"without --{name}" if value is None else f'with --{name} "{value}"'
                for name, value in different.items()
            )
            if "intensity" in different:  # which no option sets
                remedy = "with the file of configs/data that it was trained with (without one, if ScaleToUnitd)"
            ours = ", ".join(f"{name} {self.settings.get(name)}" for name in different)
            raise ValueError(
                f"The checkpoint was trained with other input settings than configured ({ours}): run {remedy}; or name "
                "the same overlays in --config_file as in training."
            )
        if self.landmarks is not None:
            self.landmarks.load_state_dict(state[_LANDMARKS])
