"""``python -m bundle benchmark``: what a suite may say, the cells it asks for, and what running it leaves behind."""

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pandas as pd
import pytest

from bundle.__main__ import main
from bundle.benchmark.running import Bench
from bundle.benchmark.suite import Cell, cells, load_suite

SUITE: dict[str, Any] = {
    "name": "small",
    "seeds": [0],
    "data": {"Phantoms": {"values": {"datalist": "datalist.json"}}},
    "methods": {"mean image": {"baseline": "mean_image"}},
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "suite.json"
    path.write_text(json.dumps(SUITE | changes))
    return path


def test_a_suite_that_is_missing_is_told_where_examples_are(tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    with pytest.raises(FileNotFoundError, match=f"{path}: no such suite; docs/results/suites has examples"):
        load_suite(path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seeds": []}, "it lacks seeds; see python -m bundle benchmark --help"),
        ({"data": {}, "methods": None}, "it lacks data, methods; see"),
        ({"methods": {"mine": {"config": ["x.json"]}}}, "methods, mine: unknown config; there are .*configs"),
        ({"data": {"CT": {"value": {}}}}, "data, CT: unknown value; there are .*select, values"),
        ({"methods": {"mine": {"baseline": "median"}}}, "mine: no baseline median; there are mean_image"),
    ],
)
def test_what_is_wrong_with_a_suite_is_named_beside_what_is_right(
    tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"{path}: .*{text}"):
        load_suite(path)


@pytest.mark.parametrize("content", ["{", "[1, 2]", "7"])
def test_a_file_that_is_no_suite_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "suite.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{path}: no"):
        load_suite(path)


def test_a_missing_overlay_is_named_with_who_asks_for_it(tmp_path: Path) -> None:
    path = written(tmp_path, methods={"RD4AD": {"configs": ["configs/methods/rd5ad.json"]}})
    with pytest.raises(FileNotFoundError, match=f"{path}: methods, RD4AD: there is no overlay .*rd5ad.json"):
        load_suite(path)


def test_the_environment_fills_in_names_and_an_unset_one_is_told_to_be_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, data={"CT": {"values": {"dataset_dir": "${A_FOLDER}/ct"}}})
    monkeypatch.delenv("A_FOLDER", raising=False)
    with pytest.raises(ValueError, match=f"{path}: .*A_FOLDER is not set: export A_FOLDER="):
        load_suite(path)
    odd = 'C:\\data "new"'  # which JSON must escape
    monkeypatch.setenv("A_FOLDER", odd)
    assert load_suite(path)["data"]["CT"]["values"]["dataset_dir"] == f"{odd}/ct"


def test_cells_come_seed_by_seed_with_the_methods_values_over_the_datas_over_the_suites() -> None:
    suite = {
        "seeds": [1, 0],
        "values": {"epochs": 1, "batch_size": 1, "amp": False},
        "data": {
            "A": {"configs": ["a.json"], "values": {"batch_size": 2, "epochs": 2}},
            "B": {},
        },
        "methods": {
            "M": {"configs": ["m.json"], "values": {"epochs": 3}},
            "N/1": {"baseline": "mean_image", "seeds": [0]},
        },
    }
    a, b = {"epochs": 2, "batch_size": 2, "amp": False}, {"epochs": 1, "batch_size": 1, "amp": False}
    assert cells(suite) == [
        Cell("A", "M", 0, None, ["a.json", "m.json"], a | {"epochs": 3}),
        Cell("A", "N/1", 0, "mean_image", ["a.json"], a),
        Cell("B", "M", 0, None, ["m.json"], b | {"epochs": 3}),
        Cell("B", "N/1", 0, "mean_image", [], b),
        Cell("A", "M", 1, None, ["a.json", "m.json"], a | {"epochs": 3}),
        Cell("B", "M", 1, None, ["m.json"], b | {"epochs": 3}),
    ]
    assert cells(suite)[1].select is None
    assert cells(suite)[1].folder == Path("A", "N_1", "seed0")
    assert cells(suite)[1].name == "A, N/1, seed 0"


class Ran(NamedTuple):
    """A suite of two methods, a baseline and one that fails, after its first run."""

    suite: dict[str, Any]
    folder: Path
    code: int
    printed: str

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.folder}/mlruns.db"

    def again(self, suite: dict[str, Any] | None = None) -> int:
        """The exit code of one more run."""
        path = self.folder.parent / "suite.json"
        path.write_text(json.dumps(self.suite if suite is None else suite))
        return main(["benchmark", "--suite", str(path), "--out", str(self.folder)])

    def cell(self, method: str) -> Path:
        return self.folder / "Phantoms" / method / "seed0"


