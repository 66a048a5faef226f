"""Assigns images and scans to training, validation and test by group, so that no patient is on both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from bundle.prepare.layouts import Sample

_PRIORITY = ("test", "validation", "training")  # which split keeps a group that is in several


def merge_groups(samples: Sequence[Sample], digests: Sequence[str]) -> list[Sample]:
    """Merges the groups of images with equal digests, so that duplicates and all their group mates stay together."""
    if not samples:
        return []
    groups, names = pd.factorize(np.array([sample.group for sample in samples], dtype=object))
    contents, distinct = pd.factorize(np.array(digests, dtype=object))
    nodes = len(names) + len(distinct)
    edges = coo_matrix((np.ones(len(groups)), (groups, len(names) + contents)), shape=(nodes, nodes))
    component = connected_components(edges, directed=False)[1][groups]
    merged: dict[int, str] = {}
    for sample, number in zip(samples, component, strict=True):
        merged.setdefault(number, sample.group)
    return [replace(sample, group=merged[number]) for sample, number in zip(samples, component, strict=True)]


def deal_training(
    samples: Sequence[Sample], count: int | None, fraction: float, seed: int, abnormal: Collection[str] = ()
) -> list[Sample]:
    """Assigns normals to training and the rest to test; a group with an anomaly goes to test as a whole.

    Args:
        samples: Images or scans without a split.
        count: Number of normals to train on; None takes ``fraction`` of all normals, rounded down.
        fraction: Fraction of the normals in 0..1; ignored if ``count`` is given.
        seed: Seed of the draw, which does not depend on the order of ``samples``.
        abnormal: Groups with anomalies to train on as well.

    Raises:
        ValueError: If there are fewer normals than asked for.
    """
    dealt = [sample for sample in samples if sample.group not in abnormal]
    normals = sum(sample.label == 0 for sample in dealt)
    wanted = _part(normals, fraction) if count is None else count
    anomalous = {sample.group for sample in dealt if sample.label == 1}
    free = [sample for sample in dealt if sample.group not in anomalous]
    if wanted > len(free):
        raise ValueError(f"Only {len(free)} normals are free to train on, {wanted} were asked for: ask for fewer.")
    training = _draw(free, wanted, seed) | set(abnormal)
    return [replace(sample, split="training" if sample.group in training else "test") for sample in samples]


def deal_by_name(
    samples: Sequence[Sample], tested: Collection[str], abnormal: Collection[str] = ()
) -> tuple[list[Sample], list[Sample]]:
    """Assigns the groups in ``tested`` to test, and those in ``abnormal`` and all without anomaly to training.

    Returns:
        The samples with their splits, and the samples in neither split.
    """
    anomalous = {sample.group for sample in samples if sample.label == 1}
    unused = anomalous - set(tested) - set(abnormal)
    return (
        [
            replace(sample, split="test" if sample.group in tested else "training")
            for sample in samples
            if sample.group not in unused
        ],
        [sample for sample in samples if sample.group in unused],
    )


def draw_abnormal(samples: Sequence[Sample], wanted: int | float, seed: int) -> list[str]:
    """Draws groups to train on among those with anomalies that all have masks.

    Args:
        samples: Scans that may be trained on.
        wanted: Number of groups (int), or the fraction of such groups in 0..1, rounded down (float).
        seed: Seed of the draw, which does not depend on the order of ``samples``.

    Raises:
        ValueError: If there are fewer than asked for.
    """
    anomalous = {sample.group for sample in samples if sample.label == 1}
    free = sorted(anomalous - {sample.group for sample in samples if sample.label == 1 and sample.mask is None})
    count = _part(len(free), wanted) if isinstance(wanted, float) else wanted
    if count > len(free):
        raise ValueError(
            f"Only {len(free)} patients with anomalies, all masked, are free to train on, {count} were asked for: ask "
            "for fewer."
        )
    return [str(group) for group in np.random.default_rng(seed).permutation(free)[:count]]


def hold_out_validation(samples: Sequence[Sample], fraction: float, seed: int) -> list[Sample]:
    """Moves a fraction (0..1, rounded down) of the training images to validation, by random whole groups."""
    training = [sample for sample in samples if sample.split == "training"]
    held_out = _draw(training, _part(len(training), fraction), seed)
    return [
        replace(sample, split="validation") if sample.split == "training" and sample.group in held_out else sample
        for sample in samples
    ]


def drop_crossing(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Drops samples of groups that are in several splits, so that only test keeps them, or else validation.

    Returns:
        The samples kept and those dropped, both in order.
    """
    owner = {sample.group: split for split in reversed(_PRIORITY) for sample in samples if sample.split == split}
    kept = [sample for sample in samples if sample.split == owner[sample.group]]
    return kept, [sample for sample in samples if sample.split != owner[sample.group]]


def _part(total: int, fraction: float) -> int:
    return int(total * fraction + 1e-9)


def _draw(samples: Sequence[Sample], count: int, seed: int) -> set[str]:
    """Draws whole groups until they hold ``count`` images; skips a group that would exceed it."""
    sizes = Counter(sample.group for sample in samples)
    drawn = set()
    for name in np.random.default_rng(seed).permutation(sorted(sizes)):
        if sizes[name] <= count:
            drawn.add(str(name))
            count -= sizes[name]
    return drawn
