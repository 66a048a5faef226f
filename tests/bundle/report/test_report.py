"""`python -m bundle report`: its numbers are those of scikit-learn, and its page needs nothing else."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from scipy.stats import beta
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from bundle.__main__ import main
from bundle.report import make_report
from scripts.metrics.item_curves import ItemCurves
from scripts.metrics.registry import METRICS, Entry, Table

from .conftest import Writer, add_picture, add_slices, scores_of


def report_of(out: Path, *folders: Path) -> dict[str, Any]:
    make_report(list(folders), out, "A title")
    return json.loads((out / "report.json").read_text())


class Links(HTMLParser):
    """Everything on a page that a browser would load or lead to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


def test_image_metrics_are_those_of_scikit_learn(evaluation: Writer, tmp_path: Path) -> None:
    scores, labels = scores_of(3, 1.0)
    metrics = report_of(tmp_path / "out", evaluation("run", scores, labels))["runs"][0]["metrics"]
    best = max(f1_score(labels, scores >= threshold) for threshold in scores)
    assert metrics["image_auroc"]["value"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics["image_ap"]["value"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert metrics["image_f1max"]["value"] == pytest.approx(best, abs=1e-12)
    assert metrics["image_f1max_floor"]["value"] == pytest.approx(f1_score(labels, np.ones(60)), abs=1e-12)
    normal, anomalous = scores[labels == 0], scores[labels == 1]
    sensitivity = max(np.mean(anomalous >= t) for t in scores if np.mean(normal < t) >= 0.95)
    assert metrics["sensitivity_at_95_specificity"]["value"] == pytest.approx(sensitivity, abs=1e-12)
    assert metrics["patient_auroc"] == metrics["image_auroc"]  # each image is of another patient
    for name in ("image_auroc", "image_ap", "image_f1max"):
        assert metrics[name]["low"] < metrics[name]["value"] < metrics[name]["high"]


def test_images_of_scans_are_their_slices(evaluation: Writer, tmp_path: Path) -> None:
    folder = evaluation()
    add_slices(folder)
    run = report_of(tmp_path / "out", folder)["runs"][0]
    slices, items = pd.read_csv(folder / "slices.csv"), pd.read_csv(folder / "scores.csv")
    assert run["test"] == {"items": 60, "groups": 60, "normal": 510, "anomalous": 90, "unit": "slices"}
    assert run["metrics"]["image_auroc"]["value"] == pytest.approx(roc_auc_score(slices["label"], slices["score"]))
    assert run["metrics"]["patient_auroc"]["value"] == pytest.approx(roc_auc_score(items["label"], items["score"]))


def test_table_page_and_json_hold_the_same_numbers(evaluation: Writer, tmp_path: Path) -> None:
    report = report_of(tmp_path, evaluation())
    table = pd.read_csv(tmp_path / "report.csv").set_index("metric")
    assert list(table.columns) == ["run", "data", "method", "seed", "value", "low", "high"]
    page = (tmp_path / "report.html").read_text()
    for name, value in report["runs"][0]["metrics"].items():
        if name != "image_f1max_floor":
            assert table.loc[name, ["value", "low", "high"]].tolist() == pytest.approx(list(value.values()))
            assert f"{value['low']:.3f} to {value['high']:.3f}" in page
        assert f"{value['value']:.3f}" in page


def test_seeds_of_a_method_have_mean_and_deviation(evaluation: Writer, tmp_path: Path) -> None:
    aurocs, folders = [], []
    for seed in range(3):
        scores, labels = scores_of(seed, 1.0)
        aurocs.append(roc_auc_score(labels, scores))
        folders.append(evaluation(f"seed {seed}", scores, labels, model={"seed": seed}))
    report = report_of(tmp_path, *folders)
    (row,) = report["summary"]
    assert row["seeds"] == [0, 1, 2]
    assert row["metrics"]["image_auroc"] == pytest.approx(
        {"mean": np.mean(aurocs), "sd": np.std(aurocs, ddof=1), "runs": 3}
    )
    assert f"{np.mean(aurocs):.3f} ± {np.std(aurocs, ddof=1):.3f}" in (tmp_path / "report.html").read_text()


def test_runs_that_differ_in_more_than_the_seed_are_no_seeds_of_one_method(evaluation: Writer, tmp_path: Path) -> None:
    folders = [
        evaluation("one", weights="untrained"),
        evaluation("other"),
        evaluation("again"),
    ]
    methods = [row["method"] for row in report_of(tmp_path, *folders)["summary"]]
    assert methods[0] == "PDD with resnet18 untrained"
    assert [re.sub(r"\(.*/", "(", method) for method in methods[1:]] == [
        "PDD with resnet18 pretrained (other)",
        "PDD with resnet18 pretrained (again)",
    ]


def test_the_page_loads_nothing(evaluation: Writer, tmp_path: Path) -> None:
    folder = evaluation()
    for name in ("best_cases.png", "worst_cases.png"):
        add_picture(folder, name)
    make_report([folder], tmp_path, "A title <b>")
    page = (tmp_path / "report.html").read_text()
    links = Links(page)
    assert len(links.found) == 4  # curves, scores, two pictures of cases
    assert all(link.startswith("data:image/") for link in links.found)
    assert "http" not in page
    assert "url(" not in page
    assert not links.tags & {"script", "link", "iframe", "b"}


def test_what_an_evaluation_did_not_leave_is_left_out_with_the_reason(evaluation: Writer, tmp_path: Path) -> None:
    make_report([evaluation()], tmp_path, "A title")
    page = (tmp_path / "report.html").read_text()
    assert "There is no FROC curve: no run has a table of detections (detections.csv)." in page
    assert "Left out: no run was calibrated" in page
    assert "Left out: no run has metrics by class." in page
    assert "left out, because the run has no pictures of cases" in page
    assert "Nothing is compared: there is only one method." in page


def test_metrics_as_ader_computes_them_stand_apart(evaluation: Writer, tmp_path: Path) -> None:
    make_report([evaluation(metrics={"pixel_auroc": 0.9, "ader_pixel_auroc": 0.8})], tmp_path, "A title")
    page = (tmp_path / "report.html").read_text()
    exact, _, ader = page.partition("not comparable with the exact metrics")
    assert "0.900" in exact
    assert "0.800" not in exact
    assert "0.800" in ader


def test_a_registered_metric_stands_in_its_table_with_label_and_direction(
    evaluation: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = Entry("image_error", Table.IMAGE, "Least error", lambda curve: 1 - curve.f1max(), higher_is_better=False)
    missed = Entry("missed", Table.LESION, "Missed lesions", len, lambda scans: 9.0, higher_is_better=False)
    for entry in (error, missed):
        monkeypatch.setitem(METRICS, entry.name, entry)
    scores, labels = scores_of(3, 1.0)
    folder = evaluation("run", scores, labels, metrics={"missed": 4.0, "missed_floor": 9.0, "a_new_one": 0.125})
    metrics = report_of(tmp_path, folder)["runs"][0]["metrics"]
    expected = 1 - max(f1_score(labels, scores >= threshold) for threshold in scores)
    value = metrics["image_error"]
    assert value["value"] == pytest.approx(expected, abs=1e-12)  # from the scores, though the evaluation has none
    assert value["low"] < value["value"] < value["high"]

    page = (tmp_path / "report.html").read_text()
    tables = dict(re.findall(r"<h4>(.*?)\s*</h4>(.*?)</table>", page, re.DOTALL))
    cells = {title: re.findall(r"<t[dh](?: [^>]*)?>(.*?)</t[dh]>", table) for title, table in tables.items()}
    column = cells["Images"].index("Least error ↓")
    shown = f"{expected:.3f}<small>{value['low']:.3f} to {value['high']:.3f}</small>"
    assert cells["Images"][column + len(cells["Images"]) // 2] == shown
    assert cells["Images"][1] == "AUROC ↑"
    assert cells["Scans and lesions"] == [
        "Method",
        "Missed lesions ↓",
        "PDD, seed 0",
        "4.000<small>floor 9.000</small>",
    ]
    assert cells["Other"] == ["Method", "a new one", "PDD, seed 0", "0.125"]


def test_a_model_folder_stands_for_its_evaluation(evaluation: Writer, tmp_path: Path) -> None:
    for name in ("first", "second"):
        evaluation(f"{name}/eval/test")
    words = [str(tmp_path / name) for name in ("first/eval/test", "first", "second")]
    assert main(["report", *words, "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [run["source"] for run in report["runs"]] == ["first", "second"]  # one evaluation counts once
    assert [run["method"] for run in report["runs"]] == ["PDD (first)", "PDD (second)"]

    made = report_of(tmp_path / "again", tmp_path / "first")
    assert made["runs"][0]["source"] == "first"
    assert made["runs"][0]["metrics"] == report["runs"][0]["metrics"]


def test_a_folder_with_an_evaluation_of_its_own_is_no_model_folder(evaluation: Writer, tmp_path: Path) -> None:
    outer = evaluation("outer", model={"method": "outer"})
    evaluation("outer/eval/test", model={"method": "inner"})
    (run,) = report_of(tmp_path / "out", outer)["runs"]
    assert run["method"] == "outer"


def test_a_calibrated_threshold_has_the_interval_of_clopper_and_pearson(evaluation: Writer, tmp_path: Path) -> None:
    scores, labels = scores_of(0, 1.0)
    threshold = float(np.sort(scores[labels == 0])[-4])
    counted = {
        "normal_patients": 30,
        "false_positive_rate": float(np.mean(scores[labels == 0] > threshold)),
        "sensitivity": float(np.mean(scores[labels == 1] > threshold)),
    }
    promise = {"rate": 0.05, "threshold": threshold, "patients": 40}
    calibration = {"levels": {"slice": promise}, "observed": {"slice": counted}}
    (point,) = report_of(tmp_path, evaluation("run", scores, labels, calibration=calibration))["runs"][0][
        "operating_points"
    ]
    assert point["observed_rate"] == pytest.approx(3 / 30)
    assert point["low"] == pytest.approx(beta.ppf(0.025, 3, 28))
    assert point["high"] == pytest.approx(beta.ppf(0.975, 4, 27))


def test_no_interval_of_a_rate_where_a_patient_has_several_images(evaluation: Writer, tmp_path: Path) -> None:
    counted = {"normal_patients": 3, "false_positive_rate": 0.1, "sensitivity": 0.5}
    promise = {"rate": 0.05, "threshold": 1.0, "patients": 40}
    calibration = {"levels": {"slice": promise}, "observed": {"slice": counted}}
    groups = [f"patient {number % 2} {number // 20}" for number in range(60)]
    (point,) = report_of(tmp_path, evaluation(groups=groups, calibration=calibration))["runs"][0]["operating_points"]
    assert (point["low"], point["high"]) == (None, None)


def test_a_folder_that_is_no_evaluation_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path}: not an evaluation, since it has no metrics.json. `python -m bundle evaluate MODEL`" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.json", "{", "metrics.json: not JSON"),
        ("metrics.json", "{}", "metrics.json: not of an evaluation"),
        ("scores.csv", "image,score\na,1\n", "scores.csv: not of an evaluation, since it has no column group, label"),
        ("scores.csv", "image,group,label,score\n", "scores.csv: not of an evaluation, since it has no row"),
        ("scores.csv", "image,group,label,score\na,a,1,nan\n", "scores.csv: a score is missing or not finite"),
        ("scores.csv", "image,group,label,score\na,a,2,1\n", "scores.csv: a label is neither 0"),
    ],
)
def test_a_broken_file_is_named(evaluation: Writer, tmp_path: Path, file: str, text: str, message: str) -> None:
    folder = evaluation()
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        make_report([folder], tmp_path / "out", "A title")


@pytest.mark.parametrize("run", ["0" * 32, "no such name"])
def test_an_unknown_mlflow_run_is_named(
    run: str, tracking_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", run, "--out", str(tmp_path), "--tracking-uri", tracking_uri]) == 1
    error = capsys.readouterr().err
    assert run in error
    assert "neither a folder nor the id" in error
    assert "`python -m bundle evaluate MODEL`" in error


def test_without_a_store_a_name_is_a_missing_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # which MLflow sets wherever a store was chosen
    assert main(["report", "missing", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "missing: no such folder" in error
    assert "`python -m bundle evaluate MODEL`" in error


@pytest.mark.parametrize("by", ["id", "name"])
def test_a_run_of_mlflow_is_fetched_and_gets_the_report(
    by: str, evaluation: Writer, tracking_uri: str, tmp_path: Path
) -> None:
    client = MlflowClient(tracking_uri)
    experiment = client.create_experiment(str(tmp_path), artifact_location=(tmp_path / "store").as_uri())
    name = f"evaluation of {tmp_path.name}"
    run = client.create_run(experiment, run_name=name, tags={"kind": "evaluation"})
    client.log_artifacts(run.info.run_id, str(evaluation()))
    words = [run.info.run_id if by == "id" else name, "--out", str(tmp_path / "out"), "--tracking-uri", tracking_uri]
    assert main(["report", *words]) == 0
    attached = {entry.path for entry in client.list_artifacts(run.info.run_id, "report")}
    assert attached == {"report/report.html", "report/report.json", "report/report.csv"}
    copy = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/report/report.html")
    assert copy == (tmp_path / "out" / "report.html").read_text()


def test_pixel_metrics_are_as_written_with_the_interval_of_their_curves(evaluation: Writer, tmp_path: Path) -> None:
    folder = evaluation(metrics={"pixel_auroc": 0.75})
    images = pd.read_csv(folder / "scores.csv")["image"].to_numpy(dtype=str)
    # Of each image 6 of 8 anomalous and 2 of 8 normal pixels reach the upper threshold: AUROC 0.75, however resampled.
    positive, negative = np.tile([6, 2], (60, 1)), np.tile([2, 6], (60, 1))
    curves = ItemCurves(np.array([2.0, 1.0], np.float32), positive, negative, positive / 8, images)
    curves.save(folder / "pixels.npz")
    value = report_of(tmp_path, folder)["runs"][0]["metrics"]["pixel_auroc"]
    assert value == pytest.approx({"value": 0.75, "low": 0.75, "high": 0.75})
