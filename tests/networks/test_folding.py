"""Folding normalisations away: fewer operations, the same numbers."""

import pytest
import torch
from torch import nn

from scripts.networks import PDD, RD4AD, SCRD4AD, Detector, Teacher


def teacher(name: str = "test_resnet", levels: tuple[int, ...] | None = (1, 2, 3)) -> Teacher:
    return Teacher(name, "untrained", levels=levels)


DETECTORS = {
    "pdd": lambda: PDD(teacher(levels=None), teacher("vmamba_pico", levels=None)),
    "pdd, one student": lambda: PDD(teacher(levels=None), teacher("vmamba_pico", levels=None), share_students=True),
    "rd4ad": lambda: RD4AD(teacher(), 1, 1, "basic"),
    "rd4ad, bottleneck": lambda: RD4AD(teacher(), [2, 1, 1], 2),
    "scrd4ad": lambda: SCRD4AD(teacher(), 1, 1, "basic"),
}


def with_statistics(detector: Detector) -> Detector:
    """In float64, with batch statistics as if it had been trained."""
    g = torch.Generator().manual_seed(0)
    for module in detector.distiller.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.2, 0.2),
            ):
                assert tensor is not None
                tensor.uniform_(low, high, generator=g)
    return detector.double().eval()


@pytest.mark.parametrize("name", DETECTORS)
def test_the_map_stays_the_same(name: str) -> None:
    detector = with_statistics(DETECTORS[name]())
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = detector(image)
        found = detector.fold()(image)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DETECTORS)
def test_bfloat16_weights_give_what_autocast_makes_of_the_others(name: str) -> None:
    image, detector = torch.rand(2, 3, 64, 64), with_statistics(DETECTORS[name]()).float()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = detector.fold()(image)
        found = detector.fold(amp=True)(image)
    assert torch.equal(found, expected)
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    weights = [module.weight.dtype for module in detector.modules() if isinstance(module, kinds)]
    assert weights
    assert set(weights) == {torch.bfloat16}


@pytest.mark.parametrize("name", DETECTORS)
def test_no_normalisation_behind_a_convolution_is_left(name: str) -> None:
    detector = DETECTORS[name]().fold()
    assert not [module for module in detector.distiller.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not detector.training
