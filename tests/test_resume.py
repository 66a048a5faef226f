"""A training that was killed goes on as if nothing had happened, or says why it cannot."""

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from monai.bundle import ConfigWorkflow

from scripts.errors import cause_of
from scripts.model import new_folder
from scripts.networks.scaling import FeatureScaling

EPOCHS, ITERATIONS = 3, 4

Because = Callable[..., Any]
Workflow = Callable[..., ConfigWorkflow]


@pytest.mark.parametrize("method", ["pdd", "rd4ad", "scrd4ad"], indirect=True)
def test_a_training_killed_at_any_step_and_resumed_gives_the_unbroken_ones_weights(
    run_command: Callable[..., Any], tiny_overlay: Path, tmp_path: Path, tracking_uri: str
) -> None:
    settings = json.loads(tiny_overlay.read_text()) | {"epochs": EPOCHS}
    tiny_overlay.write_text(json.dumps(settings))
    whole = run_command("training", "train.json", "--model_dir", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stdout

    step = random.Random(11).randrange(ITERATIONS + 1, EPOCHS * ITERATIONS)
    kill = f"ignite.engine.Events.ITERATION_COMPLETED(once={step}), lambda: os.kill(os.getpid(), signal.SIGKILL)"
    config = json.loads((Path(__file__).parents[1] / "configs/train.json").read_text())
    killing = {
        "imports": [*config["imports"], "$import signal", "$import ignite"],
        "run": [f"$@train#trainer.add_event_handler({kill})", *config["run"]],
        "experiment_name": f"{tmp_path} killed",
    }
    tiny_overlay.write_text(json.dumps(settings | killing))
    killed = run_command("training", "train.json")
    assert killed.returncode == -9, killed.stdout
    for name in ("model.pt", "last.pt"):  # a whole folder, of the latest epoch that was complete
        done = torch.load(tmp_path / "model/models" / name, weights_only=True)["trainer"]["iteration"]
        assert done == (step - 1) // ITERATIONS * ITERATIONS

    tiny_overlay.write_text(json.dumps(settings | {"experiment_name": f"{tmp_path} killed"}))
    resumed = run_command("training", "train.json", "--resume", "True")
    assert resumed.returncode == 0, resumed.stdout
    first = torch.load(tmp_path / "whole/models/model.pt", weights_only=True)["model"]
    second = torch.load(tmp_path / "model/models/model.pt", weights_only=True)["model"]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)

    client = mlflow.MlflowClient(tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name(f"{tmp_path} killed").experiment_id])
    assert run.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3]


def test_a_folder_that_a_training_goes_on_in_is_refused_by_name_and_free_after_a_kill(
    command: Callable[..., list[str]],
    workflow: Workflow,
    tiny_overlay: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = 10_000
    tiny_overlay.write_text(json.dumps(json.loads(tiny_overlay.read_text()) | {"epochs": many}))
    words, last = command("training", "train.json"), tmp_path / "model" / "models" / "last.pt"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, cwd=Path(__file__).parents[1], env=environment, stdout=-3, stderr=-3) as process:
        deadline = time.monotonic() + 120
        while not (last.parents[1] / ".lock").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        monkeypatch.setattr(new_folder, "PATIENCE_S", 0.0)
        try:
            with pytest.raises(RuntimeError) as refused:
                workflow("train.json", epochs=many, resume=True).run()
            assert process.poll() is None
        finally:
            process.kill()
    monkeypatch.undo()
    assert str(cause_of(refused.value)) == (
        f"Another training goes on in {tmp_path / 'model'}: wait for its end, or train into another --model_dir "
        "without --resume."
    )
    done = torch.load(last, weights_only=True)["trainer"]["iteration"] // ITERATIONS
    workflow("train.json", epochs=done + 1, resume=True).run()
    assert torch.load(last, weights_only=True)["trainer"]["iteration"] == (done + 1) * ITERATIONS
    assert not (tmp_path / "model" / ".lock").exists()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained") / "model"


