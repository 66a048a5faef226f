"""Two processes with batch b train as one with batch 2b; run on the CPU, by gloo."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import mse_loss

from scripts.distributed import CPUSyncBatchNorm2d, data_parallel
from scripts.networks import PDD, Teacher

LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def history(tracking_uri: str, experiment: str) -> dict[str, list[float]]:
    """Metrics by epoch of the only run of an experiment, which must be finished."""
    import mlflow  # not above, where the processes spawned below would spend seconds on it

    client = mlflow.MlflowClient(tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert run.info.status == "FINISHED"
    names = [name for name in run.data.metrics if "loss" in name]
    return {name: [point.value for point in client.get_metric_history(run.info.run_id, name)] for name in names}


# Not SCRD4AD: each process takes the ratio of its own images, see its loss.
@pytest.mark.parametrize("method", ["pdd", "rd4ad"], indirect=True)
def test_two_processes_train_as_one_with_twice_the_batch(
    run_command: Callable[..., Any], workflow: Callable[..., Any], tiny_overlay: Path, tmp_path: Path, tracking_uri: str
) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    # One image is left for validation: the second process has none, and must wait for the first all the same.
    datalist = json.loads(Path(json.loads(tiny_overlay.read_text())["datalist"]).read_text())
    source = Path(json.loads(tiny_overlay.read_text())["datalist"]).parent / datalist["dataset_dir"]
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps(datalist | {"dataset_dir": str(source), "validation": datalist["validation"][:1]}))
    # Plain gradient descent: Adam's first steps turn the sign of a rounding error into a whole step.
    sgd = {
        "_target_": "torch.optim.SGD",
        "params": "$[p for p in @network.parameters() if p.requires_grad]",
        "lr": "@learning_rate",
    }
    overrides = {
        "datalist": str(path),
        "epochs": 3,
        "early_stop_patience": 3,
        "optimizer": sgd,
        "learning_rate": 0.1,
    }

    workflow("train.json", **overrides, model_dir=str(alone), experiment_name=str(alone), batch_size=8).run()
    settings = overrides | {"model_dir": str(together), "experiment_name": str(together), "batch_size": 4}
    tiny_overlay.write_text(json.dumps(json.loads(tiny_overlay.read_text()) | settings))
    done = run_command("training", "train.json", launcher=LAUNCHER)
    assert done.returncode == 0, done.stdout

    one, two = history(tracking_uri, str(alone)), history(tracking_uri, str(together))
    assert one.keys() == two.keys()
    assert {"loss", "val_loss"} <= one.keys()
    for name in one:
        assert len(two[name]) == 3
        assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-6), name
    assert one["loss"][-1] < one["loss"][0]
    one, two = (torch.load(root / "models/model.pt", weights_only=True)["model"] for root in (alone, together))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-2, atol=1e-3)
    assert sorted(file.name for file in (together / "models").iterdir()) == ["last.pt", "model.pt"]


TYPES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # and the tolerance of each


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    _normalise(rank, folder)
    network = _network()
    _train(network, data_parallel(network, torch.device("cpu")), _images().unflatten(0, (3, 2, -1))[:, rank])
    torch.save(network.state_dict(), f"{folder}/network{rank}.pt")
    dist.destroy_process_group()


def _network() -> PDD:
    torch.manual_seed(1)
    network = PDD(Teacher("test_resnet", "untrained"), Teacher("vmamba_pico", "untrained"))
    network.distiller.double()
    return network


def _images() -> torch.Tensor:
    return torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def _train(network: PDD, wrapped: nn.Module, batches: torch.Tensor) -> None:
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.002)
    for images in batches:
        optimizer.zero_grad()
        wrapped.train()
        singly = [network.features(image[None]) for image in images]
        features = [
            [torch.cat(level).double() for level in zip(*levels, strict=True)] for levels in zip(*singly, strict=True)
        ]
        targets, students, *_ = wrapped(features)
        errors = [mse_loss(s, t) for student in students for s, t in zip(student, targets, strict=True)]
        torch.stack(errors).sum().backward()
        optimizer.step()


def test_double_precision_leaves_no_difference_between_two_processes_and_one(processes: Path) -> None:
    network = _network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    _train(network, network, _images().unflatten(0, (3, -1)))
    for rank in (0, 1):
        trained = torch.load(processes / f"network{rank}.pt", weights_only=True)
        assert trained.keys() == before.keys()
        for name, value in network.state_dict().items():
            torch.testing.assert_close(trained[name], value, rtol=1e-6, atol=1e-8)
    assert not torch.equal(
        trained["distiller.adapters.0.body.0.0.weight"], before["distiller.adapters.0.body.0.0.weight"]
    )


def _normalise(rank: int, folder: str) -> None:
    case = torch.load(f"{folder}/case.pt", weights_only=True)
    results = {}
    for dtype in TYPES:
        norm = CPUSyncBatchNorm2d(5)
        norm.load_state_dict(case["state"])
        images = case["images"].chunk(2)[rank].to(dtype).requires_grad_()
        for _ in range(2):
            out = norm(images)
        (out.float() * case["weights"].chunk(2)[rank]).sum().backward()
        gradients = torch.stack([norm.weight.grad, norm.bias.grad])
        dist.all_reduce(gradients)
        norm.eval()
        evaluated = norm(images)
        results[str(dtype)] = {
            "batches": {"out": out.detach(), "gradient": images.grad, "evaluated": evaluated.detach()},
            "gradients": gradients,
            "state": norm.state_dict(),
        }
    torch.save(results, f"{folder}/result{rank}.pt")


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes left the results of ``_process`` for ``case.pt``."""
    folder = tmp_path_factory.mktemp("processes")
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.uniform_(norm.bias, -1, 1)
    case = {"images": 3 * torch.randn(6, 5, 7, 9) + 2, "weights": torch.randn(6, 5, 7, 9), "state": norm.state_dict()}
    torch.save(case, folder / "case.pt")
    spawn(_process, (str(folder),), nprocs=2)
    return folder


def test_batch_statistics_over_processes_are_those_of_the_whole_batch(processes: Path) -> None:
    case = torch.load(processes / "case.pt", weights_only=True)
    results = [torch.load(processes / f"result{rank}.pt", weights_only=True) for rank in (0, 1)]
    for dtype, tolerance in TYPES.items():
        expected = nn.BatchNorm2d(5)
        expected.load_state_dict(case["state"])
        images = case["images"].to(dtype).float().clone().requires_grad_()
        for _ in range(2):
            out = expected(images)
        (out * case["weights"]).sum().backward()
        expected.eval()
        whole = {"out": out, "gradient": images.grad, "evaluated": expected(images)}
        for name, value in whole.items():
            parts = [result[str(dtype)]["batches"][name] for result in results]
            assert parts[0].dtype == dtype
            torch.testing.assert_close(torch.cat(parts).float(), value, rtol=tolerance, atol=10 * tolerance)
        gradients = torch.stack([expected.weight.grad, expected.bias.grad])
        for result in results:
            torch.testing.assert_close(
                result[str(dtype)]["gradients"], gradients, rtol=10 * tolerance, atol=10 * tolerance
            )
            for name, value in expected.state_dict().items():
                torch.testing.assert_close(result[str(dtype)]["state"][name], value, rtol=1e-5, atol=1e-5)
