"""PDD: shapes for many teachers, what makes its students differ, and what its checkpoints refuse."""

import pytest
import torch
import torch.nn.functional as F

from scripts.losses import PDDLoss
from scripts.networks import PDD, Teacher
from scripts.networks.blocks import Adapter, InvertedBottleneck
from scripts.networks.pdd import PDDDistiller


def teacher(name: str, **arguments: object) -> Teacher:
    return Teacher(name, weights="untrained", **arguments)  # type: ignore[arg-type]


def small_pdd(**options: object) -> PDD:
    torch.manual_seed(0)
    return PDD(teacher("resnet18", options={"zero_init_last": False}), teacher("vmamba_pico"), **options)  # type: ignore[arg-type]


def test_the_papers_networks_have_the_papers_shapes() -> None:
    """Table of methods: targets 256@64, 512@32, 1024@16, students likewise, decoding 2048@8."""
    distiller = PDDDistiller([256, 512, 1024, 2048], [4, 8, 16, 32], [192, 384, 768, 768]).eval()
    local = [torch.rand(1, c, s, s) for c, s in [(256, 64), (512, 32), (1024, 16), (2048, 8)]]
    global_ = [torch.rand(1, c, s, s) for c, s in [(192, 32), (384, 16), (768, 8), (768, 8)]]
    with torch.no_grad():
        targets, students, *_ = distiller([local, global_])
    expected = [(1, 256, 64, 64), (1, 512, 32, 32), (1, 1024, 16, 16)]
    for features in (targets, *students):
        assert [tuple(feature.shape) for feature in features] == expected
    assert [head.out_channels for head in distiller.mpa.heads] == [1024, 512]
    assert distiller.student1.levels[0][0].body[2].kernel_size == (2, 2)  # transposed, stride 2
    assert distiller.student1.levels[0][0].body[2].in_channels == 512  # twice a plain bottleneck's 256 planes


@pytest.mark.parametrize("side", [(64, 64), (96, 64)])
@pytest.mark.parametrize(
    ("local", "global_"),
    [
        ({"name": "resnet18"}, {"name": "vmamba_pico"}),
        ({"name": "resnet18", "levels": [1, 2, 3]}, {"name": "vmamba_pico", "levels": [0, 1, 2]}),
        ({"name": "convnext_atto", "levels": [0, 1]}, {"name": "vmamba_pico", "levels": [0, 1]}),
        ({"name": "convnext_atto", "options": {"output_stride": 8}}, {"name": "vmamba_pico"}),
        ({"name": "vit_tiny_patch16_224"}, {"name": "vmamba_pico", "levels": [0, 1, 2]}),
    ],
)
def test_channels_and_strides_follow_from_the_teachers(local: dict, global_: dict, side: tuple[int, int]) -> None:
    network = PDD(teacher(**local), teacher(**global_)).eval()
    with torch.no_grad():
        assert network(torch.rand(2, 3, *side)).shape == (2, 1, *side)
    targets, students, *_ = network.train()(torch.rand(2, 3, *side))
    for student in students:
        assert [s.shape for s in student] == [t.shape for t in targets]


def test_teachers_with_unequal_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="local one has 4, the global one 3"):
        PDD(teacher("resnet18"), teacher("vmamba_pico", levels=[0, 1, 2]))


def test_a_side_not_divisible_by_the_deepest_stride_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(48, 64\); both sides must be divisible by 32"):
        small_pdd()(torch.rand(1, 3, 48, 64))


def test_targets_are_the_adapted_global_plus_the_local_features() -> None:
    network = small_pdd().eval()
    local, global_ = network.features(torch.rand(1, 3, 64, 64))
    targets, _, *_ = network.distill([local, global_])
    adapted = network.distiller.adapters[0](global_[0])
    expected = F.interpolate(adapted, scale_factor=2, mode="bilinear", align_corners=False) + local[0]
    torch.testing.assert_close(targets[0], expected)


def test_adapter_and_decoder_hold_exactly_what_the_specification_lists() -> None:
    """Convolutions have no bias, so the numbers of parameters follow from the channels alone."""
    mid = 512
    adapter = Adapter(768, 2048)
    expected = 768 * mid + 9 * mid * mid + mid * 2048 + 768 * 2048 + 2 * (mid + mid + 2048)
    assert sum(p.numel() for p in adapter.parameters()) == expected
    block = InvertedBottleneck(2048, 1024, scale=2)
    expected = 2048 * 512 + 4 * 512 * 512 + 512 * 1024 + 4 * 2048 * 1024 + 2 * (512 + 512 + 1024 + 1024)
    assert sum(p.numel() for p in block.parameters()) == expected


def test_the_students_differ_at_every_level() -> None:
    network = small_pdd()
    _, (first, second), *_ = network(torch.rand(4, 3, 64, 64))
    for a, b in zip(first, second, strict=True):
        assert (a - b).abs().mean() > 0.05 * a.abs().mean()
    assert not {id(p) for p in network.distiller.student1.parameters()} & {
        id(p) for p in network.distiller.student2.parameters()
    }


