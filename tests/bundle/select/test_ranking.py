"""The ranking: its order, what it says and what is written."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from bundle.select.ranking import Ranking
from bundle.select.scoring import Scores

NORMAL = np.array([1.0, 2.0, 3.0, 4.0])
PATIENTS = np.array(["anna", "anna", "ben", "cleo"])


def scores(**kinds: list[float]) -> dict[str, np.ndarray]:
    return {"normal": NORMAL, **{kind: np.array(values) for kind, values in kinds.items()}}


def scored(**poolings: dict[str, np.ndarray]) -> Scores:
    return Scores(poolings, PATIENTS, np.arange(4))


def two_models() -> Ranking:
    one = scored(
        max=scores(lesion=[5, 5, 5, 5], noise=[2.5, 2.5, 2.5, 2.5]),
        mean=scores(lesion=[0, 0, 0, 0], noise=[1, 2, 3, 4]),
    )
    return Ranking({"one": one, "other": scored(max=scores(lesion=[5, 5, 5, 5], noise=[5, 5, 5, 5]))})


def test_a_row_is_the_auroc_of_each_kind_and_their_mean_and_the_best_comes_first() -> None:
    """Of ten pairs between different patients, noise wins the four with Anna's normals by the maximum of the map."""
    table = two_models().table
    assert table[["rank", "model", "pooling"]].to_numpy().tolist() == [
        [1, "other", "max"],
        [2, "one", "max"],
        [3, "one", "mean"],
    ]
    assert table["lesion"].tolist() == [1, 1, 0]
    assert table["noise"].tolist() == [1, 0.4, 0.5]
    assert table["mean"].tolist() == [1, 0.7, 0.25]


def test_equal_scores_share_a_rank() -> None:
    same = scored(max=scores(lesion=[5, 5, 5, 5]))
    assert Ranking({"one": same, "other": same}).table["rank"].tolist() == [1, 1]


def test_few_patients_have_no_interval() -> None:
    ranking = two_models()
    assert ranking.table[["low", "high"]].isna().all(axis=None)
    assert ranking.text().rstrip().endswith("-")


def test_the_text_says_what_it_rests_on() -> None:
    text = two_models().text()
    assert "AUROC of 4 synthetic anomalies of each kind in normals of 3 patients" in text
    assert text.splitlines()[3].split()[:5] == ["1", "other", "max", "1.000", "1.000"]


def test_the_advice_names_the_setting_unless_the_model_has_it() -> None:
    ranking = two_models()
    assert ranking.advice({"one": "max", "other": "top_5%"}) == (
        "Take other with max: add --set scoring#pooling max to calibrate, evaluate and infer."
    )
    assert ranking.advice({"one": "max", "other": "max"}) == "Take other as it is: it pools by max."


def test_csv_holds_the_table_and_json_the_facts_too(tmp_path: Path) -> None:
    ranking = two_models()
    ranking.write(tmp_path / "a.csv", seed=7)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a.csv"), ranking.table, check_dtype=False)
    ranking.write(tmp_path / "a.json", seed=7)
    content = json.loads((tmp_path / "a.json").read_text())
    assert (content["anomalies"], content["patients"], content["seed"]) == (4, 3, 7)
    assert [row["mean"] for row in content["ranking"]] == [1, 0.7, 0.25]
