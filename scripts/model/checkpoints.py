"""Checkpoints: written whole or not at all, restored or refused."""

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
from torch import nn

from scripts.files import replacing
from scripts.model.provenance import Provenance
from scripts.networks.detector import Detector
from scripts.reference import MapReference

logger = logging.getLogger(__name__)

PROGRESS = "trainer"  # key of the engine's own state


def save_atomically(content: Mapping[str, Any], path: str | Path) -> None:
    """Writes a checkpoint so that ``path`` holds the old or the new one whole, whatever happens meanwhile.

    Raises:
        OSError: If the file cannot be written; names it. An older checkpoint stays as it is.
    """
    path = Path(path)
    try:
        with replacing(path) as part, part.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise OSError(
            f"Cannot write the checkpoint {path}: {error}. Free space, or name another --model_dir."
        ) from error


class Restored:
    """Restores a model for inference when the engine starts: weights, provenance, what the preprocessing has learnt.

    The detector's batch normalisations are folded; with ``amp`` its weights become bfloat16. It is not to be trained
    after this.

    Args:
        path: Checkpoint.
        network: Detector, or an exported one in its place.
        preprocessing: Way of the images to it.
        provenance: Takes the facts of the training.
        amp: Whether the engine runs the network in bfloat16 autocast.
        device: Device of the restored tensors.
        reference: Maps of normal patients, see ``AnomalyScored``; None where the model has none.

    >>> from scripts.networks import RD4AD, Teacher
    >>> from scripts.transforms import Preprocessing, ScaleToUnitd
    >>> network = RD4AD(Teacher("test_resnet", weights="untrained", levels=[1, 2, 3]), 1, 1, "basic")
    >>> restored = Restored("models/model.pt", network, Preprocessing(ScaleToUnitd("image"), 64), Provenance())
    >>> sorted(restored.objects)
    ['model', 'preprocessing', 'provenance']
    """

    def __init__(
        self,
        path: str | Path,
        network: Any,
        preprocessing: Any,
        provenance: Provenance,
        amp: bool = False,
        device: str | torch.device = "cpu",
        reference: MapReference | None = None,
    ) -> None:
        self.path, self.network, self.amp, self.device = Path(path), network, amp, device
        self.objects = {"model": network, "preprocessing": preprocessing, "provenance": provenance}
        if reference is not None:
            self.objects["reference"] = reference

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self) -> None:
        """
        Raises:
            FileNotFoundError: If there is no such checkpoint.
            ValueError: If it is damaged, lacks an object or does not fit.
        """
        restore(self.path, self.objects, self.device)
        if isinstance(self.network, Detector):
            self.network.fold(self.amp)


def restore(path: Path, objects: Mapping[str, Any], map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Restores objects from a checkpoint, and returns all that it holds.

    Args:
        path: Checkpoint.
        objects: Objects with ``load_state_dict()``, by name.
        map_location: Device of the restored tensors.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is damaged, lacks an object or fits none.
    """
    checkpoint = load_checkpoint(path, map_location)
    missing = [name for name in objects if name not in checkpoint]
    if missing:
        raise ValueError(f"{path} does not hold {', '.join(missing)}: it is no checkpoint of this version.")
    for name, item in objects.items():
        try:
            item.load_state_dict(checkpoint[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{path} does not fit: {_misfit(item, checkpoint, error)}") from error
    logger.info("Restored %s from %s", ", ".join(objects), path)
    return checkpoint


def resume(engine: Engine, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Lets an engine go on where a checkpoint's left off.

    Raises:
        ValueError: If the epochs have another length, or more are behind it than are asked for.
    """
    progress = checkpoint[PROGRESS]
    asked, length = engine.state.max_epochs or 0, engine.state.epoch_length or 0
    if progress["epoch_length"] != length:
        raise ValueError(
            f"{path} comes from epochs of {progress['epoch_length']} iterations, these have {length}: resume "
            "with the same datalist, batch size and number of processes."
        )
    done = progress["iteration"] // length
    if done > asked:
        raise ValueError(f"{path} already has {done} epochs behind it, {asked} were asked for: ask for more.")
    engine.load_state_dict({**progress, "max_epochs": asked})


def _misfit(item: Any, checkpoint: Mapping[str, Any], error: Exception) -> str:
    """Says why an object did not take its state; torch's own text lists hundreds of keys and no remedy."""
    trained, ours = checkpoint.get("provenance", {}).get("method"), type(item).__name__
    if isinstance(item, nn.Module) and str(error).startswith("Error(s) in loading state_dict"):
        return (
            f"its weights{f', trained as {trained},' if trained else ''} are not those of the {ours} that is "
            "configured. Take the configs of the model folder that it belongs to."
        )
    if isinstance(error, KeyError):
        return f"it lacks {error}, as one of another version. Train the model again."
    return str(error)


def load_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Reads a checkpoint: tensors and primitives only, no code.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no checkpoint {path}. Train a model first: python -m monai.bundle run training --config_file "
            "configs/train.json"
        )
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        # The error's own text is left to the traceback: torch's proposes to load with weights_only=False.
        reason = type(error).__name__
        raise ValueError(f"{path} is damaged or no checkpoint ({reason}). Take another one, or train again.") from error


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
