"""Cautions: what a reader must not conclude, each sentence from a fact of the runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from scripts.metrics.curves import detection_curve

from .reading import Evaluation

FEW_GROUPS = 20  # fewer groups of a class make an interval over groups wide and its ends uncertain
_SAME = 1e-6  # metrics that differ by less are equal but for rounding

RESEARCH = "These results are for research. They say nothing about the safety or benefit of clinical use."
ORACLE = (
    "F1max is an oracle: its threshold is chosen with the labels of the test set. A threshold fixed beforehand "
    "reaches it only by luck. Its floor is the F1 of calling every image anomalous."
)
CONFOUNDED = (
    "Image metrics rank slices. Slices near the ends of a scan look different from those in its middle, and lesions "
    "are not spread evenly, so part of the image AUROC may come from the position of a slice, not from its lesion."
)


def cautions(evaluations: Sequence[Evaluation]) -> list[str]:
    """Returns the sentences whose facts hold, in the order of their weight, with the names of the runs concerned."""
    told: list[str] = []
    for check in (_untrained, _inconsistent, _few_groups, _one_scan, _floor):
        told += check(evaluations)
    told += [ORACLE] * any("image_f1max" in one.metrics for one in evaluations)
    told += [CONFOUNDED] * any(one.sliced for one in evaluations)
    for check in (_seeds, _looked_at, _uncalibrated):
        told += check(evaluations)
    return [*told, RESEARCH]


def _named(evaluations: Sequence[Evaluation], holds: Callable[[Evaluation], bool]) -> str | None:
    """Names the runs for which something holds: "all runs", "this run" or their names; None if there is none."""
    names = [f"{one.data}, {one.name}" for one in evaluations if holds(one)]
    if not names:
        return None
    if len(names) == len(evaluations):
        return "all runs" if len(names) > 1 else "this run"
    shown = "; ".join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown


def _untrained(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    names = _named(
        evaluations, lambda one: any(str(teacher["weights"]).startswith("untrained") for teacher in one.teachers)
    )
    if names:
        yield (
            f"Teachers with random weights were used ({names}). Such runs show that the software works, not what the "
            "method can do."
        )


def _inconsistent(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    for one in evaluations:
        labels = one.images["label"].to_numpy()
        written = one.metrics.get("image_auroc", float("nan"))
        if len(np.unique(labels)) < 2 or np.isnan(written):
            continue
        auroc = detection_curve(one.images["score"].to_numpy(), labels).auroc()
        if abs(auroc - written) > _SAME:
            yield (
                f"The files of {one.data}, {one.name} contradict each other: image AUROC {written:.4f} in "
                f"metrics.json, {auroc:.4f} from the table of scores. They may come from two evaluations: "
                "run it again."
            )


def _few_groups(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    for data, sizes in sorted({(one.data, _class_sizes(one)) for one in evaluations}):
        normal, anomalous = sizes
        if min(sizes) >= FEW_GROUPS:
            continue
        end = "its intervals are undefined or mean little" if min(sizes) < 2 else "its intervals are wide and uncertain"
        yield (
            f"{data} was tested on {normal} normal and {anomalous} anomalous patients (groups); with fewer than "
            f"{FEW_GROUPS} of either, {end}."
        )


def _class_sizes(one: Evaluation) -> tuple[int, int]:
    labels = one.groups["label"]
    return int((labels == 0).sum()), int((labels == 1).sum())


def _one_scan(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    for data in sorted({one.data for one in evaluations if one.sliced and len(one.items) == 1}):
        yield f"{data} was tested on a single scan: nothing follows for other patients."


def _floor(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    names = _named(
        evaluations,
        lambda one: one.metrics.get("image_f1max", np.inf) <= one.metrics.get("image_f1max_floor", -np.inf) + _SAME,
    )
    if names:
        yield (
            f"F1max is at its floor ({names}): no threshold is better than calling every image anomalous, however high "
            "the number looks."
        )


def _seeds(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    aurocs: dict[tuple[str, str], list[float]] = {}
    for one in evaluations:
        aurocs.setdefault((one.data, one.method), []).append(one.metrics.get("image_auroc", float("nan")))
    spreads = {key: max(values) - min(values) for key, values in aurocs.items() if len(values) > 1}
    differing = {key: spread for key, spread in spreads.items() if spread > _SAME}
    if differing:
        (data, method), spread = max(differing.items(), key=lambda pair: pair[1])
        yield (
            f"Seeds of one method differ by up to {spread:.3f} in image AUROC ({data}, {method}). A difference between "
            "methods that is not larger may come from the seeds. The best seed is not a result."
        )
    single = _named(evaluations, lambda one: len(aurocs[one.data, one.method]) == 1)
    if single:
        yield (
            f"There is only one seed of {single}. The intervals cover the choice of patients alone; how much another "
            "training would differ is not known."
        )


def _looked_at(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    sets = [one.test_set for one in evaluations]
    repeated = sorted({one.data for one, test_set in zip(evaluations, sets, strict=True) if sets.count(test_set) > 1})
    if repeated:
        yield (
            f"The test set of {', '.join(repeated)} was used more than once. The best of several runs on it is an "
            "optimistic estimate; only images that played no part in any choice can confirm it."
        )


def _uncalibrated(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    names = _named(evaluations, lambda one: not one.summary.get("calibration"))
    if names:
        yield (
            f"There is no calibration of {names}: a score has no meaning by itself, and no rate of false alarms is "
            "promised."
        )
