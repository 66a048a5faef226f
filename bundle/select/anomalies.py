"""Kinds of synthetic anomalies, drawn into the body of normal slices."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scripts.transforms.synthesis import RandCutPasted, RandFractalNoised, RandLesiond
from scripts.transforms.synthesis.base import RandSynthesisd

_SIDE = 256  # of the images that the sizes of the transforms are meant for


class Anomalies:
    """Draws an anomaly of each kind into an image.

    An anomaly is centred in the body, changes nothing beyond it, and leaves the range of the intensities, [0, 1] or
    that of an image which exceeds it.

    Args:
        seed: Seed of the run.
        size: Factor on the size of the anomalies, which is otherwise the same part of images of any side.

    >>> image, body = torch.full((3, 32, 32), 0.5), np.ones((32, 32), bool)
    >>> {kind: bool((copy != image).any()) for kind, copy in Anomalies()(image, body, (0,)).items()}
    {'lesion': True, 'cut_paste': True, 'noise': True}
    """

    def __init__(self, seed: int = 0, size: float = 1.0) -> None:
        self.seed, self.size = seed, size

    def __call__(self, image: Tensor, body: NDArray[np.bool_], number: tuple[int, ...]) -> dict[str, Tensor]:
        """Altered copies by kind; none at all where an anomaly has no room.

        Args:
            image: Input of the network (C, H, W), a square.
            body: Where anomalies may be, (H, W).
            number: Which draw this is, the same for all models.
        """
        inside = torch.from_numpy(body).to(image.device)
        low, high = min(0.0, float(image.min())), max(1.0, float(image.max()))
        copies = {}
        for place, (kind, transform) in enumerate(self.kinds(image.shape[-1]).items()):
            (word,) = np.random.SeedSequence([self.seed, *number, place]).generate_state(1)
            transform.set_random_state(seed=int(word))
            drawn = transform.draw(body)
            if drawn is None:
                return {}
            copies[kind] = torch.where(inside, drawn({"image": image})["image"].clamp(low, high), image)
        return copies

    def kinds(self, side: int) -> dict[str, RandSynthesisd]:
        """Random transforms by kind, for images of a side in pixels."""
        unit = self.size * side / _SIDE
        sides = (max(1, round(10 * unit)), max(1, round(31 * unit)))
        return {
            "lesion": RandLesiond("image", radius=(max(1.0, 5 * unit), max(1.0, 16 * unit))),
            "cut_paste": RandCutPasted("image", side=sides),
            "noise": RandFractalNoised("image", side=sides, wavelength=32 * unit),
        }
