"""RD4AD and SCRD4AD: equal to anomalib's ReverseDistillation, shapes for many teachers, weights of the levels."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scripts.anomaly_map import anomaly_score
from scripts.losses import RD4ADLoss, SCRD4ADLoss
from scripts.networks import RD4AD, SCRD4AD, Teacher, teachers
from scripts.networks.rd4ad import ReverseDistiller

# Values of anomalib 2.7.0's ReverseDistillation in float64, for weights and an image made by ``hashed``.
GOLDEN = json.loads((Path(__file__).parent / "golden" / "reverse_distillation.json").read_text())
BACKBONES = {
    "resnet18": {"block": "basic", "decoder_blocks": 2, "embedding_blocks": 2},
    "wide_resnet50_2": {"block": "bottleneck", "decoder_blocks": (6, 4, 3), "embedding_blocks": 3},
}
RENAMED = (
    (r"distiller\.bottleneck\.fusion\.0\.0\.0\.", "bottleneck.#1."),
    (r"distiller\.bottleneck\.fusion\.0\.1\.0\.", "bottleneck.#2."),
    (r"distiller\.bottleneck\.fusion\.1\.0\.0\.", "bottleneck.#3."),
    (r"distiller\.bottleneck\.embedding\.", "bottleneck.bn_layer."),
    (r"distiller\.student\.levels\.0\.", "decoder.layer1."),
    (r"distiller\.student\.levels\.1\.", "decoder.layer2."),
    (r"distiller\.student\.levels\.2\.", "decoder.layer3."),
    (r"teachers\.0\.backbone\.", "teacher."),
)
UPWARD = {
    "bottleneck": {"0.0": "conv1", "0.1": "bn1", "2": "conv2", "3": "bn2", "5.0": "conv3", "5.1": "bn3"},
    "basic": {"0": "conv1", "1": "bn1", "3.0": "conv2", "3.1": "bn2"},
}


def anomalibs_name(key: str, block: str) -> str:
    for ours, theirs in RENAMED:
        key = re.sub(ours, theirs, key)
    key = re.sub(r"#(\d)\.0\.", r"conv\1.", key)
    key = re.sub(r"#(\d)\.1\.", r"bn\1.", key)
    key = key.replace("shortcut.", "upsample." if key.startswith("decoder") else "downsample.")
    if found := re.match(r"(.*)body\.(\d(?:\.\d)?)\.(\w+)$", key):
        start, place, name = found.groups()
        if start.startswith("decoder"):
            return f"{start}{UPWARD[block][place]}.{name}"
        number, kind = place.split(".")
        return f"{start}{'bn' if kind == '1' else 'conv'}{int(number) // 2 + 1}.{name}"
    return key


def golden_weight(hashed: Callable, key: str, shape: list[int]) -> Tensor:
    h, name = hashed(key, shape), key.split(".")[-1]
    if name == "num_batches_tracked":
        return torch.tensor(0)
    if len(shape) > 1:
        value = 1.5 * h * math.sqrt(3 / math.prod(shape[1:]))
    else:
        value = 1 + 0.2 * h if name in ("weight", "running_var") else 0.1 * h
    return torch.from_numpy(value).float()


def assert_equals(tensor: Tensor, golden: dict[str, Any], among: np.ndarray | None = None) -> None:
    assert list(tensor.shape) == golden["shape"]
    error = (tensor.flatten()[golden["index"]] - torch.tensor(golden["value"], dtype=tensor.dtype)).abs().numpy()
    kept = error if among is None else error[among]
    assert kept.size
    assert kept.max() < 1e-4 * golden["std"]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_equals_anomalib_with_the_same_weights(
    backbone: str, hashed: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden, arguments = GOLDEN[backbone], BACKBONES[backbone]
    fold = teachers.folded
    monkeypatch.setattr(teachers, "folded", lambda backbone: backbone)  # until it has the golden weights
    network = RD4AD(Teacher(backbone, "untrained", levels=(1, 2, 3)), **arguments).eval()  # type: ignore[arg-type]
    entries = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    entries = {
        key: value for key, value in entries.items() if not re.search(r"mean$|std$|kernel$", key) or "run" in key
    }
    names = {key: anomalibs_name(key, str(arguments["block"])) for key in entries}
    unused = {key for key in golden["keys"] if re.match(r"bottleneck\.(conv4|bn4)", key)}
    assert set(names.values()) == set(golden["keys"]) - unused
    with torch.no_grad():
        for key, value in entries.items():
            value.copy_(golden_weight(hashed, names[key], golden["keys"][names[key]]))
    network.teachers[0].backbone = fold(network.teachers[0].backbone)  # type: ignore[arg-type]
    network.double()
    image = torch.from_numpy(hashed("image", (2, 3, 96, 64)) * 0.5 + 0.5).float().double()
    teacher: Any = network.teachers[0]
    image = image * teacher.std + teacher.mean  # anomalib's was fed as it is, ours normalises
    raw = []
    network.anomaly_map.smooth = lambda x: raw.append(x) or type(network.anomaly_map).smooth(network.anomaly_map, x)  # type: ignore[method-assign, func-returns-value]
    with torch.no_grad():
        targets, (student,), *_ = network.distill(network.features(image))
        embedding = network.distiller.bottleneck(targets)
        blurred = network(image)
        loss, _ = RD4ADLoss()(network.distill(network.features(image)))
    for ours, theirs in zip(
        [*targets, embedding, *student], [*golden["teacher"], golden["bottleneck"], *golden["decoder"]], strict=True
    ):
        assert_equals(ours, theirs)
    assert loss.item() == pytest.approx(golden["loss"], rel=1e-4)
    assert_equals(raw[0].double(), golden["anomaly_map_before_blur"])
    # At the edges anomalib mirrors about the outermost pixel, and we, as scipy and RD4AD, about its outer edge.
    inside = np.array(golden["anomaly_map"]["inside"], dtype=bool)
    assert_equals(blurred.double(), golden["anomaly_map"], inside)


def small(kind: type = RD4AD, **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(Teacher("resnet18", "untrained", levels=(1, 2, 3), options={"zero_init_last": False}), **options)


def test_the_papers_networks_have_the_papers_shapes() -> None:
    """Section 3: levels 256@64, 512@32, 1024@16, fused to 3072@16, embedded as 2048@8."""
    distiller = ReverseDistiller([256, 512, 1024], [4, 8, 16]).eval()
    levels = [torch.rand(1, c, s, s) for c, s in [(256, 64), (512, 32), (1024, 16)]]
    with torch.no_grad():
        assert distiller.bottleneck(levels).shape == (1, 2048, 8, 8)
        targets, (student,), *_ = distiller([levels])
    assert targets is levels
    assert [level.shape for level in student] == [level.shape for level in levels]
    assert distiller.bottleneck.embedding[0].body[0][0].in_channels == 3072
    assert [len(level) for level in distiller.student.levels] == [3, 4, 6]  # deep to shallow


@pytest.mark.parametrize("kind", [RD4AD, SCRD4AD])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize(
    "teacher",
    [
        {"name": "resnet18", "levels": (1, 2, 3)},
        {"name": "convnext_atto", "levels": (0, 1)},
        {"name": "vmamba_pico", "levels": (0, 1, 2)},
    ],
)
def test_channels_and_strides_follow_from_the_teacher(kind: Any, block: str, teacher: dict[str, Any]) -> None:
    network = kind(Teacher(**teacher, weights="untrained"), block=block, decoder_blocks=1, embedding_blocks=1)
    image = torch.rand(2, 3, 64, 128)
    distillation = network.train()(image)
    assert [s.shape for s in distillation.students[0]] == [t.shape for t in distillation.targets]
    with torch.no_grad():
        assert network.eval()(image).shape == (2, 1, 64, 128)


def test_a_side_not_divisible_by_the_embeddings_stride_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(64, 80\); both sides must be divisible by 32"):
        small()(torch.rand(1, 3, 64, 80))


def test_a_teacher_of_one_level_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two levels"):
        RD4AD(Teacher("resnet18", "untrained", levels=(1,)))


def test_as_many_blocks_as_levels_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"3 levels, but blocks are given for 2"):
        small(decoder_blocks=(1, 2))


@pytest.mark.parametrize("kind", [RD4AD, SCRD4AD])
def test_maps_and_scores_do_not_depend_on_the_batch(kind: Any) -> None:
    network = small(kind).eval()
    images = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=0, atol=2e-6)
    torch.testing.assert_close(anomaly_score(alone, "mean"), anomaly_score(together, "mean"), rtol=0, atol=2e-6)


def contrastive_loss(network: Any, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    anomalous = images.clone()
    anomalous[:, :, 10:30, 10:30] += 0.5 * torch.rand(len(images), 1, 20, 20)
    distillation = network(images)._replace(anomalous=network.anomalous_targets(anomalous))
    return SCRD4ADLoss()(distillation)


def test_the_level_weights_get_a_gradient() -> None:
    network = small(SCRD4AD)
    total, _ = contrastive_loss(network, torch.rand(4, 3, 64, 64))
    total.backward()
    assert network.distiller.scale_head.weight.grad.abs().max() > 1e-6
    assert network.distiller.scale_head.bias.grad.abs().max() > 1e-6
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)  # none is left over for DDP


@pytest.mark.parametrize("floor", [0.0, 0.3, 1.0])
def test_no_level_loses_more_weight_than_the_floor_allows(floor: float) -> None:
    """Driven to the extreme, as the loss would drive them, the weights stop at floor / 3; without a floor at 0."""
    network = small(SCRD4AD, scale_floor=floor)
    torch.nn.init.constant_(network.distiller.scale_head.weight, 0.0)
    network.distiller.scale_head.bias.data = torch.tensor([100.0, 0.0, -100.0])
    weights = network(torch.rand(2, 3, 64, 64)).level_weights
    low = floor / 3
    torch.testing.assert_close(weights, torch.tensor([[1 - 2 * low, low, low]] * 2))


def test_weights_alone_lower_the_loss_and_stay_above_the_floor() -> None:
    network, images = small(SCRD4AD), torch.rand(4, 3, 64, 64)
    head = network.distiller.scale_head
    optimizer = torch.optim.Adam(head.parameters(), lr=0.3)
    losses = []
    for _ in range(15):
        torch.manual_seed(1)  # the same anomalies each time
        total, parts = contrastive_loss(network, images)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < losses[0]
    assert min(parts[f"weight{i}"].item() for i in (1, 2, 3)) >= 0.1 - 1e-6


def test_a_floor_outside_of_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scale_floor must be in \[0, 1\], got 1.5"):
        small(SCRD4AD, scale_floor=1.5)