def test_the_released_form_shares_the_students_so_only_priors_tell_them_apart() -> None:
    network = small_pdd(share_students=True).eval()
    assert network.distiller.student1 is network.distiller.student2
    with torch.no_grad():
        _, (first, second), *_ = network.distill(network.features(torch.rand(1, 3, 64, 64)))
    torch.testing.assert_close(first[-1], second[-1], rtol=0, atol=0)  # the deepest level sees no prior
    assert (first[0] - second[0]).abs().max() > 1e-3


@pytest.mark.parametrize("detach", [False, True])
def test_detached_targets_give_the_adapters_of_the_targets_no_gradient(detach: bool) -> None:
    network = small_pdd(detach_targets=detach)
    total, _ = PDDLoss()(network(torch.rand(2, 3, 64, 64)))
    total.backward()
    *targets, unifier = network.distiller.adapters
    with_gradient = [any(p.grad is not None for p in adapter.parameters()) for adapter in targets]
    assert with_gradient == [not detach] * 3
    assert all(p.grad is not None for p in unifier.parameters())
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)  # none is left over for DDP


def test_maps_do_not_depend_on_the_batch() -> None:
    network = small_pdd().eval()
    images = torch.rand(5, 3, 64, 64)
    with torch.no_grad():
        together = network(images)
        for batch in (1, 2, 3):
            parts = torch.cat([network(part) for part in images.split(batch)])
            torch.testing.assert_close(parts, together, rtol=0, atol=2e-6)


def test_features_in_place_of_the_image_train_the_same() -> None:
    network = small_pdd()
    image = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(network(network.features(image)).targets, network(image).targets, rtol=0, atol=0)


def test_the_state_dict_is_the_distiller_and_who_taught_it() -> None:
    state = small_pdd().state_dict()
    assert {key.split(".")[0] for key in state} == {"distiller", "_extra_state"}
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other = PDD(teacher("resnet18", options={"zero_init_last": False}), teacher("vmamba_pico"))
    other.load_state_dict(state, strict=True)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(image), small_pdd().eval()(image), rtol=0, atol=0)


def test_a_checkpoint_refuses_other_teachers() -> None:
    state = small_pdd().state_dict()
    other = PDD(teacher("resnet18", options={"zero_init_last": False}), teacher("vmamba_pico", seed=1))
    with pytest.raises(RuntimeError, match=r"trained with teacher vmamba_pico \(untrained, seed 0.*untrained, seed 1"):
        other.load_state_dict(state)


def test_training_mode_reaches_the_distiller_alone() -> None:
    network = small_pdd().train()
    assert network.distiller.training
    assert not any(module.training for module in network.teachers[0].modules())


def with_options(**options: object) -> PDD:
    torch.manual_seed(0)
    local, global_ = (Teacher(name, weights="untrained") for name in ("test_resnet", "vmamba_pico"))
    return PDD(local, global_, **options)  # type: ignore[arg-type]


def test_without_adapted_levels_targets_are_the_local_teachers_own() -> None:
    network, image = with_options(adapt_levels=False), torch.rand(2, 3, 64, 64)
    local, _ = network.features(image)
    distillation = network.distill(network.features(image))
    for target, level in zip(distillation.targets, local[:-1], strict=True):
        torch.testing.assert_close(target, level, rtol=0, atol=0)
    assert len(network.distiller.adapters) == 1  # MMU's
    adapted = with_options().distill(network.features(image)).targets
    assert not any(torch.equal(a, b) for a, b in zip(adapted, local[:-1], strict=True))


def test_wide_students_end_in_a_linear_layer_of_the_targets_channels() -> None:
    network, image = with_options(student_width=3), torch.rand(2, 3, 64, 64)
    distillation = network.distill(network.features(image))
    for student in distillation.students:
        assert [level.shape for level in student] == [target.shape for target in distillation.targets]
        assert all(level.min() < 0 for level in student)
    plain = with_options().distill(network.features(image))
    assert all(level.min() >= 0 for student in plain.students for level in student)
    assert network.distiller.student1.inner[:-1] == [3 * one for one in network.teachers[0].channels[:-1]]
    assert [head.out_channels for head in network.distiller.mpa.heads] == network.distiller.student1.inner[-2:0:-1]


def test_scaled_targets_are_whitened_and_the_students_inputs_only_divided() -> None:
    network, image = with_options(adapt_levels=False, scaling="whiten"), torch.rand(6, 3, 64, 64)
    network.scaling.observe(network.features(image))
    network.scaling.settle()
    (*targets, deepest), global_ = network.scaling(network.features(image))
    raw = network.features(image)
    for target in targets:
        assert target.mean((0, 2, 3)).abs().max() < 1e-4
        assert float(target.square().mean()) == pytest.approx(1, abs=1e-3)
    for scaled, level in zip([deepest, *global_], [raw[0][-1], *raw[1]], strict=True):
        torch.testing.assert_close(scaled, level / level.square().mean().sqrt(), rtol=1e-4, atol=1e-5)
