"""How far a ranking by synthetic anomalies is that of the test split."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from bundle.benchmark.suite import Cell
from scripts.files import replacing
from scripts.metrics.intervals import draws, percentiles

SELECTED, TESTED = "select.json", "poolings.json"  # of a cell: its ranking, and the AUROC on its test split
REPLICATES = 1000
# Groups of rows within which ranks are compared: all of a seed, its methods at one pooling, its poolings of one method.
_WITHIN = {"all": ["seed"], "methods": ["seed", "pooling"], "poolings": ["seed", "method"]}


def write_agreement(cells: Sequence[tuple[Cell, Path]], path: Path) -> list[str]:
    """Writes the agreement of each data set as JSON, with the table that it rests on.

    Args:
        cells: Cells, each with its folder, which holds ``SELECTED`` and ``TESTED``.
        path: File to write; without a cell it is not.

    Returns:
        A line for each data set.
    """
    if not cells:
        return []
    table = pd.concat([_rows(cell, folder) for cell, folder in cells], ignore_index=True)
    found = {str(data): agreement(some) for data, some in table.groupby("data", sort=False) if _on_the_same(some)}
    content = {"data": found, "table": table.to_dict("records")}
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
    apart = [data for data in table["data"].unique() if data not in found]
    return [_line(data, one) for data, one in found.items()] + [
        f"{data}: the ranking is not compared, as its methods have held back different slices (slices#...)."
        for data in apart
    ]


def agreement(table: pd.DataFrame) -> dict[str, Any]:
    """Agreement on one data set.

    Args:
        table: A row for each ``method``, ``seed`` and ``pooling``, with its AUROC of ``synthetic`` anomalies and of the
            ``test`` split.

    Returns:
        ``rho``: Spearman's rho within a seed, over ``all`` rows, over the ``methods`` at one pooling, and over the
        ``poolings`` of one method. Each is averaged, and has the ends ``low`` and ``high`` of its interval (95 %), in
        which methods are drawn anew. ``test``: AUROC on the test split of the row ``chosen`` by synthetic anomalies, of
        the ``best`` row, and the ``mean`` of all, averaged over seeds. None stands for what is not defined.
    """
    codes, methods = pd.factorize(table["method"], sort=True)
    groups = {kind: _groups(table.assign(method=codes), within) for kind, within in _WITHIN.items()}
    counts = draws(len(methods), REPLICATES, seed=0) if len(methods) > 2 else np.empty((0, len(methods)), int)
    once = np.ones(len(methods), int)
    rho = {
        kind: {"value": _known(_rho(some, once)), **_interval([_rho(some, drawn) for drawn in counts])}
        for kind, some in groups.items()
    }
    seeds = [of_seed for _, of_seed in table.groupby("seed")]
    chosen = [float(of_seed["test"].iloc[int(of_seed["synthetic"].argmax())]) for of_seed in seeds]
    return {
        "methods": len(methods),
        "seeds": len(seeds),
        "rho": rho,
        "test": {
            "chosen": float(np.mean(chosen)),
            "best": float(np.mean([of_seed["test"].max() for of_seed in seeds])),
            "mean": float(np.mean([of_seed["test"].mean() for of_seed in seeds])),
        },
    }


def _rows(cell: Cell, folder: Path) -> pd.DataFrame:
    selected, tested = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (SELECTED, TESTED))
    ranking = [(row["pooling"], row["mean"], tested[row["pooling"]]) for row in selected["ranking"]]
    table = pd.DataFrame(ranking, columns=["pooling", "synthetic", "test"])
    of_cell = {"data": cell.data, "method": cell.method, "seed": cell.seed, "normals": selected["normals_sha256"]}
    return table.assign(**of_cell)


def _on_the_same(table: pd.DataFrame) -> bool:
    """Whether all methods of a seed were ranked on the same normals."""
    return bool((table.groupby("seed")["normals"].nunique() == 1).all())


class _Group(NamedTuple):
    """Rows whose ranks are compared: numbers of their methods, and both AUROCs."""

    method: NDArray[np.int_]
    synthetic: NDArray[np.float64]
    test: NDArray[np.float64]


def _groups(table: pd.DataFrame, within: Sequence[str]) -> list[_Group]:
    parts = (some for _, some in table.groupby(list(within)))
    return [_Group(*(some[name].to_numpy() for name in _Group._fields)) for some in parts]


def _rho(groups: Sequence[_Group], counts: NDArray[np.int_]) -> float:
    """Mean of Spearman's rho over the groups in which both AUROCs vary; NaN where there is none.

    Args:
        groups: Groups of rows.
        counts: How often each method counts. One that was drawn twice stands for two of equal AUROC.
    """
    values, weights = [], []
    for group in groups:
        rows = np.repeat(np.arange(len(group.method)), counts[group.method])
        synthetic, test = group.synthetic[rows], group.test[rows]
        if len(rows) and np.ptp(synthetic) > 0 and np.ptp(test) > 0:
            values.append(np.corrcoef(rankdata(synthetic), rankdata(test))[0, 1])
            of_one = len(set(group.method.tolist())) == 1  # a method's own poolings
            weights.append(counts[group.method[0]] if of_one else 1)
    return float(np.average(values, weights=weights)) if values else np.nan


def _interval(values: Sequence[float]) -> dict[str, float | None]:
    defined = [value for value in values if not np.isnan(value)]
    low, high = percentiles(defined, 0.95) if defined else (None, None)
    return {"low": low, "high": high}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _line(data: str, found: dict[str, Any]) -> str:
    def shown(kind: str) -> str:
        value, low, high = (found["rho"][kind][name] for name in ("value", "low", "high"))
        if value is None:
            return "undefined"
        return f"{value:.2f}" if low is None else f"{value:.2f} ({low:.2f} to {high:.2f})"

    of_test = ", ".join(f"{name} {value:.3f}" for name, value in found["test"].items())
    return (
        f"{data}: synthetic anomalies rank {found['methods']} methods and their poolings as the test does by rho "
        f"{shown('all')}; methods alone {shown('methods')}, poolings alone {shown('poolings')}. Test AUROC: {of_test}."
    )
