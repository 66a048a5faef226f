"""Random transforms of cached items: what is drawn depends on seed, epoch and item, and on nothing else."""

from typing import Any

import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, CopyItemsd, RandGaussianNoised, RandShiftIntensityd, ScaleIntensityRanged
from torch import Tensor

from scripts.data.augmented import AugmentedDataset
from scripts.transforms import RandFractalNoised

ITEMS = 6


def noise() -> Compose:
    """Two transforms that draw, behind a copy: the clean image is kept."""
    return Compose(
        [
            CopyItemsd("image", names="anomalous"),
            RandShiftIntensityd("anomalous", offsets=1.0, prob=0.5),
            RandGaussianNoised("anomalous", prob=1.0),
        ]
    )


def dataset(seed: int = 0, augmentation: Compose | None = None, cache_num: int = ITEMS) -> AugmentedDataset:
    """Images of the values 0, 0.1, ..., 0.5, (1, 4, 4) each."""
    items = [{"image": torch.full((1, 4, 4), float(number))} for number in range(ITEMS)]
    transform = Compose([ScaleIntensityRanged("image", 0, 10, 0, 1)])
    return AugmentedDataset(
        items, transform, cache_num=cache_num, progress=False, augmentation=augmentation or noise(), seed=seed
    )


def drawn(data: AugmentedDataset, epoch: int, order: Any = range(ITEMS)) -> Tensor:
    """(items, 1, 4, 4) in the order of the data set, asked for in ``order``."""
    data.set_epoch(epoch)
    found = {index: torch.as_tensor(data[index]["anomalous"]) for index in order}
    return torch.stack([found[index] for index in range(ITEMS)])


def test_workers_batches_and_order_draw_the_same() -> None:
    expected = drawn(dataset(seed=3), epoch=2)
    for workers, batch_size in ((0, 1), (0, 4), (2, 1), (2, 4)):
        data = dataset(seed=3)
        data.set_epoch(2)
        loader = DataLoader(data, batch_size=batch_size, num_workers=workers)
        assert torch.equal(torch.cat([torch.as_tensor(batch["anomalous"]) for batch in loader]), expected)
    assert torch.equal(drawn(dataset(seed=3), 2, order=reversed(range(ITEMS))), expected)
    assert torch.equal(drawn(dataset(seed=3), 2, order=[4, 4, 0, 1, 2, 3, 0, 5, 1]), expected)


def test_workers_see_each_new_epoch() -> None:
    data = dataset()
    loader = DataLoader(data, batch_size=ITEMS, num_workers=2)
    for epoch in (1, 2):
        expected = drawn(dataset(), epoch)
        data.set_epoch(epoch)
        (batch,) = loader
        assert torch.equal(torch.as_tensor(batch["anomalous"]), expected)


def test_every_seed_epoch_and_item_draws_its_own() -> None:
    noises = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1)):  # (0, 1) and (1, 0) must not meet in a sum
        data = dataset(seed)
        clean = torch.stack([torch.as_tensor(data[index]["image"]) for index in range(ITEMS)])
        noises += list(drawn(data, epoch) - clean)
    distances = torch.cdist(torch.stack(noises).flatten(1), torch.stack(noises).flatten(1))
    assert distances[~torch.eye(len(noises), dtype=torch.bool)].min() > 1e-3


def test_an_epoch_repeats_after_another_and_in_a_new_process_of_training() -> None:
    data = dataset(seed=1)
    first, second = drawn(data, 1), drawn(data, 2)
    assert torch.equal(drawn(data, 1), first)
    assert torch.equal(drawn(dataset(seed=1), 2), second)


def test_without_an_epoch_the_items_are_the_same_each_time() -> None:
    data = dataset()
    first, again = ([torch.as_tensor(data[i]["anomalous"]).clone() for i in range(ITEMS)] for _ in range(2))
    assert torch.equal(torch.stack(first), torch.stack(again))


@pytest.mark.parametrize("cache_num", [0, ITEMS])
def test_what_is_drawn_does_not_depend_on_the_cache(cache_num: int) -> None:
    assert torch.equal(drawn(dataset(cache_num=cache_num), 1), drawn(dataset(cache_num=3), 1))


def test_without_an_augmentation_items_pass_as_they_are() -> None:
    items = [{"image": torch.rand(1, 4, 4)} for _ in range(2)]
    data = AugmentedDataset(items, Compose([]), progress=False)
    data.set_epoch(5)
    for index, item in enumerate(items):
        assert data[index].keys() == {"image"}
        assert torch.equal(data[index]["image"], item["image"])


@pytest.mark.parametrize("cache_num", [0, ITEMS])
def test_the_image_itself_may_be_changed(cache_num: int) -> None:
    augmentation = Compose([RandShiftIntensityd("image", offsets=1.0, prob=1.0)])
    data = dataset(augmentation=augmentation, cache_num=cache_num)
    shifts = []
    for epoch in (1, 2, 1):
        data.set_epoch(epoch)
        shifts.append(torch.stack([torch.as_tensor(data[i]["image"]).mean() - i / 10 for i in range(ITEMS)]))
    assert torch.equal(shifts[0], shifts[2])
    assert (shifts[0] - shifts[1]).abs().min() > 1e-3


@pytest.mark.parametrize("cache_num", [0, ITEMS])
def test_the_clean_image_is_never_changed(cache_num: int) -> None:
    """By the transforms of configs/methods/scrd4ad.json."""
    augmentation = Compose([CopyItemsd("image", names="anomalous"), RandFractalNoised("anomalous", prob=1.0)])
    items = [{"image": torch.rand(3, 64, 64) * 0.5 + 0.25} for _ in range(ITEMS)]
    before = [item["image"].clone() for item in items]
    data = AugmentedDataset(items, Compose([]), cache_num=cache_num, progress=False, augmentation=augmentation)
    changed = 0
    for epoch in range(3):
        data.set_epoch(epoch)
        for index, image in enumerate(before):
            item = data[index]
            assert torch.equal(torch.as_tensor(item["image"]), image)
            changed += not torch.equal(torch.as_tensor(item["anomalous"]), image)
    assert changed == 3 * ITEMS