@pytest.fixture
def trained(workflow: Workflow, kept: Path, tmp_path: Path) -> Workflow:
    """As ``workflow``, beside the model folder of two epochs."""
    if kept.exists():
        shutil.copytree(kept, tmp_path / "model")
    else:
        workflow("train.json").run()
        shutil.copytree(tmp_path / "model", kept)
    return workflow


def test_resuming_without_a_checkpoint_names_what_is_missing(
    workflow: Workflow, tmp_path: Path, raises_because: Because
) -> None:
    with raises_because(FileNotFoundError, str(tmp_path / "model/models/last.pt"), "--model_dir"):
        workflow("train.json", resume=True).run()


def test_resuming_from_a_truncated_checkpoint_names_it(
    trained: Workflow, tmp_path: Path, raises_because: Because
) -> None:
    path = tmp_path / "model/models/last.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    with raises_because(ValueError, str(path), "damaged"):
        trained("train.json", resume=True).run()


@pytest.mark.parametrize(
    ("overrides", "texts"),
    [
        ({"network_def#local_teacher#seed": 1}, ["test_resnet", "sha256", "same teachers"]),
        ({"network_def#global_teacher#name": "test_convnext"}, ["vmamba_pico", "test_convnext"]),
        ({"image_size": 32}, ["image_size 64, now 32"]),
        ({"intensity#intensity_range": None}, ["intensity_range [0, 4095], now None"]),
        ({"batch_size": 8}, ["4 iterations, these have 2", "batch size"]),
        ({"epochs": 1}, ["2 epochs behind it, 1 were asked for"]),
    ],
    ids=lambda value: next(iter(value)).split("#", 1)[-1] if isinstance(value, dict) else "",
)
def test_resuming_with_other_settings_names_checkpoint_and_setting(
    trained: Workflow, tmp_path: Path, raises_because: Because, overrides: dict[str, Any], texts: list[str]
) -> None:
    with raises_because(ValueError, str(tmp_path / "model/models"), *texts):
        trained("train.json", **({"epochs": 4, "resume": True} | overrides)).run()


def test_a_resumed_training_keeps_the_scaling_of_its_checkpoint_without_another_pass(
    workflow: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed: list[int] = []
    observe = FeatureScaling.observe

    def counted(self: FeatureScaling, features: list[list[torch.Tensor]]) -> None:
        observed.append(len(features[0][0]))
        observe(self, features)

    monkeypatch.setattr(FeatureScaling, "observe", counted)
    whitened = {"network_def#scaling": "whiten"}
    workflow("train.json", model_dir=str(tmp_path / "whole"), epochs=3, **whitened).run()
    assert observed == [4] * ITERATIONS
    workflow("train.json", epochs=1, **whitened).run()
    path = tmp_path / "model/models/last.pt"
    checkpoint = torch.load(path, weights_only=True)
    scale = next(name for name in checkpoint["model"] if name.startswith("scaling.") and name.endswith("bias"))
    assert checkpoint["model"][scale].abs().max() > 0
    observed.clear()
    workflow("train.json", epochs=3, resume=True, **whitened).run()
    assert observed == []
    resumed = torch.load(path, weights_only=True)["model"]
    torch.testing.assert_close(resumed[scale], checkpoint["model"][scale], rtol=0, atol=0)
    whole = torch.load(tmp_path / "whole/models/last.pt", weights_only=True)["model"]
    torch.testing.assert_close(resumed[scale], whole[scale], rtol=0, atol=0)


def test_a_training_that_was_killed_after_its_last_epoch_still_gives_its_model(
    trained: Workflow, tmp_path: Path
) -> None:
    model = tmp_path / "model/models/model.pt"
    expected = torch.load(model, weights_only=True)["model"]
    model.unlink()
    trained("train.json", resume=True).run()
    restored = torch.load(model, weights_only=True)["model"]
    assert all(torch.equal(value, restored[name]) for name, value in expected.items())
