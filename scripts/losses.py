"""Losses of the methods: ``loss(distillation) -> (total, {name: part})``."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.networks.detector import Distillation


def flat_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of the flattened features of each image: twice (B, C, H, W) -> (B,)."""
    # Flattened in memory order, so that channels-last features are not copied. Products of vectors take half the time
    # of F.cosine_similarity, which normalises both inputs first.
    a, b = (features.permute(0, 2, 3, 1).flatten(1) for features in (a, b))
    norms = (torch.linalg.vector_norm(features, dim=1).clamp(min=1e-8) for features in (a, b))
    return (a.unsqueeze(1) @ b.unsqueeze(2)).flatten() / math.prod(norms)


class PDDLoss(nn.Module):
    """``L = kr L_kr + prp L_prp + div L_div`` (PDD, section 3.4), with the weights of the released code by default.

    L_kr = sum_i MSE(f_b^i, s1^i); L_prp = sum_i [a MSE(f_b^i, s2^i) + b (1 - cos(f_b^i, s2^i))];
    L_div = sum_{i low} mean max(0, cos(s1^i, s2^i) - tau_low) - sum_{i high} mean min(0, cos(s1^i, s2^i) - tau_high),
    where "low" is the shallowest level and "high" are the others.

    Args:
        kr: Weight of L_kr.
        prp: Weight of L_prp.
        div: Weight of L_div.
        prp_mse: Factor a of L_prp.
        prp_cosine: Factor b of L_prp. The released code has -0.05, which pushes student 2 away from its target.
        tau_low: Similarity of the students above which the shallowest level is penalised.
        tau_high: Similarity of the students below which the deeper levels are penalised.
        per_pixel: Whether both students are compared with their targets by ``1 - cos`` over the channels at each place,
            as the anomaly map does, in place of both terms above.

    >>> levels = [torch.ones(2, 3, 8, 8), torch.ones(2, 5, 4, 4)]
    >>> total, parts = PDDLoss()(Distillation(targets=levels, students=[levels, levels]))
    >>> round(total.item(), 3), round(parts["div"].item(), 2)
    (0.125, 0.25)
    """

    def __init__(
        self,
        kr: float = 0.02,
        prp: float = 1.0,
        div: float = 0.5,
        prp_mse: float = 0.02,
        prp_cosine: float = 0.05,
        tau_low: float = 0.75,
        tau_high: float = 0.30,
        per_pixel: bool = False,
    ) -> None:
        super().__init__()
        self.per_pixel = per_pixel
        self.kr, self.prp, self.div = kr, prp, div
        self.prp_mse, self.prp_cosine = prp_mse, prp_cosine
        self.tau_low, self.tau_high = tau_low, tau_high

    def forward(self, distillation: Distillation) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the total, with gradient, and its unweighted parts ``kr``, ``prp`` and ``div``, without."""
        targets = [target.float() for target in distillation.targets]
        student1, student2 = ([feature.float() for feature in student] for student in distillation.students)
        if self.per_pixel:
            kr, prp = (
                torch.stack([1 - F.cosine_similarity(s, t).mean() for s, t in zip(student, targets, strict=True)]).sum()
                for student in (student1, student2)
            )
        else:
            kr = torch.stack([F.mse_loss(s, t) for s, t in zip(student1, targets, strict=True)]).sum()
            prp = torch.stack(
                [
                    self.prp_mse * F.mse_loss(s, t) + self.prp_cosine * (1 - flat_cosine(s, t)).mean()
                    for s, t in zip(student2, targets, strict=True)
                ]
            ).sum()
        div = diversity_loss(student1, student2, self.tau_low, self.tau_high)
        total = self.kr * kr + self.prp * prp + self.div * div
        return total, {"kr": kr.detach(), "prp": prp.detach(), "div": div.detach()}


def diversity_loss(student1: list[Tensor], student2: list[Tensor], tau_low: float, tau_high: float) -> Tensor:
    """L_div of PDD: the students should differ in the shallowest level and agree in the deeper ones."""
    similarity = [flat_cosine(a, b) for a, b in zip(student1, student2, strict=True)]
    low = F.relu(similarity[0] - tau_low).mean()
    high = [F.relu(tau_high - level).mean() for level in similarity[1:]]
    return torch.stack([low, *high]).sum()


class RD4ADLoss(nn.Module):
    """``L = sum_l mean(1 - cos(E_l, D_l))`` for teacher E and student D, with the mean over the images of a batch.

    The cosine is that of the flattened features, as in RD4AD's released code; the authors report that the per-pixel
    cosine of the paper works much worse.

    >>> student = [torch.ones(2, 3, 8, 8), torch.ones(2, 5, 4, 4)]
    >>> targets = [student[0], -student[1]]
    >>> {name: round(part.item(), 3) for name, part in RD4ADLoss()(Distillation(targets, [student]))[1].items()}
    {'level1': 0.0, 'level2': 2.0}
    """

    def forward(self, distillation: Distillation) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the total, with gradient, and its parts ``level1``, ``level2``, ..., shallow to deep, without."""
        (student,) = distillation.students
        levels = _distances(distillation.targets, student).mean(0)
        return levels.sum(), {f"level{i}": level for i, level in enumerate(levels.detach(), start=1)}


class SCRD4ADLoss(nn.Module):
    """``L = L1 / L2``: pulls the student to the features of the clean image and away from those with an anomaly added.

    L1 = mean sum_l p_l (1 - cos(E_l(x), D_l(x))) and L2 = mean sum_l p_l (1 - cos(E_l(x~), D_l(x))), with teacher E,
    student D, the clean image x, the same image x~ with an anomaly added, and the level weights p of each image. The
    means run over the batch (SCRD4AD, section 3). With several processes, each takes the ratio over its own images.

    >>> clean, anomalous, student = ([torch.tensor([v]).view(1, 2, 1, 1)] for v in ([1.0, 0], [0, 1.0], [3.0, 4.0]))
    >>> total, parts = SCRD4ADLoss()(Distillation(clean, [student], torch.ones(1, 1), anomalous))
    >>> round(total.item(), 3), round(parts["pull"].item(), 3), round(parts["push"].item(), 3)
    (2.0, 0.4, 0.2)
    """

    def forward(self, distillation: Distillation) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the total, with gradient, and its parts, without.

        The parts are ``pull`` (L1), ``push`` (L2), and ``weight1``, ``weight2``, ..., the mean level weights.

        Raises:
            ValueError: If the distillation lacks level weights or images with an anomaly added.
        """
        if distillation.anomalous is None or distillation.level_weights is None:
            raise ValueError(
                "SCRD4AD's loss needs images with an anomaly added and level weights: add "
                "configs/methods/scrd4ad.json, which has the transforms and the network, to --config_file."
            )
        (student,), weights = distillation.students, distillation.level_weights
        pull = (weights * _distances(distillation.targets, student)).sum(1).mean()
        push = (weights * _distances(distillation.anomalous, student)).sum(1).mean()
        parts = {"pull": pull.detach(), "push": push.detach()}
        parts |= {f"weight{i}": weight for i, weight in enumerate(weights.detach().mean(0), start=1)}
        return pull / push.clamp(min=1e-8), parts


def _distances(targets: list[Tensor], student: list[Tensor]) -> Tensor:
    """Computes 1 - cosine for each image and level: (B, levels), in [0, 2]."""
    return torch.stack(
        [1 - flat_cosine(target.float(), level.float()) for target, level in zip(targets, student, strict=True)], dim=1
    )
