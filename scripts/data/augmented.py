"""Reproducible random transforms, seeded by run, epoch and image."""

from typing import Any

import numpy as np
from monai.data import CacheDataset
from monai.transforms import Compose


class AugmentedDataset(CacheDataset):
    """Applies a random transform to the cached items of a data set.

    The draws for an item depend only on the seed, the epoch and the index of the item, not on workers, processes or
    batches. So a resumed training draws the same as an uninterrupted one.

    Args:
        others: Positional arguments of ``CacheDataset``; ``transform`` must be deterministic.
        augmentation: Random transform; None leaves the items as they are. Where it alters the images, their features
            are new in each epoch and not worth caching (set ``feature_cache_gib`` to 0); where it only adds keys, the
            features of the images are cached as before.
        seed: Seed of the run.
        more: Keyword arguments of ``CacheDataset``.

    >>> from monai.transforms import RandShiftIntensityd
    >>> noise = Compose(RandShiftIntensityd("image", offsets=1.0, prob=1.0))
    >>> items = [{"image": np.zeros((1, 2, 2))}]
    >>> dataset = AugmentedDataset(items, Compose([]), augmentation=noise, seed=1, progress=False)
    >>> first, again = dataset[0]["image"], dataset[0]["image"]
    >>> dataset.set_epoch(2)
    >>> bool((first == again).all()), bool((first == dataset[0]["image"]).any())
    (True, False)
    """

    def __init__(self, *others: Any, augmentation: Compose | None = None, seed: int = 0, **more: Any) -> None:
        super().__init__(*others, **more)
        self.augmentation, self.seed, self.epoch = augmentation, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch for the draws; without a call items are the same each time, as validation needs them."""
        self.epoch = epoch

    def _transform(self, index: int) -> Any:
        item = super()._transform(index)
        if self.augmentation is None:
            return item
        (word,) = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)
        self.augmentation.set_random_state(seed=int(word))
        return self.augmentation(item)
