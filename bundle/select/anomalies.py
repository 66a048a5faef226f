"""Kinds of synthetic anomalies, drawn into the body of normal slices."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scripts.transforms.synthesis import RandCutPasted, RandFractalNoised, RandLesiond
from scripts.transforms.synthesis.base import RandSynthesisd

_SIZE = 256  # side of the images that the sizes of the anomalies are meant for


def kinds(size: int) -> dict[str, RandSynthesisd]:
    """Random anomalies by kind, which cover the same part of images of any side ``size``."""
    unit = size / _SIZE
    side = (max(1, round(10 * unit)), max(1, round(31 * unit)))
    return {
        "lesion": RandLesiond("image", radius=(max(1.0, 5 * unit), max(1.0, 16 * unit))),
        "cut_paste": RandCutPasted("image", side=side),
        "noise": RandFractalNoised("image", side=side, wavelength=32 * unit),
    }


def altered(image: Tensor, body: NDArray[np.bool_], seed: tuple[int, int]) -> dict[str, Tensor]:
    """Draws an anomaly of each kind into an image (C, H, W): altered copies by kind.

    An anomaly is centred in the body, changes nothing beyond it, and leaves the range of the intensities, [0, 1] or
    that of an image which exceeds it.

    Args:
        image: Input of the network, a square.
        body: Where anomalies may be, (H, W).
        seed: Seed of the run, and number of the image.

    Returns:
        Copies, none at all where an anomaly has no room.

    >>> copies = altered(torch.full((3, 32, 32), 0.5), np.ones((32, 32), bool), (0, 0))
    >>> list(copies), all((copy != 0.5).any() for copy in copies.values())
    (['lesion', 'cut_paste', 'noise'], True)
    """
    inside = torch.from_numpy(body).to(image.device)
    low, high = min(0.0, float(image.min())), max(1.0, float(image.max()))
    copies = {}
    for number, (kind, transform) in enumerate(kinds(image.shape[-1]).items()):
        (word,) = np.random.SeedSequence([*seed, number]).generate_state(1)
        transform.set_random_state(seed=int(word))
        drawn = transform.draw(body)
        if drawn is None:
            return {}
        copies[kind] = torch.where(inside, drawn({"image": image})["image"].clamp(low, high), image)
    return copies