@pytest.fixture(scope="module")
def ran(tiny_dataset: Path, tiny_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """RD4AD, the mean image, and a learning rate that blows up RD4AD's weights, in one process after the other."""
    folder = tmp_path_factory.mktemp("suite")
    rd4ad = {
        "_target_": "scripts.networks.RD4AD",
        "teacher": {
            "_target_": "scripts.networks.Teacher",
            "name": "test_resnet",
            "weights": "untrained",
            "levels": [1, 2, 3],
        },
        "decoder_blocks": 1,
        "embedding_blocks": 1,
        "block": "basic",
    }
    (folder / "small.json").write_text(json.dumps({"network_def": rd4ad}))
    configs = ["configs/methods/rd4ad.json", str(folder / "small.json")]
    common = {name: value for name, value in tiny_config.items() if not name.startswith("network_def")}
    suite = {
        "name": "small",
        "seeds": [0],
        "values": {**common, "epochs": 1, "cache_dir": str(folder / "cache")},
        "data": {"Phantoms": {"values": {"datalist": str(tiny_dataset)}, "select": ["--slices", "4"]}},
        "methods": {
            "mean image": {"baseline": "mean_image"},
            "blown up": {"configs": configs, "values": {"learning_rate": 1e38, "epochs": 2}},
            "small RD4AD": {"configs": configs, "values": {"batch_size": 8}},
        },
    }
    first = Ran(suite, folder / "out", 0, "")
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
        patch.setenv("OMP_NUM_THREADS", "1")
        code = first.again()
    return first._replace(code=code, printed="\n".join(printed))


def test_a_failing_cell_is_listed_with_its_reason_and_the_others_finish(ran: Ran) -> None:
    assert ran.code == 1
    assert "2 cells are evaluated" in ran.printed
    (told,) = ran.printed.split("FAILED ")[1:]
    assert told.startswith("Phantoms, blown up, seed 0: exit code 1, see ")
    log = ran.cell("blown_up") / "log.txt"
    assert str(log) in told
    assert "lower the learning rate" in told
    assert "lower the learning rate" in log.read_text()
    finished = {path.parent.parent.name for path in ran.folder.rglob("finished.json")}
    assert finished == {"mean_image", "small_RD4AD"}


def test_each_cell_has_a_folder_with_its_model_and_evaluation(ran: Ran) -> None:
    for method, trained in (("small_RD4AD", True), ("mean_image", False)):
        folder = ran.cell(method)
        assert (folder / "model" / "models" / "model.pt").is_file() == trained
        summary = json.loads((folder / "test" / "metrics.json").read_text())
        assert summary["images"] == {"normal": 6, "anomalous": 2}
        assert summary["model"]["method"] == method.replace("_", " ")
        overlay = json.loads((folder / "cell.json").read_text())
        assert overlay["batch_size"] == (8 if trained else 4)
        finished = json.loads((folder / "finished.json").read_text())
        assert finished["asked"]["values"]["epochs"] == 1
        assert finished["seconds"] > 0


def test_trained_cells_are_ranked_by_synthetic_anomalies_too(ran: Ran) -> None:
    folder = ran.cell("small_RD4AD")
    ranked, tested = (json.loads((folder / name).read_text()) for name in ("select.json", "poolings.json"))
    assert ranked["anomalies"] == 4
    assert {row["pooling"] for row in ranked["ranking"]} == tested.keys()
    metrics = json.loads((folder / "test" / "metrics.json").read_text())["metrics"]
    assert tested["top_5%"] == pytest.approx(metrics["image_auroc"], abs=1e-9)
    assert not (ran.cell("mean_image") / "select.json").exists()
    rows = json.loads((ran.folder / "agreement.json").read_text())["table"]
    best = next(row for row in rows if row["pooling"] == ranked["ranking"][0]["pooling"])
    assert best["synthetic"] == ranked["ranking"][0]["mean"]
    assert {row["pooling"]: row["test"] for row in rows} == tested
    assert "Phantoms: synthetic anomalies rank 1 methods" in ran.printed


def test_the_report_compares_the_finished_cells(ran: Ran) -> None:
    page = (ran.folder / "report" / "report.html").read_text()
    assert "Suite small" in page
    assert "small RD4AD" in page
    assert "mean image" in page
    content = json.dumps(json.loads((ran.folder / "report" / "report.json").read_text()))
    for method in ("small_RD4AD", "mean_image"):
        metrics = json.loads((ran.cell(method) / "test" / "metrics.json").read_text())["metrics"]
        assert str(metrics["image_auroc"]) in content
    assert not pd.read_csv(ran.folder / "report" / "report.csv").empty


def test_every_run_in_mlflow_hangs_below_the_suites(ran: Ran) -> None:
    client = mlflow.MlflowClient(ran.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("kind") == "suite"]
    assert parent.info.run_name == "suite small"
    assert parent.info.status == "FAILED"  # as one of its cells has
    assert [file.path for file in client.list_artifacts(parent.info.run_id, "report")]
    below = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in below} == {parent.info.run_id}
    kinds = sorted((run.data.tags["kind"], run.info.status) for run in below)
    assert kinds == [
        ("evaluation", "FINISHED"),
        ("evaluation", "FINISHED"),
        ("training", "FAILED"),
        ("training", "FINISHED"),
    ]


