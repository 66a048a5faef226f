"""VMamba against golden values of the reference implementation, and its place in timm's registry."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from scripts.networks.vmamba import checkpoint_filter_fn

GOLDEN = json.loads((Path(__file__).parent / "golden" / "vmamba_tiny.json").read_text())
VARIANTS = ("v0", "s2l5", "s1l8")
# The deep stages amplify rounding: moving the image by one float32 epsilon moves stage 3 by 1.2e-4 and stage 4 by 4e-4
# of its standard deviation in float64 (v0), and the golden values are a float32 run. They are no more exact than that.
TOLERANCE = (1e-4, 1e-4, 1e-3, 2e-3)


def golden_weight(hashed: Callable, key: str, shape: list[int]) -> Tensor:
    h, name = hashed(key, shape), key.split(".")[-1]
    if name == "A_logs":
        value = np.log(np.arange(1, shape[-1] + 1)) + 0.3 * h
    elif name == "Ds":
        value = 1 + 0.2 * h
    elif name == "dt_projs_bias":
        value = -3 + 1.5 * h
    elif len(shape) == 1:
        value = 1 + 0.2 * h if name == "weight" else 0.1 * h
    elif name in ("x_proj_weight", "dt_projs_weight"):
        value = 1.5 * h * math.sqrt(3 / shape[-1])
    else:
        value = 1.5 * h * math.sqrt(3 / math.prod(shape[1:]))
    return torch.from_numpy(value).float()


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_golden_values(variant: str, hashed: Callable) -> None:
    golden = GOLDEN[variant]
    model = timm.create_model(f"vmamba_tiny_{variant}").eval()
    weights = {key: golden_weight(hashed, key, shape) for key, shape in golden["keys"].items()}
    model.load_state_dict(weights, strict=True)
    image = torch.from_numpy(hashed("image", [1, 3, 96, 64])).float().double()
    with torch.no_grad():
        features = model.double().forward_intermediates(image, intermediates_only=True)
    assert [list(feature.shape) for feature in features] == [stage["shape"] for stage in golden["stages"]]
    for feature, stage, tolerance in zip(features, golden["stages"], TOLERANCE, strict=True):
        values = feature.flatten()[stage["index"]]
        error = (values - torch.tensor(stage["value"], dtype=torch.float64)).abs().max().item() / stage["std"]
        assert error < tolerance
        assert feature.mean().item() == pytest.approx(stage["mean"], abs=1e-4 * stage["std"])
        assert feature.std().item() == pytest.approx(stage["std"], rel=1e-4)


def test_float32_is_as_near_to_the_golden_values_as_rounding_allows(hashed: Callable) -> None:
    golden = GOLDEN["s1l8"]
    model = timm.create_model("vmamba_tiny_s1l8").eval()
    model.load_state_dict({key: golden_weight(hashed, key, shape) for key, shape in golden["keys"].items()})
    with torch.no_grad():
        features = model.forward_intermediates(
            torch.from_numpy(hashed("image", [1, 3, 96, 64])).float(), intermediates_only=True
        )
    for feature, stage, tolerance in zip(features, golden["stages"], TOLERANCE, strict=True):
        error = (feature.flatten()[stage["index"]] - torch.tensor(stage["value"])).abs().max().item() / stage["std"]
        assert error < tolerance


@pytest.mark.parametrize(("variant", "parameters"), [("v0", 22_893_448), ("s2l5", 30_705_832), ("s1l8", 30_249_064)])
def test_keys_shapes_and_parameters_are_the_released_ones(variant: str, parameters: int) -> None:
    model = timm.create_model(f"vmamba_tiny_{variant}")
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == GOLDEN[variant]["keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_older_names_of_the_v0_release_load_strictly() -> None:
    model = timm.create_model("vmamba_tiny_v0")
    released = {key: torch.full(shape, 0.5) for key, shape in GOLDEN["v0"]["keys_in_released_file"].items()}
    model.load_state_dict(checkpoint_filter_fn(released, model), strict=True)
    assert all(torch.all(value == 0.5) for value in model.state_dict().values())


def test_the_one_file_models_names_and_convolutional_linears_load_strictly() -> None:
    model = timm.create_model("vmamba_tiny_s1l8")
    released = {}
    for key, value in model.state_dict().items():
        key = key.replace("x_proj_weight", "x_proj.weight").replace("dt_projs_weight", "dt_projs.weight")
        if "x_proj.weight" in key or "dt_projs.weight" in key:
            value = value.flatten(0, 1)
        elif key.endswith(("in_proj.weight", "fc1.weight")):
            value = value[:, :, None, None]
        released[key] = value
    model.load_state_dict(checkpoint_filter_fn(released, model), strict=True)


@pytest.mark.parametrize(
    ("name", "channels"), [("vmamba_tiny_v0", [192, 384, 768, 768]), ("vmamba_pico", [32, 64, 128, 128])]
)
def test_features_only_gives_every_stage_after_its_down_sampling(name: str, channels: list[int]) -> None:
    model = timm.create_model(name, features_only=True).eval()
    assert model.feature_info.channels() == channels
    assert model.feature_info.reduction() == [8, 16, 32, 32]
    with torch.no_grad():
        features = model(torch.zeros(1, 3, 64, 32))
    assert [tuple(f.shape) for f in features] == [
        (1, c, 64 // s, 32 // s) for c, s in zip(channels, [8, 16, 32, 32], strict=True)
    ]


def test_out_indices_choose_stages() -> None:
    model = timm.create_model("vmamba_pico", features_only=True, out_indices=(0, 2))
    assert [f.shape[1] for f in model(torch.zeros(1, 3, 32, 32))] == [32, 128]


def test_classifier_has_its_head_only_if_asked_for() -> None:
    assert timm.create_model("vmamba_pico", num_classes=7)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
