"""Random transforms that give the same result whoever asks: seeded by run, epoch and image."""

from typing import Any

import numpy as np
from monai.data import CacheDataset
from monai.transforms import Compose


class AugmentedDataset(CacheDataset):
    """Applies a random transform to the cached items of a data set.

    What is drawn for an item depends on the seed, the epoch and the item alone: not on workers, processes or batches,
    and a resumed training draws as the unbroken one.

    Args:
        others: as of ``CacheDataset``; ``transform`` is deterministic.
        augmentation: random; None changes nothing. The features of images that it changes are new in each epoch, so not
            worth keeping (``feature_cache_gib`` 0); one that adds keys leaves the images' features cached.
        seed: of the run.
    """

    def __init__(self, *others: Any, augmentation: Compose | None = None, seed: int = 0, **more: Any) -> None:
        super().__init__(*others, **more)
        self.augmentation, self.seed, self.epoch = augmentation, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch the items are asked for; without it they are the same each time, as validation wants."""
        self.epoch = epoch

    def _transform(self, index: int) -> Any:
        item = super()._transform(index)
        if self.augmentation is None:
            return item
        (word,) = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)
        self.augmentation.set_random_state(seed=int(word))
        return self.augmentation(item)
