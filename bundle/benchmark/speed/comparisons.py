"""Compares the figures: ratios of cases that took turns, and the values hoped for."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bundle.benchmark.speed.exports import RUNTIMES
from bundle.benchmark.speed.measuring import spread
from bundle.benchmark.speed.methods import PRECISIONS
from bundle.benchmark.speed.networks import PLAIN
from bundle.benchmark.speed.scan import EAGER, NO_COMPILER
from bundle.benchmark.speed.settings import BATCHES, named

_PEAK_GIB = 8.0  # most memory wanted for PDD's training
_FLOOR_SHARE = 0.75
HOW = (
    "median over the rounds of the ratio of units per second, as both cases took turns; of several cases on a side, "
    "the one with the fastest median counts."
)

_TRAINING = {("fp32", "first"): 3.0, ("fp32", "cached"): 5.0, ("bf16", "first"): 1.3, ("bf16", "cached"): 2.0}
_INFERENCE = {1: 3.0, 8: 5.0}


class Ratio(NamedTuple):
    """Ratio of the rate of one case to that of another.

    Attributes:
        text: Description of the ratio.
        group: Group of the cases.
        of: Names of cases, the fastest of which is the numerator.
        to: Names of cases, the fastest of which is the denominator.
        wanted: Value that the ratio should reach; None for information only.
    """

    text: str
    group: str
    of: Sequence[str]
    to: Sequence[str]
    wanted: float | None = None


def ratios() -> list[Ratio]:
    """All ratios to compute."""
    largest = BATCHES[-1]
    found = [
        Ratio(
            "scan without a compiler over the eager one",
            "scan",
            [named(f"scan, {name}", largest, "fp32") for name in NO_COMPILER if name != EAGER],
            [named(f"scan, {EAGER}", largest, "fp32")],
            wanted=3.0,
        ),
        Ratio(
            f"vmamba_tiny_v0 in bf16 over plain {PLAIN} in fp32",
            "teachers",
            [named("vmamba_tiny_v0", largest, "bf16")],
            [named(f"plain timm {PLAIN}", largest, "fp32")],
            wanted=1.5,
        ),
    ]
    for precision in PRECISIONS:
        cached, first = (named(f"PDD {epoch} epoch", largest, precision) for epoch in ("cached", "first"))
        found.append(Ratio(f"PDD, cached epoch over first, {precision}", "training", [cached], [first], wanted=4.0))
    for batch_size in BATCHES:
        for precision in PRECISIONS:  # anomalib's precision; ours is the faster of both
            how = f"batch {batch_size}, {precision}"
            theirs = [named("anomalib ReverseDistillation training", batch_size, precision)]
            for epoch in ("first", "cached"):
                text = f"training RD4AD, {epoch} epoch, over anomalib's, {how}"
                wanted = _TRAINING[precision, epoch] if batch_size == largest else None
                found.append(Ratio(text, "training", _best(f"RD4AD {epoch} epoch", batch_size), theirs, wanted))
            for model in ("ReverseDistillation", "PatchCore"):
                text = f"RD4AD inference over anomalib's {model}, {how}"
                wanted = _INFERENCE[batch_size] if (model, precision) == ("ReverseDistillation", "fp32") else None
                theirs = [named(f"anomalib {model} inference", batch_size, precision)]
                found.append(Ratio(text, "inference", _best("RD4AD inference", batch_size), theirs, wanted))
    for precision in PRECISIONS:
        ours, theirs = (
            [named(f"{whose}, {runtime}", 1, precision) for runtime in RUNTIMES]
            for whose in ("RD4AD", "anomalib ReverseDistillation")
        )
        text = f"RD4AD's best export over anomalib's, batch 1, {precision}"
        found.append(Ratio(text, "exports", ours, theirs, wanted=1.2))
    return found


def _best(name: str, batch_size: int) -> list[str]:
    return [named(name, batch_size, precision) for precision in PRECISIONS]


def compare(groups: dict[str, list[dict[str, Any]]], floor: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Computes each comparison whose cases were measured.

    Args:
        groups: Figures by name of their group.
        floor: Floor of the scans, see ``scan.floor``.

    Returns:
        A JSON object for each comparison: ``text``, ``value``, ``unit``, ``wanted`` and ``met`` (None if nothing is
        wanted or it cannot be decided); for ratios also the cases ``of`` and ``to`` and the ``spread`` over the rounds.
    """
    found = [value for ratio in ratios() if (value := _compared(ratio, groups.get(ratio.group, []))) is not None]
    if floor is not None:
        found.append(_share(floor))
    training = named("PDD training", BATCHES[-1], "fp32")
    for figure in groups.get("memory", []):
        if figure["name"] == training:
            gib = figure["bytes"] / 2**30
            found.append(
                {
                    "text": f"peak memory, {training}",
                    "value": gib,
                    "unit": "GiB",
                    "wanted": _PEAK_GIB,
                    "met": gib <= _PEAK_GIB,
                }
            )
    return found


def _compared(ratio: Ratio, figures: list[dict[str, Any]]) -> dict[str, Any] | None:
    of, to = _fastest(figures, ratio.of), _fastest(figures, ratio.to)
    if of is None or to is None:
        return None
    by_round = (of["count"] / np.array(of["seconds"])) / (to["count"] / np.array(to["seconds"]))
    numbers = spread(by_round)
    value = numbers["median"]
    return {
        "text": ratio.text,
        "value": value,
        "unit": "x",
        "wanted": ratio.wanted,
        "met": None if ratio.wanted is None else value >= ratio.wanted,
        "of": of["name"],
        "to": to["name"],
        "spread": numbers,
    }


def _share(floor: dict[str, Any]) -> dict[str, Any]:
    name, share = max(floor["shares"].items(), key=lambda item: item[1])
    bound = (
        floor["rates_of"] == "native"
    )  # rates of torch's kernels are no bound: code with a cheaper exponential exceeds them
    return {
        "text": f"fastest scan as a share of its floor, at the rates of {floor['rates_of']} code",
        "of": name,
        "value": 100 * share,
        "unit": "%",
        "wanted": 100 * _FLOOR_SHARE,
        "met": share >= _FLOOR_SHARE if bound else None,
    }


def _fastest(figures: list[dict[str, Any]], names: Sequence[str]) -> dict[str, Any] | None:
    return max(
        (figure for figure in figures if figure["name"] in names),
        key=lambda figure: figure["per_second"]["median"],
        default=None,
    )
