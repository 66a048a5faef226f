"""Losses against closed forms on made-up features."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine
from torch import Tensor

from scripts.losses import PDDLoss, RD4ADLoss, SCRD4ADLoss, diversity_loss, flat_cosine
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


def made_up(seed: int) -> list[Tensor]:
    """Features of three images on two levels."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 4, 6, 6, generator=generator), torch.randn(3, 8, 3, 3, generator=generator)]


def distances(targets: list[Tensor], student: list[Tensor]) -> np.ndarray:
    """SciPy's cosine distance of each image and level, in float64: (B, levels)."""
    pairs = [
        (a.double().flatten(1).numpy(), b.double().flatten(1).numpy()) for a, b in zip(targets, student, strict=True)
    ]
    return np.array([[cosine(*images) for images in zip(*pair, strict=True)] for pair in pairs]).T


@pytest.mark.parametrize(
    ("student", "expected"), [(X, 0.0), (3 * X, 0.0), (Y, 1.0), (-X, 2.0), (DIAGONAL, 1 - 0.5**0.5)]
)
def test_rd4ad_takes_its_closed_form_on_each_level(student: Tensor, expected: float) -> None:
    total, parts = RD4ADLoss()(Distillation([X, X, X], [[X, student, Y]]))
    assert [(name, value.item()) for name, value in parts.items()] == [
        ("level1", pytest.approx(0, abs=1e-6)),
        ("level2", pytest.approx(expected, abs=1e-6)),
        ("level3", pytest.approx(1, abs=1e-6)),
    ]
    assert total.item() == pytest.approx(1 + expected, abs=1e-6)


def test_rd4ad_sums_the_levels_and_averages_the_images() -> None:
    targets, student = made_up(0), made_up(1)
    total, parts = RD4ADLoss()(Distillation(targets, [student]))
    expected = distances(targets, student).mean(0)
    assert [value.item() for value in parts.values()] == pytest.approx(list(expected), abs=1e-6)
    assert total.item() == pytest.approx(expected.sum(), abs=1e-6)


def weighted(
    weights: list[list[float]], student: list[Tensor], target: list[Tensor], odd: list[Tensor]
) -> Distillation:
    return Distillation(target, [student], level_weights=torch.tensor(weights), anomalous=odd)


def test_scrd4ad_is_the_ratio_of_pull_and_push() -> None:
    weights = [[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]
    targets, student, odd = made_up(0), made_up(1), made_up(2)
    total, parts = SCRD4ADLoss()(weighted(weights, student, targets, odd))
    pull = (np.array(weights) * distances(targets, student)).sum(1).mean()
    push = (np.array(weights) * distances(odd, student)).sum(1).mean()
    assert list(parts) == ["pull", "push", "weight1", "weight2"]
    assert [value.item() for value in parts.values()] == pytest.approx([pull, push, 1.6 / 3, 1.4 / 3], abs=1e-6)
    assert total.item() == pytest.approx(pull / push, abs=1e-6)  # of the means, not the mean of ratios


def test_scrd4ad_weighs_levels_above_and_below_the_line() -> None:
    """By level, the student differs from the clean image by 1 and 0, and from the anomalous one by 1 and 2."""
    for weight in (0.0, 0.25, 1.0):
        one = weighted([[weight, 1 - weight]], student=[Y, X], target=[X, X], odd=[X, -X])
        total, parts = SCRD4ADLoss()(one)
        assert parts["pull"].item() == pytest.approx(weight, abs=1e-6)
        assert parts["push"].item() == pytest.approx(weight + 2 * (1 - weight), abs=1e-6)
        assert total.item() == pytest.approx(weight / (2 - weight), abs=1e-6)


def test_scrd4ad_is_finite_where_the_student_gives_the_anomalous_features() -> None:
    total, parts = SCRD4ADLoss()(weighted([[0.5, 0.5]], student=[X, X], target=[X, X], odd=[X, X]))
    assert parts["push"].item() == pytest.approx(0, abs=1e-6)
    assert total.isfinite()


def test_scrd4ad_trains_student_and_weights_by_its_total_alone() -> None:
    student = [level.requires_grad_() for level in made_up(1)]
    weights = torch.full((3, 2), 0.5, requires_grad=True)
    total, parts = SCRD4ADLoss()(Distillation(made_up(0), [student], level_weights=weights, anomalous=made_up(2)))
    assert not any(part.requires_grad for part in parts.values())
    total.backward()
    pull, push = (distances(made_up(seed), made_up(1)) for seed in (0, 2))
    # d(L1 / L2) / dp = (d1 L2 - d2 L1) / L2^2 / B, by the quotient rule
    l1, l2 = pull.sum(1).mean() / 2, push.sum(1).mean() / 2
    np.testing.assert_allclose(weights.grad.numpy(), (pull * l2 - push * l1) / l2**2 / 3, atol=1e-6)
    assert all(level.grad.abs().max() > 0 for level in student)


@pytest.mark.parametrize("missing", ["anomalous", "level_weights"])
def test_scrd4ad_without_anomalous_images_or_weights_names_the_overlay(missing: str) -> None:
    whole = weighted([[0.5, 0.5]], student=[X, X], target=[X, X], odd=[Y, Y])
    with pytest.raises(ValueError, match="anomaly added and level weights.*configs/methods/scrd4ad.json"):
        SCRD4ADLoss()(whole._replace(**{missing: None}))


def test_cosine_distances_of_bfloat16_features_are_taken_in_float32() -> None:
    targets, student, odd = ([level.bfloat16() for level in made_up(seed)] for seed in range(3))
    total, _ = RD4ADLoss()(Distillation(targets, [student]))
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(distances(targets, student).mean(0).sum(), abs=1e-6)
    ratio, _ = SCRD4ADLoss()(weighted([[0.5, 0.5]] * 3, student, targets, odd))
    assert ratio.dtype == torch.float32
    expected = distances(targets, student).sum() / distances(odd, student).sum()
    assert ratio.item() == pytest.approx(expected, abs=1e-6)


def test_pdds_loss_by_place_is_what_the_map_measures() -> None:
    torch.manual_seed(0)
    targets, first, second = ([torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)] for _ in range(3))
    total, parts = PDDLoss(kr=2.0, prp=3.0, div=0.5, per_pixel=True)(Distillation(targets, [first, second]))
    expected = [
        sum(1 - (t * s).sum(1).div(t.norm(dim=1) * s.norm(dim=1)).mean() for t, s in zip(targets, student, strict=True))
        for student in (first, second)
    ]
    torch.testing.assert_close(parts["kr"], torch.as_tensor(expected[0]))
    torch.testing.assert_close(parts["prp"], torch.as_tensor(expected[1]))
    torch.testing.assert_close(total, 2 * parts["kr"] + 3 * parts["prp"] + 0.5 * parts["div"])
    scaled = [[level * 7 for level in student] for student in (first, second)]
    torch.testing.assert_close(PDDLoss(per_pixel=True, div=0)(Distillation(targets, scaled))[1]["kr"], parts["kr"])
