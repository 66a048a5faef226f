"""Measures cases in turns, so that other work on the machine affects them all alike."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

logger = logging.getLogger(__name__)

Call = Callable[[], float]  # does the work once and returns the seconds it took


@dataclass(frozen=True)
class Case:
    """Case to measure.

    Attributes:
        name: Name, unique in its group.
        unit: Unit that is counted, in the plural.
        count: Units that one call does.
        prepare: Function that builds the call, outside the time measured.
        facts: JSON values to keep with the figures.
    """

    name: str
    unit: str
    count: float
    prepare: Callable[[], Call]
    facts: Mapping[str, Any] = field(default_factory=dict)


def timed(
    work: Callable[[], Any], device: torch.device | None = None, clock: Callable[[], float] = time.perf_counter
) -> Call:
    """Wraps ``work`` in a call that times it, from an idle device to an idle device."""

    def call() -> float:
        _wait_for(device)
        started = clock()
        work()
        _wait_for(device)
        return clock() - started

    return call


def take(cases: Sequence[Case], rounds: int, bar: tqdm) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Calls every case once to warm up, then once in each of ``rounds`` rounds.

    A case that raises is skipped from then on, and does not stop the others.

    Args:
        cases: Cases, which are all in memory at once.
        rounds: Number of rounds that count, at least 1.
        bar: Progress bar, updated at each call including the warm-up.

    Returns:
        Figures of each case that succeeded (see ``figures``), and errors of the others by name.
    """
    calls: dict[str, Call] = {}
    seconds: dict[str, list[float]] = {case.name: [] for case in cases}
    failed: dict[str, str] = {}
    for turn in range(rounds + 1):
        for case in cases:
            if case.name in failed:
                bar.update()
                continue
            bar.set_postfix_str(case.name)
            try:
                if turn == 0:
                    calls[case.name] = case.prepare()
                    calls[case.name]()
                else:
                    seconds[case.name].append(calls[case.name]())
            except Exception as error:  # any error: the other figures are still worth having
                logger.debug("%s", case.name, exc_info=True)
                failed[case.name] = f"{type(error).__name__}: {error}"
            bar.update()
    return [figures(case, seconds[case.name]) for case in cases if case.name not in failed], failed


def figures(case: Case, seconds: Sequence[float]) -> dict[str, Any]:
    """Figures of a case, as JSON values.

    Args:
        case: Case that was measured.
        seconds: Seconds of its calls, round by round.
    """
    return {
        "name": case.name,
        "unit": case.unit,
        "count": case.count,
        "seconds": list(seconds),
        "per_second": spread(case.count / np.asarray(seconds)),
        **case.facts,
    }


def spread(values: np.ndarray) -> dict[str, float]:
    """Median, minimum and quartiles of values (n,)."""
    lower, median, upper = np.percentile(values, [25, 50, 75])
    numbers = {"median": median, "minimum": values.min(), "lower_quartile": lower, "upper_quartile": upper}
    return {name: float(value) for name, value in numbers.items()}


def _wait_for(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
