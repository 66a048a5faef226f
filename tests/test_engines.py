"""The inferer takes volumes apart into slices and puts their maps together again."""

from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from scripts.engines import MixedPrecisionInferer


class Counting:
    """Maps images (B, 3, H, W) to their red, and counts what it is given."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        assert type(images) is Tensor
        self.batches.append(len(images))
        return images[:, :1] * 2


class Derived(MixedPrecisionInferer):
    pass


@pytest.mark.parametrize("kind", [MixedPrecisionInferer, Derived])
@pytest.mark.parametrize(("at_once", "batches"), [(4, [4, 4, 2]), (100, [10]), (1, [1] * 10)])
def test_volumes_go_through_the_network_slice_by_slice(kind: Any, at_once: int, batches: list[int]) -> None:
    volumes, network = MetaTensor(torch.rand(2, 3, 6, 7, 5)), Counting()
    maps = kind(slices_at_once=at_once)(volumes, network)
    assert network.batches == batches
    torch.testing.assert_close(maps, volumes.as_tensor()[:, :1] * 2)


def test_images_go_as_they_are() -> None:
    images, network = torch.rand(9, 3, 6, 7), Counting()
    torch.testing.assert_close(MixedPrecisionInferer(slices_at_once=2)(images, network), images[:, :1] * 2)
    assert network.batches == [9]


@pytest.mark.parametrize(("amp", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 3, 8, 8, 2)])
def test_mixed_precision_is_bfloat16(amp: bool, expected: torch.dtype, shape: tuple[int, ...]) -> None:
    network = torch.nn.Conv2d(3, 1, 1)
    assert MixedPrecisionInferer(amp)(torch.rand(shape), network).dtype == expected
