"""The least that a selective scan has to do, counted, and how long this machine needs for that."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import timm

from scripts.networks.selective_scan import DIRECTIONS
from scripts.networks.vmamba import SS2D

_BYTES = 4  # float32, in which the scan computes whatever its input is
_FIRST_STRIDE = 4  # of VMamba's patches


class Layer(NamedTuple):
    """A scan's shape: an image of height x width tokens, channels D and states N."""

    height: int
    width: int
    channels: int
    states: int


@dataclass(frozen=True)
class Work:
    """What a scan has to do at the least.

    Attributes:
        updates: of a state: one a token, direction, channel and state.
        exponentials: one an update, ``e = exp(delta a)``.
        multiplications: ``delta a`` and ``b (delta x)`` of an update; ``delta x`` of a token, direction and channel.
        multiply_adds: ``h = e h + b delta x`` and ``y += c h`` of an update; ``y += d x`` of a token and channel.
        softpluses: one a token, direction and channel, of which the network makes the step sizes: not part of the scan
            itself, but of a kernel that takes them over.
        bytes_in: ``x``, ``delta``, ``b`` and ``c``, each read once.
        bytes_out: ``y``, written once.
    """

    updates: int
    exponentials: int
    multiplications: int
    multiply_adds: int
    softpluses: int
    bytes_in: int
    bytes_out: int

    def __add__(self, other: Work) -> Work:
        return Work(*(one + another for one, another in zip(astuple(self), astuple(other), strict=True)))


class Rates(NamedTuple):
    """What the machine does a second, with the threads that the scan has.

    Attributes:
        exponentials: float32, in a core's cache.
        multiply_adds: float32, in registers.
        bytes: read or written in main memory.
    """

    exponentials: float
    multiply_adds: float
    bytes: float


def scan_layers(name: str, image_size: int) -> list[Layer]:
    """The scans of a VMamba of timm's registry, block by block, for an image of ``image_size`` x ``image_size``."""
    model: Any = timm.create_model(name)
    found = []
    for stage, layer in enumerate(model.layers):
        side = image_size // (_FIRST_STRIDE * 2**stage)
        scans = [module for module in layer.modules() if isinstance(module, SS2D)]
        found += [Layer(side, side, scan.out_norm.normalized_shape[0], scan.states) for scan in scans]
    return found


def work(layer: Layer) -> Work:
    """Counts what the scan of one image has to do, all four directions together."""
    tokens = layer.height * layer.width
    steps = tokens * DIRECTIONS * layer.channels
    updates = steps * layer.states
    per_token_in = layer.channels * (1 + DIRECTIONS) + 2 * DIRECTIONS * layer.states
    return Work(
        updates=updates,
        exponentials=updates,
        multiplications=2 * updates + steps,
        multiply_adds=2 * updates + tokens * layer.channels,
        softpluses=steps,
        bytes_in=_BYTES * tokens * per_token_in,
        bytes_out=_BYTES * tokens * layer.channels,
    )


def total(layers: list[Layer]) -> Work:
    """Counts what all scans of one image have to do."""
    return sum((work(layer) for layer in layers), Work(*[0] * 7))


def floor_seconds(work: Work, rates: Rates) -> float:
    """The least time for the work: arithmetic, or memory where that takes longer.

    Exponentials and multiply-adds go through the same units of a core, one after the other; a multiplication takes one
    as long as a multiply-add does. Arithmetic and memory may overlap.
    """
    arithmetic = (work.multiplications + work.multiply_adds) / rates.multiply_adds
    arithmetic += work.exponentials / rates.exponentials
    return max(arithmetic, (work.bytes_in + work.bytes_out) / rates.bytes)
