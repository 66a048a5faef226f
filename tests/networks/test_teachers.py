"""Teachers: frozen, reproducible, normalised by their own statistics, and loaded from any file that fits."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from scripts.networks import Teacher, teachers
from scripts.networks.downloads import WeightsError


@pytest.fixture
def unfolded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights as they were loaded."""
    monkeypatch.setattr(teachers, "folded", lambda backbone: backbone)


def untrained(name: str, **arguments: object) -> Teacher:
    return Teacher(name, weights="untrained", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "channels", "strides"),
    [
        ("wide_resnet50_2", [256, 512, 1024, 2048], [4, 8, 16, 32]),
        ("resnet18", [64, 128, 256, 512], [4, 8, 16, 32]),
        ("convnext_atto", [40, 80, 160, 320], [4, 8, 16, 32]),
        ("swin_tiny_patch4_window7_224", [96, 192, 384, 768], [4, 8, 16, 32]),  # gives its features channels-last
        ("vit_tiny_patch16_224", [192, 192, 192], [16, 16, 16]),
        ("vmamba_pico", [32, 64, 128, 128], [8, 16, 32, 32]),
    ],
)
def test_features_are_as_channels_and_strides_say(name: str, channels: list[int], strides: list[int]) -> None:
    side = 224 if name.startswith("swin") else 64
    teacher = untrained(name)
    assert teacher.channels == channels
    assert teacher.strides == strides
    shapes = [tuple(feature.shape) for feature in teacher(torch.rand(2, 3, side, side))]
    assert shapes == [(2, c, side // s, side // s) for c, s in zip(channels, strides, strict=True)]


def test_levels_are_chosen_by_timms_indices() -> None:
    teacher = untrained("resnet18", levels=[0, 2])
    assert (teacher.channels, teacher.strides) == ([64, 128], [2, 8])


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "densenet121"])
def test_folding_batch_norms_changes_nothing_but_rounding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def random_statistics(backbone: torch.nn.Module) -> torch.nn.Module:
        g = torch.Generator().manual_seed(0)
        for module in backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=g)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2, generator=g)  # type: ignore[union-attr]
        return backbone

    image, fold = torch.rand(1, 3, 64, 64), teachers.folded
    monkeypatch.setattr(teachers, "folded", random_statistics)
    plain = untrained(name)
    monkeypatch.setattr(teachers, "folded", lambda backbone: fold(random_statistics(backbone)))
    folded = untrained(name)
    assert folded.sha256 == plain.sha256
    if name == "resnet18":
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    for ours, exact in zip(folded.double()(image.double()), plain.double()(image.double()), strict=True):
        assert (ours - exact).abs().max() < 1e-5 * exact.std()


def test_a_levels_hash_does_not_depend_on_the_other_levels() -> None:
    all_levels, two = untrained("resnet18"), untrained("resnet18", levels=[1, 2])
    assert two.level_hashes == all_levels.level_hashes[:2]
    assert two.sha256 != all_levels.sha256
    assert len(set(all_levels.level_hashes)) == 4
    assert not set(untrained("resnet18", seed=1).level_hashes) & set(all_levels.level_hashes)
    assert not set(untrained("resnet18", options={"output_stride": 16}).level_hashes) & set(all_levels.level_hashes)


def test_stays_frozen_whatever_train_is_called_with() -> None:
    teacher = untrained("resnet18").train()
    statistics = {name: value.clone() for name, value in teacher.backbone.named_buffers()}
    features = teacher(torch.rand(2, 3, 32, 32, requires_grad=True))
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(feature.requires_grad for feature in features)
    for name, value in teacher.backbone.named_buffers():
        torch.testing.assert_close(value, statistics[name], rtol=0, atol=0)


