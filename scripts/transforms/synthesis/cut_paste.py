"""Anomalies made of a patch of the image, pasted at another place."""

from __future__ import annotations

import numpy as np
import torch
from monai.config import KeysCollection
from numpy.typing import NDArray
from torch import Tensor

from scripts.transforms.synthesis.base import RandSynthesisd, Synthesisd, check_range
from scripts.transforms.synthesis.boxes import Box, draw_corner, draw_sides, part


class CutPasted(Synthesisd):
    """Copies a patch to another place, where it may be mirrored, then turned, then brightened or darkened.

    Nothing is clipped.

    Args:
        keys: Keys of images (C, H, W).
        box: Top, left, height and width of the patch, in pixels.
        corner: Top and left of the place for the copy, in pixels.
        flip: Whether left and right are swapped.
        quarter_turns: Number of counterclockwise quarter turns; an odd number swaps height and width.
        brightness: Factor on the intensities.
        foreground_only: Whether to alter the foreground only, which is above 0 in any channel.
        allow_missing_keys: Whether keys may be missing.

    >>> image = torch.tensor([[[0.1, 0.2, 0.0, 0.0]]])
    >>> CutPasted("image", box=(0, 0, 1, 2), corner=(0, 2), flip=True, brightness=2)({"image": image})["image"]
    tensor([[[0.1000, 0.2000, 0.4000, 0.2000]]])
    """

    def __init__(
        self,
        keys: KeysCollection,
        box: Box,
        corner: tuple[int, int],
        flip: bool = False,
        quarter_turns: int = 0,
        brightness: float = 1.0,
        foreground_only: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, foreground_only, allow_missing_keys)
        self.box, self.corner, self.flip = box, corner, flip
        self.quarter_turns, self.brightness = quarter_turns, brightness

    def altered(self, image: Tensor) -> Tensor:
        patch = part(image, self.box)
        if self.flip:
            patch = patch.flip(-1)
        patch = torch.rot90(patch, self.quarter_turns, (-2, -1))
        image = image.clone()
        height, width = patch.shape[1:]
        part(image, (*self.corner, height, width)).copy_(patch * self.brightness)
        return image


class RandCutPasted(RandSynthesisd):
    """``CutPasted`` between two random places, both drawn uniformly.

    Args:
        keys: Keys of images (C, H, W), of the same size within an item.
        prob: Probability that an item is altered, in [0, 1].
        side: Shortest and longest side of the patch, in pixels. Height and width are drawn separately and uniformly,
            and cut to the shorter side of the image.
        brightness: Lowest and highest factor on the intensities, drawn uniformly.
        flip: Whether patches are mirrored, each with probability 1/2.
        rotate: Whether patches are turned by 0, 90, 180 or 270 degrees, with equal probability.
        foreground_only: Whether patch and copy are centred in the foreground, and only the foreground is altered; see
            ``RandSynthesisd``.
        allow_missing_keys: Whether keys may be missing.

    Raises:
        ValueError: If ``side`` or ``brightness`` does not ascend, or is below 1 or 0 respectively.

    >>> image = torch.rand(1, 32, 32)
    >>> transform = RandCutPasted("image", side=(4, 8), brightness=(2.0, 2.0)).set_random_state(seed=0)
    >>> changed = (transform({"image": image})["image"] != image).sum().item()
    >>> 16 <= changed <= 64
    True
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 1.0,
        side: tuple[int, int] = (10, 31),
        brightness: tuple[float, float] = (0.8, 1.2),
        flip: bool = True,
        rotate: bool = True,
        foreground_only: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, foreground_only, allow_missing_keys)
        check_range("side", side, low=1)
        check_range("brightness", brightness, low=0)
        self.side, self.brightness, self.flip, self.rotate = side, brightness, flip, rotate

    def draw(self, foreground: NDArray[np.bool_]) -> CutPasted | None:
        shorter = min(foreground.shape)
        sides = draw_sides(self.R, self.side, (shorter, shorter))
        flip = self.flip and bool(self.R.randint(2))
        quarter_turns = int(self.R.randint(4)) if self.rotate else 0
        brightness = float(self.R.uniform(*self.brightness))
        source = draw_corner(self.R, foreground, sides)
        turned = sides[::-1] if quarter_turns % 2 else sides
        corner = draw_corner(self.R, foreground, turned, other_than=source)
        if source is None or corner is None:
            return None
        return CutPasted(
            self.keys,
            (*source, *sides),
            corner,
            flip,
            quarter_turns,
            brightness,
            self.foreground_only,
            self.allow_missing_keys,
        )
