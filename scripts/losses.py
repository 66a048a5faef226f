"""Losses: ``loss(distillation) -> (total, {name: part})``."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.networks.detector import Distillation


def flat_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of the flattened features of each image: (B, C, H, W) twice -> (B,)."""
    # In the order in which channels-last features lie in memory, so that flattening copies nothing; and by products of
    # vectors, half as long as by F.cosine_similarity, which normalises both first.
    a, b = (features.permute(0, 2, 3, 1).flatten(1) for features in (a, b))
    norms = (torch.linalg.vector_norm(features, dim=1).clamp(min=1e-8) for features in (a, b))
    return (a.unsqueeze(1) @ b.unsqueeze(2)).flatten() / math.prod(norms)


class PDDLoss(nn.Module):
    """``L = kr L_kr + prp L_prp + div L_div`` (PDD section 3.4); the defaults are the released code's weights.

    L_kr = sum_i MSE(f_b^i, s1^i); L_prp = sum_i [a MSE(f_b^i, s2^i) + b (1 - cos(f_b^i, s2^i))];
    L_div = sum_{i low} mean max(0, cos(s1^i, s2^i) - tau_low) - sum_{i high} mean min(0, cos(s1^i, s2^i) - tau_high),
    where "low" is the shallowest level and "high" the others.

    Args:
        kr, prp, div: weights of the three parts.
        prp_mse, prp_cosine: a and b. The released code pushes student 2 away from its target: ``prp_cosine`` -0.05.
        tau_low: similarity of the students above which the shallowest level is penalised.
        tau_high: similarity below which the deeper levels are penalised.
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
    ) -> None:
        super().__init__()
        self.kr, self.prp, self.div = kr, prp, div
        self.prp_mse, self.prp_cosine = prp_mse, prp_cosine
        self.tau_low, self.tau_high = tau_low, tau_high

    def forward(self, distillation: Distillation) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, with gradient, and its unweighted parts ``kr``, ``prp`` and ``div``, without."""
        targets = [target.float() for target in distillation.targets]
        student1, student2 = ([feature.float() for feature in student] for student in distillation.students)
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
    """L_div of PDD for features shallow to deep: students may differ in detail but must agree in meaning."""
    similarity = [flat_cosine(a, b) for a, b in zip(student1, student2, strict=True)]
    low = F.relu(similarity[0] - tau_low).mean()
    high = [F.relu(tau_high - level).mean() for level in similarity[1:]]
    return torch.stack([low, *high]).sum()


class RD4ADLoss(nn.Module):
    """``L = sum_l mean(1 - cos(E_l, D_l))`` of teacher E and student D, the mean over the images of a batch.

    The cosine is of the flattened features, as RD4AD's released code has it; the per-pixel form of its text is much
    worse, as its authors say.
    """

    def forward(self, distillation: Distillation) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, with gradient, and its parts ``level1``, ``level2``, ..., shallow to deep, without."""
        (student,) = distillation.students
        levels = _distances(distillation.targets, student).mean(0)
        return levels.sum(), {f"level{i}": level for i, level in enumerate(levels.detach(), start=1)}


class SCRD4ADLoss(nn.Module):
    """``L = L1 / L2``: pulls the student to the teacher of the clean image, and pushes it from that of the anomalous.

    L1 = mean sum_l p_l (1 - cos(E_l(x), D_l(x))), L2 = mean sum_l p_l (1 - cos(E_l(x~), D_l(x))), with teacher E,
    student D of the clean image x, the same image x~ with an anomaly added, and the level weights p of each
    image; means over the batch (SCRD4AD, section 3). Of several processes each takes the ratio of its own images.
    """

    def forward(self, distillation: Distillation) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, with gradient, and without: ``pull`` (L1), ``push`` (L2), and the mean ``weight1``, ... of levels.

        Raises:
            ValueError: if the images came without anomalous ones.
        """
        if distillation.anomalous is None or distillation.level_weights is None:
            raise ValueError(
                "SCRD4AD's loss needs images with an anomaly added and level weights: name "
                "configs/methods/scrd4ad.json in --config_file, which has the transforms and the network."
            )
        (student,), weights = distillation.students, distillation.level_weights
        pull = (weights * _distances(distillation.targets, student)).sum(1).mean()
        push = (weights * _distances(distillation.anomalous, student)).sum(1).mean()
        parts = {"pull": pull.detach(), "push": push.detach()}
        parts |= {f"weight{i}": weight for i, weight in enumerate(weights.detach().mean(0), start=1)}
        return pull / push.clamp(min=1e-8), parts


def _distances(targets: list[Tensor], student: list[Tensor]) -> Tensor:
    """1 - cosine of each image and level: (B, levels), in [0, 2]."""
    return torch.stack(
        [1 - flat_cosine(target.float(), level.float()) for target, level in zip(targets, student, strict=True)], dim=1
    )
