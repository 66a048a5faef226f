"""Metrics of several scalars each, for Ignite engines."""

from __future__ import annotations

from collections.abc import Callable

from ignite.engine import Engine
from ignite.metrics import Metric


class ScalarMetrics(Metric):
    """Base of metrics whose `compute` returns several scalars by name.

    Each is a scalar of its own in `engine.state.metrics`, so any of them can be the key metric of an evaluator.

    Args:
        output_transform: Function from the engine's output to what `update` takes.
    """

    def __init__(self, output_transform: Callable = lambda x: x) -> None:
        # Unrolled by ignite, Python floats would be rounded to float32.
        super().__init__(output_transform, skip_unrolling=True)

    def completed(self, engine: Engine, name: str) -> None:
        """Writes the scalars, and no nested dict, to `engine.state.metrics`; `name` is not used."""
        engine.state.metrics.update(self.compute())
