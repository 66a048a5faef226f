"""Agreement of a ranking by synthetic anomalies with the test split, by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from bundle.benchmark.agreement import agreement, write_agreement
from bundle.benchmark.suite import Cell

# Synthetic and test AUROC of two poolings, by method.
ALIKE = {"A": [(0.9, 0.8), (0.8, 0.7)], "B": [(0.7, 0.6), (0.6, 0.5)], "C": [(0.5, 0.4), (0.4, 0.3)]}


def table(methods: dict[str, list[tuple[float, float]]], seed: int = 0) -> pd.DataFrame:
    rows = [
        {"method": method, "seed": seed, "pooling": pooling, "synthetic": synthetic, "test": test}
        for method, values in methods.items()
        for pooling, (synthetic, test) in zip(("max", "mean"), values, strict=True)
    ]
    return pd.DataFrame(rows)


def test_equal_orders_agree_in_each_draw() -> None:
    found = agreement(table(ALIKE))
    assert found["methods"], found["seeds"] == (3, 1)
    for kind in ("all", "methods", "poolings"):
        assert found["rho"][kind] == pytest.approx({"value": 1, "low": 1, "high": 1})
    assert found["test"] == pytest.approx({"chosen": 0.8, "best": 0.8, "mean": 0.55})


def test_methods_and_poolings_are_told_apart() -> None:
    """Poolings are ranked the wrong way round in each method, and methods rightly at each pooling."""
    turned = {method: [(b, y), (a, x)] for method, [(a, y), (b, x)] in ALIKE.items()}
    found = agreement(table(turned))
    assert found["rho"]["methods"]["value"] == pytest.approx(1)
    assert found["rho"]["poolings"]["value"] == pytest.approx(-1)
    squares = 6 * 1  # six ranks, each off by one
    assert found["rho"]["all"]["value"] == pytest.approx(1 - 6 * squares / (6 * 35))
    assert found["test"] == pytest.approx({"chosen": 0.7, "best": 0.8, "mean": 0.55})


def test_seeds_are_compared_within_themselves_and_averaged() -> None:
    """The second seed's test set is harder, which is nobody's merit; its order is the reverse."""
    reverse = {method: [(1 - a, y / 2) for a, y in values] for method, values in ALIKE.items()}
    found = agreement(pd.concat([table(ALIKE), table(reverse, seed=1)]))
    assert found["rho"]["all"]["value"] == pytest.approx(0)
    assert found["test"]["chosen"] == pytest.approx((0.8 + 0.3 / 2) / 2)
    assert found["test"]["best"] == pytest.approx((0.8 + 0.4) / 2)


def test_what_does_not_vary_has_no_rho_and_two_methods_no_interval() -> None:
    found = agreement(table({"A": [(0.9, 0.8), (0.9, 0.7)], "B": [(0.9, 0.6), (0.9, 0.5)]}))
    assert {kind: one["value"] for kind, one in found["rho"].items()} == {
        "all": None,
        "methods": None,
        "poolings": None,
    }
    assert found["rho"]["all"]["low"] is None


def test_one_method_that_breaks_the_order_leaves_a_wide_interval() -> None:
    """The best of eight rows by synthetic anomalies is the second worst by the test, the second the worst."""
    rho = agreement(table({**ALIKE, "D": [(0.95, 0.2), (0.94, 0.1)]}))["rho"]
    squares = 2 * 6**2 + 6 * 2**2
    assert rho["all"]["value"] == pytest.approx(1 - 6 * squares / (8 * 63))
    assert rho["all"]["low"] < -0.5
    assert rho["all"]["high"] == pytest.approx(1)  # without that method
    assert rho["poolings"] == pytest.approx({"value": 1, "low": 1, "high": 1})


def test_rho_is_that_of_scipy() -> None:
    random = np.random.default_rng(0)
    values = {name: [tuple(pair) for pair in random.random((2, 2)).round(1)] for name in "ABCDEFG"}
    rows = table(values)
    expected = spearmanr(rows["synthetic"], rows["test"]).statistic
    assert agreement(rows)["rho"]["all"]["value"] == pytest.approx(expected, abs=1e-12)


def written(folder: Path, data: str, method: str, normals: str) -> tuple[Cell, Path]:
    """A cell, and the files that a suite leaves of it."""
    folder.mkdir(parents=True)
    aurocs = dict(zip(("max", "mean"), ALIKE[method], strict=True))
    ranking = [{"pooling": name, "mean": synthetic} for name, (synthetic, _) in aurocs.items()]
    (folder / "select.json").write_text(json.dumps({"normals_sha256": normals, "ranking": ranking}))
    (folder / "poolings.json").write_text(json.dumps({name: test for name, (_, test) in aurocs.items()}))
    return Cell(data, method, 0, None, [], {}, select=[]), folder


def test_cells_are_compared_within_a_data_set_if_they_rank_the_same_normals(tmp_path: Path) -> None:
    cells = [written(tmp_path / f"CT{name}", "CT", name, "1") for name in ALIKE]
    cells += [written(tmp_path / f"MR{name}", "MR", name, name) for name in ALIKE]
    lines = write_agreement(cells, tmp_path / "agreement.json")
    assert lines == [
        "CT: synthetic anomalies rank 3 methods and their poolings as the test does by rho 1.00 (1.00 to 1.00); "
        "methods alone 1.00 (1.00 to 1.00), poolings alone 1.00 (1.00 to 1.00). "
        "Test AUROC: chosen 0.800, best 0.800, mean 0.550.",
        "MR: the ranking is not compared, as its methods have held back different slices (slices#...).",
    ]
    content: dict[str, Any] = json.loads((tmp_path / "agreement.json").read_text())
    assert list(content["data"]) == ["CT"]
    assert len(content["table"]) == 12


def test_without_cells_nothing_is_written(tmp_path: Path) -> None:
    assert write_agreement([], tmp_path / "agreement.json") == []
    assert not list(tmp_path.iterdir())