def suites_run(ran: Ran) -> mlflow.entities.Run:
    """The only one, however often the suite has been run."""
    client = mlflow.MlflowClient(ran.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    (run,) = [run for run in runs if run.data.tags.get("kind") == "suite"]
    return run


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def only(suite: dict[str, Any], *methods: str) -> dict[str, Any]:
    return suite | {"methods": {name: suite["methods"][name] for name in methods}}


def test_a_second_run_does_nothing_to_what_is_finished(ran: Ran) -> None:
    before = snapshot(ran.folder / "Phantoms")
    assert ran.again(only(ran.suite, "mean image", "small RD4AD")) == 0
    assert snapshot(ran.folder / "Phantoms") == before
    assert suites_run(ran).info.status == "FINISHED"


@pytest.mark.parametrize("change", [{"values": {"batch_size": 9}}, {"configs": []}], ids=["values", "configs"])
def test_a_finished_cell_whose_settings_changed_is_refused_and_kept(
    ran: Ran, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    suite = copy.deepcopy(only(ran.suite, "mean image", "small RD4AD"))
    suite["methods"]["small RD4AD"] |= change
    before = snapshot(ran.folder / "Phantoms")
    assert ran.again(suite) == 1
    error = capsys.readouterr().err
    assert f"{ran.cell('small_RD4AD')} holds a result of other settings" in error
    assert "remove that folder, or name another --out" in error
    assert snapshot(ran.folder / "Phantoms") == before
    assert suites_run(ran).info.status == "FAILED"


def test_a_cell_that_was_broken_off_before_its_end_is_run_again(ran: Ran) -> None:
    """A baseline begins anew; the others' results stay."""
    folder, other = ran.cell("mean_image"), snapshot(ran.cell("small_RD4AD"))
    before = snapshot(folder)
    scores = (folder / "test" / "scores.csv").read_text()
    (folder / "finished.json").unlink()
    (folder / "test" / "metrics.json").unlink()
    assert ran.again(only(ran.suite, "mean image", "small RD4AD")) == 0
    after = snapshot(folder)
    assert before.keys() == after.keys()
    assert after[str(folder / "test" / "metrics.json")] > before[str(folder / "test" / "metrics.json")]
    assert (folder / "test" / "scores.csv").read_text() == scores
    assert snapshot(ran.cell("small_RD4AD")) == other


def test_a_training_that_was_broken_off_goes_on_from_its_last_epoch(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that is started, where there is a checkpoint to go on from and where there is none."""
    commands: list[list[str]] = []
    monkeypatch.setattr("bundle.benchmark.running.Bench._process", lambda self, folder, words: commands.append(words))
    suite = copy.deepcopy(only(ran.suite, "small RD4AD")) | {"seeds": [7, 8]}
    del suite["data"]["Phantoms"]["select"]  # which reads what the processes have written
    checkpoint = ran.folder / "Phantoms" / "small_RD4AD" / "seed8" / "model" / "models" / "last.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    monkeypatch.setattr("bundle.benchmark.make_report", lambda folders, out, title: out / "report.html")
    (ran.folder / "report").mkdir(exist_ok=True)
    assert ran.again(suite) == 0
    trainings = [words for words in commands if "training" in words]
    assert [words[-2:] == ["--resume", "True"] for words in trainings] == [False, True]
    assert [words[2] if "training" in words else words[1] for words in commands] == ["training", "evaluate"] * 2


def test_a_data_set_is_prepared_once_a_seed_and_calibrated_where_asked(
    tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = {
        "name": "splits",
        "seeds": [3, 4],
        "data": {"A": {"prepare": ["data", "--train-count", "5"], "calibrate": ["--scan-false-positive-rate", "0.2"]}},
        "methods": {"RD4AD": {"configs": []}, "PDD": {"configs": []}},
    }
    processes: list[list[str]] = []

    def process(_: Bench, folder: Path, words: list[str]) -> None:
        processes.append(words)
        if words[1] == "prepare":
            Path(words[words.index("--out") + 1]).write_text("{}")

    monkeypatch.setattr(Bench, "_process", process)
    bench = Bench("splits", tmp_path, tracking_uri)
    assert bench.run(cells(suite)) == {}
    prepared = [words for words in processes if words[1] == "prepare"]
    datalists = [tmp_path / "A" / "datalists" / f"seed{seed}.json" for seed in (3, 4)]
    assert prepared == [
        ["bundle", "prepare", "data", "--train-count", "5", "--seed", str(seed), "--out", str(path), "--force"]
        for seed, path in zip((3, 4), datalists, strict=True)
    ]
    for cell in cells(suite):
        values = json.loads((tmp_path / cell.folder / "cell.json").read_text())
        assert values["datalist"] == str(datalists[cell.seed - 3])
        model = str(tmp_path / cell.folder / "model")
        assert ["bundle", "calibrate", model, "--scan-false-positive-rate", "0.2"] in processes
