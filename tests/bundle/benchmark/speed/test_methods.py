"""Measured methods are those of the configs, except for weights and handlers that write files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bundle.benchmark.speed.methods import METHODS, Method, made_up_images, method_config
from bundle.benchmark.speed.networks import _cached_epoch, _first_epoch
from bundle.benchmark.speed.settings import images_a_call

CONFIGS = Path(__file__).parents[4] / "configs"


@pytest.mark.parametrize(("name", "overlay"), [("PDD", None), ("RD4AD", "methods/rd4ad.json")])
def test_networks_losses_and_optimizers_are_those_of_the_configs_with_untrained_teachers(
    name: str, overlay: str | None
) -> None:
    expected: dict[str, Any] = json.loads((CONFIGS / "train.json").read_text())
    if overlay is not None:
        expected |= json.loads((CONFIGS / overlay).read_text())
    config = method_config(name, "cpu")
    for part in ("loss", "optimizer", "learning_rate", "feature_cache", "lr_scheduler"):
        assert config[part] == expected[part]
    for part, value in expected["network_def"].items():
        if part.endswith("teacher"):
            value["weights"] = "untrained"
        assert config["network_def"][part] == value
    assert config["train"]["handlers"] == []
    assert config["train"]["inferer"] == expected["train"]["inferer"]


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    return Method(request.param, "cpu", 64, quick=True)


@pytest.fixture
def seen(method: Method, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of every batch that goes through the teachers."""
    batches: list[int] = []
    teacher = method.network.teachers[0]
    forward = teacher.forward

    def counting(image: torch.Tensor) -> list[torch.Tensor]:
        batches.append(len(image))
        return forward(image)

    monkeypatch.setattr(teacher, "forward", counting)
    return batches


def test_an_epoch_sees_every_image_once_and_keeps_its_features(method: Method, seen: list[int]) -> None:
    trainer = method.trainer(images=6, batch_size=2, amp=False)
    weights = [parameter.clone() for parameter in method.network.parameters() if parameter.requires_grad]
    for _ in range(2):
        trainer.run()
        assert (trainer.state.epoch, trainer.state.iteration) == (1, 3)
        assert trainer.state.output["batch_size"] == 2
    assert sum(seen) == 6
    trained = [parameter for parameter in method.network.parameters() if parameter.requires_grad]
    assert any(not torch.equal(before, after) for before, after in zip(weights, trained, strict=True))


def test_trainers_of_one_method_share_its_weights_and_not_their_caches(method: Method, seen: list[int]) -> None:
    one, other = (method.trainer(images=2, batch_size=1, amp=amp) for amp in (False, True))
    assert one.network is other.network
    assert one.optimizer is other.optimizer
    assert (one.inferer.amp, other.inferer.amp) == (False, True)
    one.run()
    other.run()
    assert sum(seen) == 4


def test_a_first_epoch_always_runs_the_teachers_and_a_cached_one_never(method: Method, seen: list[int]) -> None:
    first, cached = _first_epoch(lambda: method, 2, False), _cached_epoch(lambda: method, 2, False)
    images = images_a_call(2)
    assert sum(seen) == images  # of the epoch that fills the cache
    for calls in (1, 2):
        assert cached() > 0
        assert first() > 0
        assert sum(seen) == images * (1 + calls)


def test_inference_gives_the_networks_anomaly_maps(method: Method) -> None:
    images = torch.stack([image.as_tensor() for image in made_up_images(2, 64)])
    with torch.no_grad():
        expected = method.network.eval()(images)
    method.network.train()
    torch.testing.assert_close(method.inference(2, amp=False)(), expected)
    assert expected.shape == (2, 1, 64, 64)