def test_normalises_by_the_models_own_statistics() -> None:
    teacher = untrained("resnet18", levels=[1])
    image = torch.rand(1, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = teacher.backbone((image - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    torch.testing.assert_close(teacher(image), expected)
    assert untrained("vit_tiny_patch16_224").mean.flatten().tolist() == [0.5, 0.5, 0.5]


def test_untrained_weights_come_from_the_seed_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = untrained("vmamba_pico", seed=1)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert first.sha256 == untrained("vmamba_pico", seed=1).sha256
    assert first.sha256 != untrained("vmamba_pico", seed=2).sha256
    assert first.identity()["weights"] == "untrained, seed 1"


def test_untrained_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    untrained("vmamba_pico")
    assert "vmamba_pico is UNTRAINED" in caplog.text


@pytest.mark.usefixtures("unfolded")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("levels", [None, [1, 2]])
def test_a_whole_classifier_loads(tmp_path: Path, suffix: str, levels: list[int] | None) -> None:
    torch.manual_seed(3)
    model = timm.create_model("resnet18")
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": model.state_dict()}, path)
    else:
        safetensors.torch.save_file(model.state_dict(), path)
    teacher = Teacher("resnet18", weights=str(path), levels=levels)
    torch.testing.assert_close(teacher.backbone.layer2[0].conv1.weight, model.layer2[0].conv1.weight, rtol=0, atol=0)
    assert teacher.identity()["weights"] == str(path)


@pytest.mark.usefixtures("unfolded")
def test_a_file_of_just_the_levels_loads(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = timm.create_model("resnet18", features_only=True, out_indices=(1, 2))
    safetensors.torch.save_file(model.state_dict(), tmp_path / "levels.safetensors")
    teacher = Teacher("resnet18", weights=str(tmp_path / "levels.safetensors"), levels=[1, 2])
    torch.testing.assert_close(teacher.backbone.conv1.weight, model.conv1.weight, rtol=0, atol=0)


def test_the_vmamba_release_form_loads(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = timm.create_model("vmamba_pico")
    torch.save({"model": model.state_dict()}, tmp_path / "release.pth")
    teacher = Teacher("vmamba_pico", weights=str(tmp_path / "release.pth"))
    torch.testing.assert_close(teacher.backbone.model.layers[1][0][0].op.Ds, model.layers[1][0][0].op.Ds)
    weight = teacher.backbone.model.patch_embed[0].weight
    torch.testing.assert_close(weight, model.patch_embed[0].weight, rtol=0, atol=0)


def test_another_models_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(timm.create_model("vmamba_pico").state_dict(), path)
    with pytest.raises(WeightsError, match=r"other\.pth does not hold weights of resnet18"):
        Teacher("resnet18", weights=str(path))


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.pth"):
        Teacher("resnet18", weights=str(tmp_path / "nowhere.pth"))


def test_an_unknown_model_is_an_error_that_names_similar_ones() -> None:
    with pytest.raises(ValueError, match="timm has no model 'resnet19'"):
        untrained("resnet19")


def test_a_file_that_lacks_a_weight_is_refused_rather_than_left_random(tmp_path: Path) -> None:
    state = timm.create_model("resnet18").state_dict()
    del state["layer3.0.conv1.weight"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(
        WeightsError, match=r"(?s)short\.pth does not hold weights of resnet18.*layer3\.0\.conv1\.weight"
    ):
        Teacher("resnet18", weights=str(tmp_path / "short.pth"))


@pytest.mark.usefixtures("unfolded")
def test_another_number_of_classes_does_not_matter(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = timm.create_model("resnet18", num_classes=7)
    torch.save(model.state_dict(), tmp_path / "seven.pth")
    teacher = Teacher("resnet18", weights=str(tmp_path / "seven.pth"))
    torch.testing.assert_close(teacher.backbone.conv1.weight, model.conv1.weight, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "builds"),
    [
        ("tf_efficientnet_lite0", 2),  # timm's feature extractor is no part of the whole model that checks the file
        ("mobilenetv3_small_050", 2),
        ("resnet18", 2),
    ],
)
def test_a_trained_teacher_is_built_no_more_often_than_timm_forces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, builds: int
) -> None:
    weights = "pretrained"
    if name != "tf_efficientnet_lite0":
        weights = str(tmp_path / "whole.pth")
        torch.save(timm.create_model(name).state_dict(), weights)
    create, built = timm.create_model, []
    monkeypatch.setattr(timm, "create_model", lambda name, **arguments: built.append(name) or create(name, **arguments))
    Teacher(name, weights)
    assert built == [name] * builds
