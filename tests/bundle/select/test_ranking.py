"""The ranking: AUROCs and intervals by hand, the order, and what is written."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from bundle.select.ranking import Ranking
from bundle.select.scoring import Scores

NORMAL = np.array([1.0, 2.0, 3.0, 4.0])
PATIENTS = np.array(["anna", "anna", "ben", "cleo"])


def scores(**kinds: list[float]) -> dict[str, np.ndarray]:
    return {"normal": NORMAL, **{kind: np.array(values) for kind, values in kinds.items()}}


def two_models() -> Ranking:
    one = {
        "max": scores(lesion=[5, 5, 5, 5], noise=[2.5, 2.5, 2.5, 2.5]),
        "mean": scores(lesion=[0, 0, 0, 0], noise=[1, 2, 3, 4]),
    }
    other = {"max": scores(lesion=[5, 5, 5, 5], noise=[5, 5, 5, 5])}
    return Ranking({"one": Scores(one, PATIENTS), "other": Scores(other, PATIENTS)})


def test_a_row_is_the_share_of_pairs_of_each_kind_and_their_mean_and_the_best_comes_first() -> None:
    table = two_models().table
    assert table[["rank", "model", "pooling"]].to_numpy().tolist() == [
        [1, "other", "max"],
        [2, "one", "max"],
        [3, "one", "mean"],
    ]
    assert table["lesion"].tolist() == [1, 1, 0]
    assert table["noise"].tolist() == [1, 0.5, 0.5]
    assert table["mean"].tolist() == [1, 0.75, 0.25]
    assert table[["low", "high"]].iloc[0].tolist() == [1, 1]  # whoever is drawn


def test_equal_scores_share_a_rank() -> None:
    same = Scores({"max": scores(lesion=[5, 5, 5, 5])}, PATIENTS)
    assert Ranking({"one": same, "other": same}).table["rank"].tolist() == [1, 1]


def test_the_interval_is_that_of_the_mean_over_draws_of_patients() -> None:
    random = np.random.default_rng(0)
    normal, lesion, noise = (random.normal(centre, size=40) for centre in (0, 0.5, 1.5))
    patients = np.repeat([f"{number:02}" for number in range(10)], 4)
    row = Ranking({"m": Scores({"max": {"normal": normal, "lesion": lesion, "noise": noise}}, patients)}).table.iloc[0]

    def mean(drawn: np.ndarray) -> float:
        places = np.concatenate([np.flatnonzero(patients == patients[4 * one]) for one in drawn])
        labels = np.repeat([0, 1], len(places))
        return float(np.mean([roc_auc_score(labels, np.append(normal[places], k[places])) for k in (lesion, noise)]))

    assert row["mean"] == pytest.approx(mean(np.arange(10)), abs=1e-12)
    by_hand = np.quantile([mean(random.integers(10, size=10)) for _ in range(2000)], (0.025, 0.975))
    np.testing.assert_allclose(row[["low", "high"]].astype(float), by_hand, atol=0.02)


def test_one_patient_has_no_interval() -> None:
    ranking = Ranking({"m": Scores({"max": scores(lesion=[5, 5, 5, 5])}, np.array(["anna"] * 4))})
    assert ranking.table[["low", "high"]].isna().all(axis=None)
    assert ranking.text().rstrip().endswith("-")


def test_the_text_says_what_it_rests_on() -> None:
    text = two_models().text()
    assert "4 normal slices or images of 3 patients" in text
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
    assert (content["slices"], content["patients"], content["seed"]) == (4, 3, 7)
    assert [row["mean"] for row in content["ranking"]] == [1, 0.75, 0.25]
