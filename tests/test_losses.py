"""Losses against closed forms on made-up features."""

import pytest
import torch
from torch import Tensor

from scripts.losses import PDDLoss, diversity_loss, flat_cosine
from scripts.networks.detector import Distillation

X = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
Y = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
DIAGONAL = (X + Y) / 2**0.5  # cosine 1/sqrt(2) with either


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        ((X, X), (X, X), 1 - 0.75),  # alike everywhere: only the shallow level is too similar
        ((X, Y), (X, X), 0.0),  # differ in detail, agree in meaning: as wanted
        ((X, Y), (X, Y), 0.30),  # differ in meaning: cosine 0 below tau_high
        ((X, X), (X, -X), 0.25 + 1.30),  # opposite in meaning
        ((X, DIAGONAL), (X, DIAGONAL), 0.0),  # 0.707 is below tau_low and above tau_high
    ],
)
def test_diversity_takes_its_closed_form(
    low: tuple[Tensor, Tensor], high: tuple[Tensor, Tensor], expected: float
) -> None:
    value = diversity_loss([low[0], high[0]], [low[1], high[1]], tau_low=0.75, tau_high=0.30)
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_diversity_sums_levels_and_averages_images() -> None:
    first, second = torch.cat([X, X]), torch.cat([X, Y])  # cosines 1 and 0
    value = diversity_loss([first, first, first], [second, second, second], tau_low=0.75, tau_high=0.30)
    assert value.item() == pytest.approx(0.25 / 2 + 0.30 / 2 + 0.30 / 2, abs=1e-6)


def test_cosine_is_of_the_flattened_features() -> None:
    a, b = torch.rand(3, 4, 5, 6), torch.rand(3, 4, 5, 6)
    expected = [(p * q).sum() / (p.norm() * q.norm()) for p, q in zip(a, b, strict=True)]
    torch.testing.assert_close(flat_cosine(a, b), torch.stack(expected))


def test_parts_and_total_follow_the_paper() -> None:
    target, s1, s2 = 2 * X, X, Y
    total, parts = PDDLoss()(Distillation([target, target], [[s1, s1], [s2, s2]]))
    kr = 2 * 0.5  # per level the mean of (1, 0)
    prp = 2 * (0.02 * 2.5 + 0.05 * 1)  # the mean of (4, 1), and cosine 0
    div = 0 + 0.30
    assert parts["kr"].item() == pytest.approx(kr)
    assert parts["prp"].item() == pytest.approx(prp)
    assert parts["div"].item() == pytest.approx(div)
    assert total.item() == pytest.approx(0.02 * kr + prp + 0.5 * div)


def test_every_weight_and_threshold_counts() -> None:
    distillation = Distillation([2 * X, 2 * X], [[X, X], [DIAGONAL, Y]])
    base = PDDLoss()(distillation)[0]
    for name in ("kr", "prp", "div", "prp_mse", "prp_cosine"):
        assert PDDLoss(**{name: 2.0})(distillation)[0] > base
    assert PDDLoss(tau_low=0.5)(distillation)[0] > base
    assert PDDLoss(tau_high=0.9)(distillation)[0] > base


def test_a_negative_cosine_weight_is_the_released_sign() -> None:
    """+0.05 cos and -0.05 (1 - cos) have the same gradient: student 2 is pushed away from its target."""
    student = DIAGONAL.clone().requires_grad_()
    PDDLoss(kr=0, div=0, prp_mse=0, prp_cosine=-0.05)(Distillation([X], [[X], [student]]))[0].backward()
    released = DIAGONAL.clone().requires_grad_()
    (0.05 * flat_cosine(X, released)).mean().backward()
    torch.testing.assert_close(student.grad, released.grad)


def test_bfloat16_features_are_compared_in_float32() -> None:
    half = [torch.rand(1, 2, 3, 3).bfloat16()]
    total, _ = PDDLoss()(Distillation(half, [half, half]))
    assert total.dtype == torch.float32
