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
    """A scan's shape: an image of height x width tokens, channels D, states N and rank R of the step sizes."""

    height: int
    width: int
    channels: int
    states: int
    rank: int


@dataclass(frozen=True)
class Work:
    """What a scan has to do at the least.

    Attributes:
        updates: of a state: one a token, direction, channel and state.
        exponentials: ``exp(delta a)`` of an update; two of a step size, whose softplus is one and a logarithm.
        multiply_adds: of an update ``delta a``, ``b (delta x)``, ``h = e h + b delta x`` and ``y += c h``; of a step
            size its projection from ``rank`` numbers, and ``delta x``; ``y += d x`` of a token and channel.
        bytes_in: ``x`` and its projection, each read once.
        bytes_out: ``y``, written once.
    """

    updates: int
    exponentials: int
    multiply_adds: int
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
        found += [
            Layer(side, side, scan.out_norm.normalized_shape[0], scan.A_logs.shape[1], scan.dt_projs_weight.shape[2])
            for scan in scans
        ]
    return found


def work(layer: Layer) -> Work:
    """Counts what the scan of one image has to do, all four directions together."""
    tokens = layer.height * layer.width
    steps = tokens * DIRECTIONS * layer.channels
    updates = steps * layer.states
    per_token_in = layer.channels + DIRECTIONS * (layer.rank + 2 * layer.states)
    return Work(
        updates=updates,
        exponentials=updates + 2 * steps,
        multiply_adds=4 * updates + (layer.rank + 1) * steps + tokens * layer.channels,
        bytes_in=_BYTES * tokens * per_token_in,
        bytes_out=_BYTES * tokens * layer.channels,
    )


def total(layers: list[Layer]) -> Work:
    """Counts what all scans of one image have to do."""
    return sum((work(layer) for layer in layers), Work(*[0] * 5))


def floor_seconds(work: Work, rates: Rates) -> float:
    """The least time for the work: arithmetic, or memory where that takes longer.

    Exponentials and multiply-adds go through the same units of a core, one after the other; a multiplication takes one
    as long as a multiply-add does. Arithmetic and memory may overlap.
    """
    arithmetic = work.multiply_adds / rates.multiply_adds + work.exponentials / rates.exponentials
    return max(arithmetic, (work.bytes_in + work.bytes_out) / rates.bytes)
