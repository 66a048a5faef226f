"""Takes measurements in turns, so that whatever else the machine does falls on all of them alike."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

logger = logging.getLogger(__name__)

Call = Callable[[], float]  # does the work once, and gives the seconds that it took


@dataclass(frozen=True)
class Case:
    """One thing that is measured.

    Attributes:
        name: no other of its group has it.
        unit: what is counted, in the plural.
        count: how many of them a call does.
        prepare: builds what the call needs, outside the time that counts.
        facts: JSON values that belong to the figures.
    """

    name: str
    unit: str
    count: float
    prepare: Callable[[], Call]
    facts: Mapping[str, Any] = field(default_factory=dict)


def timed(
    work: Callable[[], Any], device: torch.device | None = None, clock: Callable[[], float] = time.perf_counter
) -> Call:
    """Gives the call that times ``work`` from where the device is idle to where it is idle again."""

    def call() -> float:
        _wait_for(device)
        started = clock()
        work()
        _wait_for(device)
        return clock() - started

    return call


def take(cases: Sequence[Case], rounds: int, bar: tqdm) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Calls every case once to warm up, then ``rounds`` times, one after the other in each round.

    A case that raises is left out from there on, and does not stop the others.

    Args:
        cases: all are held in memory at once.
        rounds: at least 1.
        bar: is updated once a call, warm-up included.

    Returns:
        The figures of each case that went through (see ``figures``), and of the others name to error.
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
            except Exception as error:  # whatever it is, the other figures are worth having
                logger.debug("%s", case.name, exc_info=True)
                failed[case.name] = f"{type(error).__name__}: {error}"
            bar.update()
    return [figures(case, seconds[case.name]) for case in cases if case.name not in failed], failed


def figures(case: Case, seconds: Sequence[float]) -> dict[str, Any]:
    """Gives what is kept of a case, as JSON values.

    Args:
        case: whose.
        seconds: of its calls, round by round.
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
    """The median, the smallest and the quartiles of values (n,)."""
    lower, median, upper = np.percentile(values, [25, 50, 75])
    numbers = {"median": median, "minimum": values.min(), "lower_quartile": lower, "upper_quartile": upper}
    return {name: float(value) for name, value in numbers.items()}


def _wait_for(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
