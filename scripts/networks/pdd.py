"""PDD: Manifold-Prior Diverse Distillation (arXiv 2603.07142)."""

import itertools

from torch import Tensor, nn

from scripts.networks.blocks import Adapter, ReverseDecoder, initialise, resize_like
from scripts.networks.detector import Detector, Distillation
from scripts.networks.teachers import Teacher


class ManifoldPriorAffine(nn.Module):
    """MPA: priors for the inner levels of the second student, from the unified deepest features.

    Args:
        channels: of every level, shallow to deep.
    """

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        deepest, shared = channels[-1], channels[-2]
        self.shared = nn.Sequential(nn.Conv2d(deepest, shared, 1, bias=False), nn.BatchNorm2d(shared), nn.GELU())
        self.heads = nn.ModuleList(nn.Conv2d(shared, out, 1) for out in reversed(channels[1:-1]))

    def forward(self, unified: Tensor, like: list[Tensor]) -> list[Tensor]:
        """(B, C_n, H_n, W_n) -> priors deep to shallow, each of the size of its tensor in ``like``."""
        shared = self.shared(unified)
        return [resize_like(head(shared), reference) for head, reference in zip(self.heads, like, strict=True)]


class PDDDistiller(nn.Module):
    """InA, MMU, MPA and the two students, for any two teachers with equally many levels.

    With n levels, f_c^i of the local and f_m^i of the global teacher:
    targets ``f_b^i = resize(Adapter_i(f_m^i)) + f_c^i`` for i < n (InA), students' input
    ``f_t = resize(Adapter_n(f_m^n)) + f_c^n`` (MMU). Student 1 decodes f_t, student 2 decodes f_t with the MPA priors.

    Args:
        local_channels, local_strides: of the local teacher, shallow to deep.
        global_channels: of the global teacher.
        share_students: one decoder run twice, as the released code does; then the deepest level of both is the same.
        detach_targets: no gradient through the targets, so the InA adapters keep their initial weights.

    Raises:
        ValueError: if the teachers' levels do not fit together.
    """

    def __init__(
        self,
        local_channels: list[int],
        local_strides: list[int],
        global_channels: list[int],
        share_students: bool = False,
        detach_targets: bool = False,
    ) -> None:
        super().__init__()
        if len(local_channels) != len(global_channels) or len(local_channels) < 2:
            raise ValueError(
                f"PDD needs two teachers with equally many levels, at least two; the local one has "
                f"{len(local_channels)}, the global one {len(global_channels)}. Choose with the teachers' 'levels'."
            )
        scales = [deep // shallow for shallow, deep in itertools.pairwise(local_strides)]
        self.detach_targets = detach_targets
        self.adapters = nn.ModuleList(
            Adapter(global_, local) for global_, local in zip(global_channels, local_channels, strict=True)
        )
        self.mpa = ManifoldPriorAffine(local_channels)
        self.student1 = ReverseDecoder(local_channels, scales)
        self.student2 = self.student1 if share_students else ReverseDecoder(local_channels, scales)
        initialise(self)
        if detach_targets:  # they would never get a gradient, which an optimiser or DDP must know beforehand
            self.adapters[:-1].requires_grad_(False)

    def forward(self, features: list[list[Tensor]]) -> Distillation:
        local, global_ = features
        fused = [
            resize_like(adapter(f_m), f_c) + f_c
            for adapter, f_m, f_c in zip(self.adapters, global_, local, strict=True)
        ]
        targets, unified = fused[:-1], fused[-1]
        if self.detach_targets:
            targets = [target.detach() for target in targets]
        priors = self.mpa(unified, like=list(reversed(targets[1:])))
        return Distillation(targets, [self.student1(unified), self.student2(unified, priors)])


class PDD(Detector):
    """PDD with any two teachers (the paper: wide_resnet50_2 and vmamba_tiny_v0).

    Args:
        local_teacher: CNN whose features the students imitate.
        global_teacher: state-space model (or other) that adds the global context.
        share_students, detach_targets: see ``PDDDistiller``.
        sigma: of the anomaly map's Gaussian, in pixels.
    """

    def __init__(
        self,
        local_teacher: Teacher,
        global_teacher: Teacher,
        share_students: bool = False,
        detach_targets: bool = False,
        sigma: float = 4.0,
    ) -> None:
        distiller = PDDDistiller(
            local_teacher.channels, local_teacher.strides, global_teacher.channels, share_students, detach_targets
        )
        super().__init__([local_teacher, global_teacher], distiller, sigma)
