"""What is asked of all measurements alike."""

import os
from pathlib import Path
from typing import NamedTuple

import torch

from bundle.benchmark.speed.methods import METHODS, Method

BATCHES = (1, 8)


class Settings(NamedTuple):
    """How to measure.

    Attributes:
        device: that computes.
        image_size: pixels of a side.
        threads: of every process.
        rounds: that count.
        quick: small networks, to see whether it runs.
        folder: for made-up data; the caller removes it.
    """

    device: torch.device
    image_size: int
    threads: int
    rounds: int
    quick: bool
    folder: Path

    @property
    def in_processes(self) -> list[str]:
        """The methods that are measured in processes of their own, which take seconds to start."""
        return ["PDD"] if self.quick else list(METHODS)

    def method(self, name: str) -> Method:
        """Builds a method anew."""
        return Method(name, str(self.device), self.image_size, self.quick)


def named(what: str, batch_size: int, precision: str = "") -> str:
    """Gives a case's name."""
    return ", ".join(part for part in (what, f"batch {batch_size}", precision) if part)


def images_a_call(batch_size: int) -> int:
    """Images of an epoch that is timed: two batches at least, and a few images."""
    return max(2 * batch_size, 8)


def environment(threads: int, **more: str) -> dict[str, str]:
    """The environment of a process that is to use so many threads and not to warn."""
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return {**os.environ, **counts, "PYTHONWARNINGS": "ignore", **more}
