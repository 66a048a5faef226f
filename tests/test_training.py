"""Training by configs/train.json: losses, schedule, repeatability, precision, early stop, and what stops it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from ignite.engine import Events
from mlflow.entities import Run
from monai.bundle import ConfigWorkflow
from torch import Tensor

Workflow = Callable[..., ConfigWorkflow]

pytestmark = pytest.mark.parametrize("method", ["pdd", "rd4ad", "scrd4ad"], indirect=True)
PARTS = {
    "pdd": ("kr", "prp", "div"),
    "rd4ad": ("level1", "level2", "level3"),
    "scrd4ad": ("pull", "push", "weight1", "weight2", "weight3"),
}


def part(workflow: ConfigWorkflow, name: str) -> Any:
    return workflow.parser.get_parsed_content(name)


def weights(path: Path) -> dict[str, Tensor]:
    return torch.load(path / "models" / "model.pt", weights_only=True)["model"]


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def each_epoch(workflow: ConfigWorkflow, value: Callable[[Any], Any]) -> list[Any]:
    """What ``value(trainer)`` gives at the end of every epoch, once the training has run."""
    values: list[Any] = []
    trainer = part(workflow, "train#trainer")
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: values.append(value(trainer)))
    return values


def only_run(tracking_uri: str, tmp_path: Path) -> Run:
    client = mlflow.MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name(str(tmp_path))
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(workflow: Workflow, tmp_path: Path) -> None:
    for name, seed in (("first", 3), ("same", 3), ("other", 4)):
        workflow("train.json", seed=seed, model_dir=str(tmp_path / name)).run()
    assert same(weights(tmp_path / "first"), weights(tmp_path / "same"))
    assert not same(weights(tmp_path / "first"), weights(tmp_path / "other"))


def test_training_lowers_the_loss_and_tracks_it(
    workflow: Workflow, tracking_uri: str, tmp_path: Path, method: str
) -> None:
    training = workflow("train.json", epochs=3)
    losses = each_epoch(training, lambda trainer: trainer.state.metrics["loss"])
    training.run()
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    run = only_run(tracking_uri, tmp_path)
    assert run.info.status == "FINISHED"
    history = mlflow.MlflowClient(tracking_uri).get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == list(enumerate(losses, start=1))
    parts = {f"loss_{name}" for name in PARTS[method]}
    assert parts | {"val_loss", "learning_rate", "images_per_second"} <= run.data.metrics.keys()


def test_an_epoch_shuffles_all_images_anew(workflow: Workflow) -> None:
    training = workflow("train.json", batch_size=5)
    trainer, seen = part(training, "train#trainer"), []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: seen.extend(trainer.state.batch["image"].meta["filename_or_obj"])
    )
    training.run()
    first, second = seen[:16], seen[16:]
    assert len(set(first)) == 16
    assert set(first) == set(second)
    assert first != second


def test_the_mean_loss_of_an_epoch_weighs_a_smaller_last_batch_by_its_images(workflow: Workflow, method: str) -> None:
    training = workflow("train.json", epochs=1, batch_size=5)
    trainer, outputs = part(training, "train#trainer"), []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: outputs.append(trainer.state.output))
    training.run()
    assert [output["batch_size"] for output in outputs] == [5, 5, 5, 1]
    for name in PARTS[method]:
        *full, last = (output["parts"][name] for output in outputs)
        assert trainer.state.metrics[f"loss_{name}"] == pytest.approx((5 * sum(full) + last) / 16)
    *full, last = (output["loss"] for output in outputs)
    assert trainer.state.metrics["loss"] == pytest.approx((5 * sum(full) + last) / 16)
    if method != "pdd":
        return
    parts = trainer.state.metrics
    weighted = 0.02 * parts["loss_kr"] + 1.0 * parts["loss_prp"] + 0.5 * parts["loss_div"]
    assert parts["loss"] == pytest.approx(weighted, rel=1e-5)


def test_validation_leaves_weights_and_batch_statistics_alone(workflow: Workflow) -> None:
    training = workflow("train.json")
    network, evaluator = part(training, "network_def"), part(training, "validate#evaluator")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    evaluator.run()
    assert same(before, network.state_dict())
    assert not network.training
    assert not any(parameter.grad is not None for parameter in network.parameters())
    items = list(part(training, "validate#dataset"))
    with torch.no_grad():
        distillation = network.distill(network.features(torch.stack([item["image"] for item in items]).as_tensor()))
        if "anomalous" in items[0]:  # the same in each epoch of validation
            anomalous = torch.stack([item["anomalous"] for item in items]).as_tensor()
            distillation = distillation._replace(anomalous=network.anomalous_targets(anomalous))
        loss, _ = part(training, "loss")(distillation)
    assert evaluator.state.metrics["val_loss"] == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize(("epochs", "period"), [(4, None), (5, 2)], ids=["to zero", "climbs again"])
def test_the_learning_rate_follows_a_cosine(
    workflow: Workflow, tracking_uri: str, tmp_path: Path, epochs: int, period: int | None
) -> None:
    overrides = {} if period is None else {"lr_scheduler#T_max": period}
    training = workflow("train.json", epochs=epochs, learning_rate=0.01, val_interval=epochs, **overrides)
    group = part(training, "optimizer").param_groups[0]
    trainer, rates = part(training, "train#trainer"), []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: rates.append(group["lr"]))
    training.run()
    cosine = [0.005 * (1 + math.cos(math.pi * epoch / (period or epochs))) for epoch in range(epochs + 1)]
    assert [*rates, group["lr"]] == pytest.approx(cosine, abs=1e-12)
    if period is None:
        assert group["lr"] == pytest.approx(0, abs=1e-12)
    run = only_run(tracking_uri, tmp_path)
    history = mlflow.MlflowClient(tracking_uri).get_metric_history(run.info.run_id, "learning_rate")
    assert [point.value for point in history] == pytest.approx(rates, abs=1e-12)


def rising_validation_loss(workflow: ConfigWorkflow) -> None:
    """The validation loss is its epoch, so that the first is the best."""
    evaluator = part(workflow, "validate#evaluator")

    @evaluator.on(Events.ITERATION_COMPLETED)
    def rise() -> None:
        evaluator.state.output = {"loss": float(evaluator.state.epoch), "parts": {}, "batch_size": 1}


def move_to_front(workflow: ConfigWorkflow) -> None:
    """Puts the newest handler before the metrics, which would not see what it does otherwise."""
    handlers = part(workflow, "validate#evaluator")._event_handlers[Events.ITERATION_COMPLETED]
    handlers.insert(0, handlers.pop())


def test_all_epochs_run_unless_early_stop_is_asked_for(workflow: Workflow) -> None:
    training = workflow("train.json", epochs=4)
    rising_validation_loss(training)
    move_to_front(training)
    training.run()
    assert part(training, "train#trainer").state.epoch == 4


def test_early_stop_ends_a_complete_training(workflow: Workflow, tracking_uri: str, tmp_path: Path) -> None:
    training = workflow("train.json", epochs=6, early_stop_patience=2)
    rising_validation_loss(training)
    move_to_front(training)
    training.run()
    assert part(training, "train#trainer").state.epoch == 3
    assert torch.load(tmp_path / "model/models/model.pt", weights_only=True)["trainer"]["epoch_length"] == 4
    assert only_run(tracking_uri, tmp_path).info.status == "FINISHED"


def test_a_resumed_training_remembers_how_long_it_waits_for_improvement(workflow: Workflow) -> None:
    for resume, epochs in ((False, 2), (True, 6)):
        training = workflow("train.json", epochs=epochs, early_stop_patience=3, resume=resume)
        rising_validation_loss(training)
        move_to_front(training)
        training.run()
    assert part(training, "train#trainer").state.epoch == 4


def test_early_stop_without_validation_images_is_refused(
    workflow: Workflow, tiny_dataset: Path, tmp_path: Path, raises_because: Callable[..., Any]
) -> None:
    datalist = json.loads(tiny_dataset.read_text()) | {"dataset_dir": str(tiny_dataset.parent / "images")}
    (tmp_path / "datalist.json").write_text(json.dumps(datalist | {"validation": []}))
    overrides: dict[str, Any] = {"datalist": str(tmp_path / "datalist.json"), "epochs": 1}
    workflow("train.json", **overrides).run()
    assert (tmp_path / "model/models/model.pt").is_file()
    with raises_because(ValueError, "early_stop_patience needs validation images", "--validation-fraction"):
        workflow("train.json", **overrides, early_stop_patience=1, model_dir=str(tmp_path / "other")).run()


def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(
    workflow: Workflow, tracking_uri: str, tmp_path: Path
) -> None:
    training = workflow("train.json", epochs=3)
    trainer, network = part(training, "train#trainer"), part(training, "network_def")
    compute, at_hand = trainer.loss_function, {}

    def break_down(distillation: Any) -> Any:
        loss, parts = compute(distillation)
        if trainer.state.iteration == 6:
            at_hand.update({name: value.clone() for name, value in network.named_parameters()})
            loss = loss * math.nan
        return loss, parts

    trainer.loss_function = break_down
    with pytest.raises(FloatingPointError) as caught:
        trainer.run()
    names = trainer.state.batch["image"].meta["filename_or_obj"]
    assert len(names) == 4
    assert all(name in str(caught.value) for name in names)
    assert "epoch 2, iteration 6" in str(caught.value)
    assert at_hand
    assert same(at_hand, dict(network.named_parameters()))
    assert torch.load(tmp_path / "model/models/last.pt", weights_only=True)["trainer"]["iteration"] == 4
    assert torch.load(tmp_path / "model/models/model.pt", weights_only=True)["trainer"]["iteration"] == 4
    run = only_run(tracking_uri, tmp_path)
    assert run.info.status == "FAILED"
    assert run.data.tags["error"].startswith("FloatingPointError")


def test_a_learning_rate_that_blows_up_the_weights_stops_the_training(
    workflow: Workflow, raises_because: Callable[..., Any]
) -> None:
    with raises_because(FloatingPointError, "lower the learning rate"):
        workflow("train.json", learning_rate=1e38).run()


def test_amp_computes_in_bfloat16_and_keeps_float32(workflow: Workflow, tmp_path: Path) -> None:
    losses, types = {}, {}
    for amp in (False, True):
        training = workflow("train.json", amp=amp, image_size=32, epochs=1, model_dir=str(tmp_path / f"{amp}"))
        part(training, "network_def").distiller.register_forward_hook(
            lambda _module, inputs, output, amp=amp: types.update(
                {amp: {inputs[0][0][0].dtype, *(feature.dtype for feature in output.students[0])}}
            )
        )
        losses[amp] = each_epoch(training, lambda trainer: trainer.state.metrics["loss"])
        training.run()
    assert types[False] == {torch.float32}
    assert torch.bfloat16 in types[True]
    assert all(map(math.isfinite, losses[True]))
    assert losses[True] == pytest.approx(losses[False], rel=0.05)
    floats = {value.dtype for value in weights(tmp_path / "True").values() if value.is_floating_point()}
    assert floats == {torch.float32}
