"""What MLflow keeps of training, evaluation and inference, and the model in its registry."""

import ast
import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from scripts.losses import PDDLoss

ROOT = Path(__file__).parents[2]
NAME = "medical_anomaly_pdd"


def runs_of(tracking_uri: str, experiment: str) -> list[Run]:
    client = MlflowClient(tracking_uri)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id], order_by=["start_time"])) if found else []


def history(tracking_uri: str, run: Run, name: str) -> dict[int, float]:
    return {m.step: m.value for m in MlflowClient(tracking_uri).get_metric_history(run.info.run_id, name)}


def artifacts(tracking_uri: str, run: Run, folder: str | None = None) -> set[str]:
    return {entry.path for entry in MlflowClient(tracking_uri).list_artifacts(run.info.run_id, folder)}


@pytest.fixture(scope="module")
def runs(used: Any) -> dict[str, Run]:
    """The runs of the three commands by their kind."""
    return {run.data.tags["kind"]: run for run in runs_of(used.tracking_uri, NAME)}


@pytest.fixture
def tracked(tracking_uri: str, tmp_path: Path) -> Callable[[], list[Run]]:
    """The runs of this test's own workflows."""
    return lambda: runs_of(tracking_uri, str(tmp_path))


_FIRST_RUN = """
import sys
from types import SimpleNamespace
from scripts.model.provenance import Provenance
from scripts.tracking.run import Run, Tracking

class First(Run):
    kind = "first"

network = SimpleNamespace(identities=list, untrained_teachers=list)
print("ready", flush=True)
sys.stdin.readline()
run = First(Tracking(sys.argv[1], "ours"), Provenance(), network)
run.start(None)
"""


