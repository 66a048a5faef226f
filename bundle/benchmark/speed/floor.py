"""Counts the least work of a selective scan, and the time that this machine needs for it."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import timm

from scripts.networks.selective_scan import DIRECTIONS
from scripts.networks.vmamba import SS2D

_BYTES = 4  # float32, in which the scan computes for any input
_FIRST_STRIDE = 4  # patch size of VMamba


class Layer(NamedTuple):
    """Shape of a scan: height x width tokens, channels D, states N, and rank R of the step sizes."""

    height: int
    width: int
    channels: int
    states: int
    rank: int


@dataclass(frozen=True)
class Work:
    """Least work of a scan.

    Attributes:
        updates: Number of state updates: one for each token, direction, channel and state.
        exponentials: Number of exponentials: ``exp(delta a)`` for each update; two for each step size, whose softplus
            costs one and a logarithm.
        multiply_adds: Number of multiply-adds: ``delta a``, ``b (delta x)``, ``h = e h + b delta x`` and ``y += c h``
            for each update; the projection from ``rank`` numbers, and ``delta x``, for each step size; ``y += d x`` for
            each token and channel.
        bytes_in: Bytes of ``x`` and its projection, each read once.
        bytes_out: Bytes of ``y``, written once.
    """

    updates: int
    exponentials: int
    multiply_adds: int
    bytes_in: int
    bytes_out: int

    def __add__(self, other: Work) -> Work:
        return Work(*(one + another for one, another in zip(astuple(self), astuple(other), strict=True)))


class Rates(NamedTuple):
    """Operations per second of the machine, with the threads that the scan has.

    Attributes:
        exponentials: Exponentials per second, in float32 within a core's cache.
        multiply_adds: Multiply-adds per second, in float32 within registers.
        bytes: Bytes per second, read from or written to main memory.
    """

    exponentials: float
    multiply_adds: float
    bytes: float


def scan_layers(name: str, image_size: int) -> list[Layer]:
    """Scans of a VMamba in timm's registry, block by block, for an image of ``image_size`` x ``image_size`` pixels."""
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
    """Work of one scan of one image, in all four directions."""
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
    """Work of all scans of one image."""
    return sum((work(layer) for layer in layers), Work(*[0] * 5))


def floor_seconds(work: Work, rates: Rates) -> float:
    """Least time for the work in seconds: that of arithmetic, or of memory if longer.

    Exponentials and multiply-adds share the units of a core, one after the other; a multiplication takes as long as a
    multiply-add. Arithmetic and memory access may overlap.
    """
    arithmetic = work.multiply_adds / rates.multiply_adds + work.exponentials / rates.exponentials
    return max(arithmetic, (work.bytes_in + work.bytes_out) / rates.bytes)
