"""PDD: Manifold-Prior Diverse Distillation (arXiv 2603.07142)."""

import itertools

from torch import Tensor, nn

from scripts.networks.blocks import Adapter, ReverseDecoder, initialise, resize_like
from scripts.networks.detector import Detector, Distillation
from scripts.networks.teachers import Teacher


class ManifoldPriorAffine(nn.Module):
    """MPA: predicts priors for the inner levels of the second student from the unified deepest features.

    Args:
        channels: Channels of each level of the student, shallow to deep, the last being those of its input.
    """

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        deepest, shared = channels[-1], channels[-2]
        self.shared = nn.Sequential(nn.Conv2d(deepest, shared, 1, bias=False), nn.BatchNorm2d(shared), nn.GELU())
        self.heads = nn.ModuleList(nn.Conv2d(shared, out, 1) for out in reversed(channels[1:-1]))

    def forward(self, unified: Tensor, like: list[Tensor]) -> list[Tensor]:
        """Computes priors from (B, C_n, H_n, W_n), deep to shallow, each the size of its tensor in ``like``."""
        shared = self.shared(unified)
        return [resize_like(head(shared), reference) for head, reference in zip(self.heads, like, strict=True)]


class PDDDistiller(nn.Module):
    """InA, MMU, MPA and the two students, for any two teachers with the same number of levels.

    With n levels, features f_c^i of the local teacher and f_m^i of the global teacher:
    the targets are ``f_b^i = resize(Adapter_i(f_m^i)) + f_c^i`` for i < n (InA), and the input of the students is
    ``f_t = resize(Adapter_n(f_m^n)) + f_c^n`` (MMU). Student 1 decodes f_t; student 2 decodes f_t with the MPA priors.

    Args:
        local_channels: Channels of the local teacher's levels, shallow to deep.
        local_strides: Strides of the local teacher's levels in input pixels, shallow to deep.
        global_channels: Channels of the global teacher's levels, shallow to deep.
        share_students: Whether both students are one decoder run twice, as in the released code; their deepest levels
            are then the same.
        detach_targets: Whether the targets pass no gradient, so that the InA adapters keep their initial weights.
        adapt_levels: Whether the targets hold the global teacher's features (InA); else they are the local teacher's
            own. Trained adapters make targets easy to imitate where the loss is free of their scale.
        student_width: See ``ReverseDecoder``.

    Raises:
        ValueError: If the teachers differ in their number of levels, or have fewer than two.
    """

    def __init__(
        self,
        local_channels: list[int],
        local_strides: list[int],
        global_channels: list[int],
        share_students: bool = False,
        detach_targets: bool = False,
        adapt_levels: bool = True,
        student_width: int | None = None,
    ) -> None:
        super().__init__()
        if len(local_channels) != len(global_channels) or len(local_channels) < 2:
            raise ValueError(
                f"PDD needs two teachers with the same number of levels, at least two; the local one has "
                f"{len(local_channels)}, the global one {len(global_channels)}. Set the teachers' 'levels'."
            )
        scales = [deep // shallow for shallow, deep in itertools.pairwise(local_strides)]
        self.detach_targets, self.adapt_levels = detach_targets, adapt_levels
        levels = list(zip(global_channels, local_channels, strict=True))
        self.adapters = nn.ModuleList(Adapter(*level) for level in (levels if adapt_levels else levels[-1:]))
        self.student1 = ReverseDecoder(local_channels, scales, width=student_width)
        self.student2 = self.student1 if share_students else ReverseDecoder(local_channels, scales, width=student_width)
        self.mpa = ManifoldPriorAffine(self.student1.inner)
        initialise(self)
        if detach_targets:  # they never get a gradient, and optimisers and DDP must know that in advance
            self.adapters[:-1].requires_grad_(False)

    def forward(self, features: list[list[Tensor]]) -> Distillation:
        local, global_ = features
        plain = len(local) - len(self.adapters)  # levels without an adapter
        adapted = zip(self.adapters, global_[plain:], local[plain:], strict=True)
        fused = [*local[:plain], *(resize_like(adapter(f_m), f_c) + f_c for adapter, f_m, f_c in adapted)]
        targets, unified = fused[:-1], fused[-1]
        if self.detach_targets:
            targets = [target.detach() for target in targets]
        priors = self.mpa(unified, like=list(reversed(targets[1:])))
        return Distillation(targets, [self.student1(unified), self.student2(unified, priors)])


class PDD(Detector):
    """PDD with any two teachers (in the paper wide_resnet50_2 and vmamba_tiny_v0).

    Args:
        local_teacher: CNN whose features the students imitate.
        global_teacher: State-space or other model that adds global context to these features.
        share_students: Whether both students share one decoder; see ``PDDDistiller``.
        detach_targets: Whether the targets pass no gradient; see ``PDDDistiller``.
        adapt_levels: Whether the targets hold the global teacher's features (InA); see ``PDDDistiller``.
        student_width: Channels inside the students in multiples of their targets', to which a linear layer then leads;
            None has students as in the paper.
        sigma: Standard deviation of the anomaly map's Gaussian, in pixels.
        scaling: Scaling of the targets: ``"off"``, ``"divide"``, ``"standardise"`` or ``"whiten"``; see
            ``FeatureScaling``. Unless it is off, the other features are divided by their root mean square.
        shrinkage: Shrinkage of the scaling, see ``FeatureScaling``.

    >>> import torch
    >>> network = PDD(Teacher("test_resnet", "untrained"), Teacher("vmamba_pico", "untrained"))
    >>> [tuple(target.shape) for target in network(torch.rand(2, 3, 64, 64)).targets]
    [(2, 32, 16, 16), (2, 48, 8, 8), (2, 192, 4, 4)]
    >>> network.eval()(torch.rand(1, 3, 64, 64)).shape
    torch.Size([1, 1, 64, 64])
    """

    def __init__(
        self,
        local_teacher: Teacher,
        global_teacher: Teacher,
        share_students: bool = False,
        detach_targets: bool = False,
        adapt_levels: bool = True,
        student_width: int | None = None,
        sigma: float = 4.0,
        scaling: str = "off",
        shrinkage: float = 0.3,
    ) -> None:
        distiller = PDDDistiller(
            local_teacher.channels,
            local_teacher.strides,
            global_teacher.channels,
            share_students,
            detach_targets,
            adapt_levels,
            student_width,
        )
        inputs = "off" if scaling == "off" else "divide"  # of the students, which know them as they are
        targets = [*[scaling] * (len(local_teacher.channels) - 1), inputs]
        modes = [targets, [inputs] * len(global_teacher.channels)]
        super().__init__([local_teacher, global_teacher], distiller, sigma, scaling=modes, shrinkage=shrinkage)
