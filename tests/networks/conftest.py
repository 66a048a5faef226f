"""What golden values are made with."""

import math
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest

Hashed = Callable[[str, Sequence[int]], np.ndarray]


@pytest.fixture(scope="session")
def hashed() -> Hashed:
    """``hashed(key, shape)``: float64 numbers in [-1, 1) that follow from key and shape alone."""

    def make(key: str, shape: Sequence[int]) -> np.ndarray:
        index = np.arange(math.prod(shape), dtype=np.uint64)
        t = ((index * np.uint64(2654435761) + np.uint64(zlib.crc32(key.encode()))) % np.uint64(2**32)) / 2.0**32
        t = np.abs(np.fmod(np.sin(t * 1298.98 + 0.5) * 43758.5453, 1.0))
        return (2 * t - 1).reshape(shape)

    return make