def test_runs_that_start_at_once_share_a_new_store(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/new/mlruns.db"
    command = [sys.executable, "-c", _FIRST_RUN, uri]
    started = [subprocess.Popen(command, cwd=ROOT, text=True, stdin=-1, stdout=-1, stderr=-1) for _ in range(2)]
    assert [process.stdout.readline() for process in started if process.stdout] == 2 * ["ready\n"]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    assert len(runs_of(uri, "ours")) == 2


@pytest.mark.parametrize("kind", ["training", "evaluation", "inference"])
def test_a_run_is_finished_named_and_of_its_user(kind: str, used: Any, runs: dict[str, Run]) -> None:
    assert len(runs) == 3
    assert runs[kind].info.status == "FINISHED"
    training = f"PDD {json.loads(used.datalist.read_text())['name']} seed 0"
    auroc = runs["evaluation"].data.metrics["image_auroc"]
    expected = f"{training}, image AUROC {auroc:.3f}" if kind == "training" else f"{kind} of {training}"
    assert runs[kind].info.run_name == expected
    assert runs[kind].data.tags["mlflow.user"]
    assert "error" not in runs[kind].data.tags
    assert runs[kind].data.tags["untrained_teachers"] == "test_resnet, vmamba_pico"


def test_parameters_of_a_training(used: Any, runs: dict[str, Run]) -> None:
    params = runs["training"].data.params
    assert params["epochs"] == params["train/trainer/max_epochs"] == "2"
    assert params["network_def/local_teacher/name"] == params["teacher1_name"] == "test_resnet"
    assert params["seed"] == "0"
    assert params["loss/prp_cosine"] == "0.05"
    assert params["datalist_sha256"] == hashlib.sha256(used.datalist.read_bytes()).hexdigest()
    for package in ("monai", "torch", "timm"):
        assert params[f"version_{package}"] == version(package)
    state = torch.load(used.checkpoint, weights_only=True)["model"]["_extra_state"]
    identities = json.loads(bytes(state.tolist()))
    assert [params["teacher1_sha256"], params["teacher2_sha256"]] == [teacher["sha256"] for teacher in identities]


def test_the_commit_is_known_in_a_checkout(runs: dict[str, Run]) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    commit = runs["training"].data.params["git_commit"].removesuffix("-dirty")
    kind = subprocess.run(
        ["git", "-C", str(ROOT), "cat-file", "-t", commit], capture_output=True, text=True, check=False
    )
    assert kind.stdout.strip() == "commit"


def test_metrics_of_every_epoch(used: Any, runs: dict[str, Run]) -> None:
    names = ("loss", "loss_kr", "loss_prp", "loss_div", "val_loss", "images_per_second", "learning_rate")
    values = {name: history(used.tracking_uri, runs["training"], name) for name in names}
    assert all(set(by_epoch) == {1, 2} for by_epoch in values.values())
    for epoch in (1, 2):
        parts = {name: values[f"loss_{name}"][epoch] for name in ("kr", "prp", "div")}
        assert values["loss"][epoch] == pytest.approx(0.02 * parts["kr"] + parts["prp"] + 0.5 * parts["div"], rel=1e-4)
        assert values["images_per_second"][epoch] > 0
    # Cosine annealing from 0.002 over two epochs: what was in force during each of them.
    assert values["learning_rate"] == {1: pytest.approx(0.002), 2: pytest.approx(0.001)}


def test_artifacts_of_a_training(used: Any, runs: dict[str, Run], tmp_path: Path) -> None:
    run, client = runs["training"], MlflowClient(used.tracking_uri)
    assert artifacts(used.tracking_uri, run) == {"config.json", "checkpoint", "test"}
    config = json.loads(Path(client.download_artifacts(run.info.run_id, "config.json", str(tmp_path))).read_text())
    assert config["image_size"] == 64
    assert config["network_def"]["_target_"] == "scripts.networks.PDD"
    checkpoint = Path(client.download_artifacts(run.info.run_id, "checkpoint/model.pt", str(tmp_path)))
    assert checkpoint.read_bytes() == used.checkpoint.read_bytes()
    assert torch.load(used.checkpoint, weights_only=True)["provenance"]["mlflow_run_id"] == run.info.run_id
    registered = client.get_model_version(NAME, "1")
    assert registered.run_id == run.info.run_id
    assert [output.model_id for output in run.outputs.model_outputs] == [registered.source.removeprefix("models:/")]


def test_an_evaluation_leads_to_its_training_and_back(used: Any, runs: dict[str, Run]) -> None:
    training, evaluation = runs["training"], runs["evaluation"]
    assert evaluation.data.tags["training_run_id"] == training.info.run_id
    assert evaluation.data.tags["mlflow.parentRunId"] == training.info.run_id
    metrics = json.loads((used.model / "eval" / "test" / "metrics.json").read_text())["metrics"]
    assert evaluation.data.metrics == pytest.approx(metrics)
    tested = {name: value for name, value in training.data.metrics.items() if name.startswith("test_")}
    assert tested == pytest.approx({f"test_{name}": value for name, value in metrics.items()})
    calibration = json.loads((used.model / "models" / "calibration.json").read_text())
    assert evaluation.data.params["scan_threshold"] == str(calibration["levels"]["scan"]["threshold"])
    assert evaluation.data.params["checkpoint"] == calibration["scorer"]["checkpoint"]
    summary = json.loads((used.model / "eval" / "test" / "metrics.json").read_text())
    found = {name: f"**{100 * value:.3g} %**" for name, value in summary["calibration"]["observed"]["scan"].items()}
    areas = ", ".join(f"{kind} AUROC **{metrics[f'{kind}_auroc']:.3f}**" for kind in ("patient", "image", "pixel"))
    described = (
        f"Test set: {areas}. Called abnormal: {found['sensitivity']} of anomalous patients and "
        f"{found['false_positive_rate']} of normal patients (promised of normal ones: at most 50 %)."
    )
    assert evaluation.data.tags["mlflow.note.content"] == described
    assert training.data.tags["mlflow.note.content"].endswith(f"\n\n{described} Pictures: Artifacts, test.")


def test_artifacts_of_an_evaluation(used: Any, runs: dict[str, Run]) -> None:
    pictures = {"roc_pr.png", "scores.png", "heat_maps.png", "best_cases.png", "worst_cases.png"}
    numbers = {"metrics.json", "scores.csv", "pixels.npz", "detections.csv"}
    assert artifacts(used.tracking_uri, runs["evaluation"]) == pictures | numbers
    assert artifacts(used.tracking_uri, runs["training"], "test") == {f"test/{picture}" for picture in pictures}


def test_an_inference_leads_to_its_training_and_has_its_results(used: Any, runs: dict[str, Run]) -> None:
    run = runs["inference"]
    assert run.data.tags["training_run_id"] == runs["training"].info.run_id
    table = pd.read_csv(used.model / "eval" / "inference" / "scores.csv")
    scores = table["score"]
    expected = {
        "images": 3,
        "score_max": scores.max(),
        "score_mean": scores.mean(),
        "abnormal": table["abnormal"].sum(),
    }
    assert run.data.metrics == pytest.approx(expected)
    assert run.data.params["mask_threshold"] == str(table["mask_threshold"][0])
    assert artifacts(used.tracking_uri, run) == {"manifest.json", "scores.csv", "overlays"}
    assert len(artifacts(used.tracking_uri, run, "overlays")) == 3


def test_a_failed_training_says_why(workflow: Callable[..., Any], tracked: Callable[[], list[Run]]) -> None:
    with pytest.raises(RuntimeError, match="Failed to evaluate") as caught:
        workflow("train.json", **{"loss#kr": float("nan")}).run()
    assert isinstance(caught.value.__cause__, FloatingPointError)
    (run,) = tracked()
    assert run.info.status == "FAILED"
    assert run.data.tags["error"].startswith("FloatingPointError: The loss is nan in epoch 1")


def test_an_interrupted_training_is_killed_and_goes_on_in_its_run(
    workflow: Callable[..., Any],
    tracked: Callable[[], list[Run]],
    tracking_uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    forward = PDDLoss.forward

    def interrupted(self: PDDLoss, distillation: Any) -> Any:
        calls.append(distillation)
        if len(calls) == 7:  # 4 batches and a validation are an epoch, so in the second
            raise KeyboardInterrupt
        return forward(self, distillation)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PDDLoss, "forward", interrupted)
        workflow("train.json", epochs=3).run()
    (run,) = tracked()
    assert run.info.status == "KILLED"
    workflow("train.json", epochs=3, resume=True).run()
    (run,) = tracked()
    assert run.info.status == "FINISHED"
    assert "error" not in run.data.tags
    assert set(history(tracking_uri, run, "loss")) == {1, 2, 3}


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_a_training_that_is_told_to_end_is_killed_and_keeps_its_last_checkpoint(
    command: Callable[..., list[str]], tiny_overlay: Path, tracked: Callable[[], list[Run]], tmp_path: Path
) -> None:
    tiny_overlay.write_text(json.dumps(json.loads(tiny_overlay.read_text()) | {"epochs": 10_000}))
    words, checkpoint = command("training", "train.json"), tmp_path / "model" / "models" / "model.pt"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, cwd=ROOT, env=environment, text=True, stdout=-1, stderr=-2) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and not checkpoint.is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, printed
    (run,) = tracked()
    assert run.info.status == "KILLED"
    assert run.data.tags["error"] == "Terminated: SIGTERM, from the system or another program"
    done = [torch.load(path, weights_only=True)["trainer"]["iteration"] for path in checkpoint.parent.glob("*.pt")]
    assert len(done) == 2
    assert all(iteration > 0 and iteration % 4 == 0 for iteration in done)  # of whole epochs
    assert not list(tmp_path.glob(".new-*"))


