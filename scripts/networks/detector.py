"""Base of every method: frozen teachers, a trainable distiller, and an anomaly map."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scripts.anomaly_map import AnomalyMap
from scripts.networks.folding import fold_sequences, keep_bfloat16_weights
from scripts.networks.scaling import FeatureScaling
from scripts.networks.teachers import Teacher


class Distillation(NamedTuple):
    """Features for a loss to compare; all lists run from shallow to deep, with tensors (B, C_i, H_i, W_i).

    Attributes:
        targets: Features that the students should reproduce.
        students: Features of each student.
        level_weights: Weight of each level, (B, levels), summing to 1; only for methods that weight their levels.
        anomalous: Targets of the same images with an anomaly added; only for the training of methods that use them.
    """

    targets: list[Tensor]
    students: list[list[Tensor]]
    level_weights: Tensor | None = None
    anomalous: list[Tensor] | None = None


class Detector(nn.Module):
    """Anomaly detector for images (B, 3, H, W) in [0, 1], with H and W divisible by the deepest stride.

    ``forward`` returns a ``Distillation`` in training mode and an anomaly map in evaluation mode. The state dict holds
    the distiller and the identity of the teachers it was trained with, but not their weights; it loads only beside
    the same teachers.

    Args:
        teachers: Frozen teachers, in the order that the distiller expects.
        distiller: Module that turns the teachers' features, one list a teacher, into a ``Distillation``.
        sigma: Standard deviation of the anomaly map's Gaussian, in pixels.
        stride: Stride of the deepest features in input pixels; None takes the deepest of the teachers.
        scaling: Scaling of the features between teachers and distiller, see ``FeatureScaling``.
        shrinkage: Shrinkage of the scaling.
    """

    def __init__(
        self,
        teachers: list[Teacher],
        distiller: nn.Module,
        sigma: float = 4.0,
        stride: int | None = None,
        scaling: str | list[list[str]] = "off",
        shrinkage: float = 0.3,
    ) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(teachers)
        self.distiller = distiller
        self.scaling = FeatureScaling([teacher.channels for teacher in teachers], scaling, shrinkage)
        self.anomaly_map = AnomalyMap(sigma)
        self.stride = stride or max(level for teacher in teachers for level in teacher.strides)
        self.to(memory_format=torch.channels_last)
        self.register_state_dict_post_hook(_drop_teachers)
        self.register_load_state_dict_post_hook(_allow_missing_teachers)

    def features(
        self, image: Tensor, look: Callable[[Teacher, Tensor], list[Tensor]] = Teacher.__call__
    ) -> list[list[Tensor]]:
        """Computes the teachers' features, without gradient; the same image has the same features, so caching is safe.

        Args:
            image: Images, (B, 3, H, W) in [0, 1].
            look: Function that computes the features of one teacher, ``look(teacher, image)``.

        Returns:
            One list of levels a teacher, shallow to deep.

        Raises:
            ValueError: If H or W is not divisible by the stride.
        """
        if any(side % self.stride for side in image.shape[-2:]):
            raise ValueError(f"The image is {tuple(image.shape[-2:])}; both sides must be divisible by {self.stride}.")
        return [look(teacher, image) for teacher in self.teachers]  # type: ignore[arg-type]

    def anomalous_targets(self, image: Tensor) -> list[Tensor]:
        """Targets of images with an anomaly added, for methods whose targets are the features of a single teacher."""
        (targets,) = self.scaling(self.features(image))
        return targets

    def distill(self, features: list[list[Tensor]]) -> Distillation:
        """Computes targets and students from the teachers' features."""
        return self.distiller(self.scaling(features))

    def maps(self, features: list[list[Tensor]], size: Sequence[int], without: Sequence[str] | None = None) -> Tensor:
        """Anomaly maps (B, 1, *size), float32, of the teachers' features of images.

        Args:
            features: Teachers' features of a batch.
            size: Height and width of the images.
            without: Patient of each image, who must not have been trained on; only a ``Memory`` can leave out one who
                was.
        """
        distillation = self.distill(features)
        return self.anomaly_map(distillation.targets, distillation.students, size=(size[0], size[1]))

    def forward(self, image: Tensor | list[list[Tensor]]) -> Distillation | Tensor:
        """Computes a ``Distillation`` in training mode and anomaly maps (B, 1, H, W), float32, in evaluation mode.

        Args:
            image: Images, (B, 3, H, W), or the teachers' features of them; features lead to a ``Distillation`` in
                either mode.
        """
        features = self.features(image) if isinstance(image, Tensor) else image
        if self.training or not isinstance(image, Tensor):
            return self.distill(features)
        return self.maps(features, image.shape[-2:])

    def fold(self, amp: bool = False) -> "Detector":
        """Folds the distiller's batch normalisations in place; from then on the detector is for inference only.

        Args:
            amp: Whether to convert the weights to bfloat16 too, for a detector that will only run in autocast.
        """
        fold_sequences(self.eval().distiller)
        if amp:
            keep_bfloat16_weights(self)
        return self

    def identities(self) -> list[dict[str, str]]:
        """Name, origin and hash of each teacher; see ``Teacher.identity``."""
        return [teacher.identity() for teacher in self.teachers if isinstance(teacher, Teacher)]

    def untrained_teachers(self) -> list[str]:
        """Names of the teachers with random weights."""
        return [teacher.name for teacher in self.teachers if isinstance(teacher, Teacher) and teacher.untrained]

    def get_extra_state(self) -> Tensor:
        """Identities of the teachers as JSON bytes in a tensor, as tools expect tensors in a state dict."""
        identity = json.dumps(self.identities()).encode()
        return torch.frombuffer(bytearray(identity), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Checks that a state dict was trained with the teachers of this detector.

        Raises:
            RuntimeError: If it was trained with other teachers or other weights of them.
        """
        trained, configured = json.loads(bytes(state.cpu().tolist())), self.identities()
        if len(trained) != len(configured):
            names = [", ".join(teacher["name"] for teacher in teachers) for teachers in (trained, configured)]
            raise RuntimeError(
                f"The checkpoint was trained with the teachers {names[0]}, but {names[1]} is configured. Pass the same "
                "overlays in --config_file as in training."
            )
        for ours, theirs in zip(configured, trained, strict=True):
            if (ours["name"], ours["sha256"]) != (theirs["name"], theirs["sha256"]):
                raise RuntimeError(
                    f"The checkpoint was trained with teacher {theirs['name']} ({theirs['weights']}, "
                    f"sha256 {theirs['sha256'][:12]}), but {ours['name']} ({ours['weights']}, "
                    f"sha256 {ours['sha256'][:12]}) is configured. Use the same teachers as in training: the same "
                    "overlays in --config_file and the same network_def#...#weights."
                )


def _drop_teachers(module: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    for key in [key for key in state_dict if key.startswith(f"{prefix}teachers.")]:
        del state_dict[key]


def _allow_missing_teachers(module: nn.Module, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if "teachers." not in key]
