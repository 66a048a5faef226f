"""Patches of an image at another place of it."""

from __future__ import annotations

import numpy as np
import torch
from monai.config import KeysCollection
from numpy.typing import NDArray
from torch import Tensor

from scripts.transforms.synthesis.base import RandSynthesisd, Synthesisd, check_range
from scripts.transforms.synthesis.boxes import Box, draw_corner, draw_sides, part


class CutPasted(Synthesisd):
    """Pastes what ``box`` holds elsewhere: first mirrored, then turned, then brighter or darker. Nothing is clipped.

    Args:
        keys: images (C, H, W).
        box: what is copied: top, left, height and width in pixels.
        corner: top and left of where it is pasted.
        flip: whether left and right change places.
        quarter_turns: counterclockwise; an odd number of them swaps height and width.
        brightness: the factor of the intensities.
        foreground_only: whether only what is above 0 in any channel is altered.
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
    """``CutPasted`` from a uniform position to another.

    With ``foreground_only`` the patch is cut from a place centred in the foreground as well.

    Args:
        keys: images (C, H, W), of one size within an item.
        prob: of an item to be altered.
        side: of the patch, from and to in pixels, both included; height and width are drawn separately, uniformly, and
            no longer than the image's shorter side.
        brightness: the factor of the intensities, uniform from and to.
        flip: whether every other patch is mirrored.
        rotate: whether patches are turned by 0, 90, 180 or 270 degrees, each as often.
        foreground_only: see ``RandSynthesisd``.
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
        """
        Raises:
            ValueError: if ``side`` or ``brightness`` is not two ascending values, of at least 1 and 0.
        """
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