def test_every_training_has_a_run_of_its_own(
    workflow: Callable[..., Any], tracked: Callable[[], list[Run]], tmp_path: Path
) -> None:
    for name in ("first", None):
        workflow("train.json", epochs=1, run_name=name, model_dir=str(tmp_path / f"of {name}")).run()
    first, second = sorted(tracked(), key=lambda run: run.info.start_time)
    assert first.info.run_id != second.info.run_id
    assert first.info.run_name == "first"
    assert {first.info.status, second.info.status} == {"FINISHED"}


def test_an_old_validation_is_not_logged_again(
    workflow: Callable[..., Any], tracked: Callable[[], list[Run]], tracking_uri: str
) -> None:
    workflow("train.json", epochs=3, val_interval=2).run()
    (run,) = tracked()
    assert set(history(tracking_uri, run, "loss")) == {1, 2, 3}
    assert set(history(tracking_uri, run, "val_loss")) == {2}


def test_a_model_from_elsewhere_is_evaluated_all_the_same(
    used: Any, scoring: Callable[..., Any], tracked: Callable[[], list[Run]], tracking_uri: str, tmp_path: Path
) -> None:
    model = shutil.copytree(used.model, tmp_path / "model")
    scoring(model, "evaluate", tracking_uri=tracking_uri, experiment_name=str(tmp_path)).run()
    (run,) = tracked()
    assert run.data.tags["training_run"] == f"PDD {json.loads(used.datalist.read_text())['name']} seed 0"
    assert "mlflow.parentRunId" not in run.data.tags


