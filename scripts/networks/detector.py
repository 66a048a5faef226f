"""What every method of this bundle is: frozen teachers, a trainable distiller, and an anomaly map."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scripts.anomaly_map import AnomalyMap
from scripts.networks.folding import fold_sequences, keep_bfloat16_weights
from scripts.networks.teachers import Teacher


class Distillation(NamedTuple):
    """Features that a loss compares; all lists run from shallow to deep, each tensor is (B, C_i, H_i, W_i).

    Attributes:
        targets: what the students should give.
        students: what each of them gives.
        level_weights: (B, levels), of a method that weighs its levels; they sum to 1.
        anomalous: the targets of the same images with an anomaly added, in the training of a method that wants them.
    """

    targets: list[Tensor]
    students: list[list[Tensor]]
    level_weights: Tensor | None = None
    anomalous: list[Tensor] | None = None


class Detector(nn.Module):
    """An anomaly detector. Images are (B, 3, H, W) in [0, 1]; H and W divisible by the deepest stride.

    ``forward`` gives the ``Distillation`` in training mode and the anomaly map in evaluation mode. The state dict holds
    the distiller alone, and the identity of the teachers it was trained with: loading it next to others is an error.

    Args:
        teachers: frozen; their order is the distiller's business.
        distiller: takes the teachers' features, one list a teacher, and gives a ``Distillation``.
        sigma: of the anomaly map's Gaussian, in pixels.
        stride: of the deepest features of all, in input pixels; None takes the teachers' deepest.
    """

    def __init__(
        self, teachers: list[Teacher], distiller: nn.Module, sigma: float = 4.0, stride: int | None = None
    ) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(teachers)
        self.distiller = distiller
        self.anomaly_map = AnomalyMap(sigma)
        self.stride = stride or max(level for teacher in teachers for level in teacher.strides)
        self.to(memory_format=torch.channels_last)
        self.register_state_dict_post_hook(_drop_teachers)
        self.register_load_state_dict_post_hook(_allow_missing_teachers)

    def features(
        self, image: Tensor, look: Callable[[Teacher, Tensor], list[Tensor]] = Teacher.__call__
    ) -> list[list[Tensor]]:
        """The teachers' features, without gradient; always the same for the same image, so they may be cached.

        ``look(teacher, image)`` gives those of one teacher.
        """
        if any(side % self.stride for side in image.shape[-2:]):
            raise ValueError(f"The image is {tuple(image.shape[-2:])}; both sides must be divisible by {self.stride}.")
        return [look(teacher, image) for teacher in self.teachers]  # type: ignore[arg-type]

    def anomalous_targets(self, image: Tensor) -> list[Tensor]:
        """The targets of images with an anomaly added, of methods whose targets are the features of one teacher."""
        (targets,) = self.features(image)
        return targets

    def distill(self, features: list[list[Tensor]]) -> Distillation:
        """The distiller's targets and students for the teachers' ``features``."""
        return self.distiller(features)

    def forward(self, image: Tensor | list[list[Tensor]]) -> Distillation | Tensor:
        """(B, 3, H, W) -> (B, 1, H, W) float32 anomaly map in evaluation mode, ``Distillation`` in training mode.

        For the teachers' features in place of the image it is the ``Distillation`` in either mode.
        """
        distillation = self.distill(self.features(image) if isinstance(image, Tensor) else image)
        if self.training or not isinstance(image, Tensor):
            return distillation
        return self.anomaly_map(distillation.targets, distillation.students, size=image.shape[-2:])

    def fold(self, amp: bool = False) -> "Detector":
        """Folds the distiller's batch normalisations for inference, in place: it is not to be trained after this.

        With ``amp`` weights become bfloat16, for a network that from now on runs in autocast alone.
        """
        fold_sequences(self.eval().distiller)
        if amp:
            keep_bfloat16_weights(self)
        return self

    def identities(self) -> list[dict[str, str]]:
        """What the teachers are, see ``Teacher.identity``."""
        return [teacher.identity() for teacher in self.teachers if isinstance(teacher, Teacher)]

    def untrained_teachers(self) -> list[str]:
        """The names of the teachers with random weights."""
        return [teacher.name for teacher in self.teachers if isinstance(teacher, Teacher) and teacher.untrained]

    def get_extra_state(self) -> Tensor:
        """Names and weight hashes of the teachers as JSON bytes: a tensor, as tools expect of every entry."""
        identity = json.dumps(self.identities()).encode()
        return torch.frombuffer(bytearray(identity), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        trained, configured = json.loads(bytes(state.cpu().tolist())), self.identities()
        if len(trained) != len(configured):
            names = [", ".join(teacher["name"] for teacher in teachers) for teachers in (trained, configured)]
            raise RuntimeError(
                f"The checkpoint was trained with the teachers {names[0]}, but {names[1]} is configured. Name the same "
                "overlays in --config_file as in training."
            )
        for ours, theirs in zip(configured, trained, strict=True):
            if (ours["name"], ours["sha256"]) != (theirs["name"], theirs["sha256"]):
                raise RuntimeError(
                    f"The checkpoint was trained with teacher {theirs['name']} ({theirs['weights']}, "
                    f"sha256 {theirs['sha256'][:12]}), but {ours['name']} ({ours['weights']}, "
                    f"sha256 {ours['sha256'][:12]}) is configured. Give the same teachers as in training: the same "
                    "overlays in --config_file and the same network_def#...#weights."
                )


def _drop_teachers(module: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    for key in [key for key in state_dict if key.startswith(f"{prefix}teachers.")]:
        del state_dict[key]


def _allow_missing_teachers(module: nn.Module, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if "teachers." not in key]
