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
        augmentation: random; adds keys and leaves those there are, whose features are cached; None adds nothing.
        seed: of the run.

    Raises:
        ValueError: when an item is asked for, if ``augmentation`` changes what is there.
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
        augmented = self.augmentation(item)
        if changed := [key for key in item if augmented.get(key) is not item[key]]:
            raise ValueError(
                f"The augmentation changes {', '.join(map(str, changed))}, of which the teachers' features are cached: "
                "let it copy that (CopyItemsd) and change the copy."
            )
        return augmented