@pytest.fixture
def model(used: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", used.tracking_uri)
    mlflow.set_tracking_uri(used.tracking_uri)
    return mlflow.pyfunc.load_model(f"models:/{NAME}/1")


@pytest.mark.parametrize("content", [False, True])
def test_the_registered_model_scores_as_the_inference(content: bool, used: Any, model: Any) -> None:
    path = used.inputs / "part.png"
    image = base64.b64encode(path.read_bytes()).decode() if content else str(path)
    answer = model.predict(pd.DataFrame({"image": [image]}))
    table = pd.read_csv(used.model / "eval" / "inference" / "scores.csv", index_col="image")
    assert answer["score"][0] == pytest.approx(table.loc[str(path), "score"], rel=1e-5)
    expected = tifffile.imread(used.model / "eval" / "inference" / table.loc[str(path), "map"])
    np.testing.assert_allclose(np.array(answer["anomaly_map"][0]), expected, rtol=1e-4)


@pytest.mark.parametrize("image", ["no/such/file.png", "x" * 300 + "!"])
def test_the_registered_model_refuses_what_is_no_image(image: str, model: Any) -> None:
    with pytest.raises(ValueError, match="is neither a file on this machine nor base64"):
        model.predict(pd.DataFrame({"image": [image]}))


def test_the_registered_model_takes_its_own_example(model: Any) -> None:
    answer = model.predict(model.input_example)
    assert np.array(answer["anomaly_map"][0]).shape == (8, 8)


def test_the_registered_model_names_all_that_it_imports(model: Any) -> None:
    distributions = packages_distributions()
    imported, waiting, seen = set(), [ROOT / "scripts" / "tracking" / "served_model.py"], set()
    waiting += [ROOT / "scripts" / package / "__init__.py" for package in ("transforms", "networks")]  # by its config
    while waiting:
        file = waiting.pop()
        seen.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in names:
                module = ROOT / name.replace(".", "/")
                files = {module.with_suffix(".py"), module / "__init__.py"} if name.startswith("scripts.") else set()
                waiting += [found for found in files - seen if found.is_file()]
                imported.add(name.split(".")[0])
    requirements = Path(mlflow.pyfunc.get_model_dependencies(f"models:/{NAME}/1")).read_text()
    listed = {line.split("==")[0].lower() for line in requirements.splitlines()}
    third_party = imported - set(sys.stdlib_module_names) - {"scripts", "mamba_ssm"}
    missing = {name for name in third_party if not {d.lower() for d in distributions.get(name, [name])} & listed}
    assert not missing


def test_mlflow_predicts_from_the_command_line(used: Any, tmp_path: Path) -> None:
    path = used.inputs / "whole.png"
    images = [[str(path)], [base64.b64encode(path.read_bytes()).decode()]]
    (tmp_path / "input.json").write_text(json.dumps({"dataframe_split": {"columns": ["image"], "data": images}}))
    command = [sys.executable, "-m", "mlflow", "models", "predict", "--env-manager", "local", "-m", f"models:/{NAME}/1"]
    command += ["-i", "input.json", "-t", "json", "-o", "output.json"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": used.tracking_uri, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)  # the model brings its code
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, stdout=-1, stderr=-2, check=False)
    assert done.returncode == 0, done.stdout
    answers = json.loads((tmp_path / "output.json").read_text())["predictions"]
    score = pd.read_csv(used.model / "eval" / "inference" / "scores.csv", index_col="image").loc[str(path), "score"]
    assert [answer["score"] for answer in answers] == pytest.approx([score, score], rel=1e-5)
    assert np.array(answers[0]["anomaly_map"]).shape == (64, 64)


def test_nothing_warns_of_what_is_meant(used: Any) -> None:
    unwanted = ("TracerWarning", "FutureWarning", "CloudPickle", "input example was not", "Failed to log")
    assert not [text for text in unwanted if text in used.printed["training"]]
    assert "transform info of" not in used.printed["infer"]
