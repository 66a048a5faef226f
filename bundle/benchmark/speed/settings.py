"""Settings that all measurements share."""

import os
from pathlib import Path
from typing import NamedTuple

import torch

from bundle.benchmark.speed.methods import METHODS, Method

BATCHES = (1, 8)


class Settings(NamedTuple):
    """Settings of a run.

    Attributes:
        device: Device that computes.
        image_size: Side of the images in pixels.
        threads: Threads of every process.
        rounds: Rounds that count.
        quick: Whether to use small networks, to see whether it runs.
        folder: Folder for made-up data, removed by the caller.
    """

    device: torch.device
    image_size: int
    threads: int
    rounds: int
    quick: bool
    folder: Path

    @property
    def in_processes(self) -> list[str]:
        """Names of the methods to measure in processes of their own, which take seconds to start."""
        return ["PDD"] if self.quick else list(METHODS)

    def method(self, name: str) -> Method:
        """Builds a new instance of a method."""
        return Method(name, str(self.device), self.image_size, self.quick)


def named(what: str, batch_size: int, precision: str = "") -> str:
    """Name of a case."""
    return ", ".join(part for part in (what, f"batch {batch_size}", precision) if part)


def images_a_call(batch_size: int) -> int:
    """Number of images in a timed epoch: at least two batches, and at least 8 images."""
    return max(2 * batch_size, 8)


def environment(threads: int, **more: str) -> dict[str, str]:
    """Environment of a process that uses so many threads and prints no warnings."""
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return {**os.environ, **counts, "PYTHONWARNINGS": "ignore", **more}
