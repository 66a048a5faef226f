"""Scaling of features: by the closed forms of their mean and covariance, in one pass over batches of any size."""

import numpy as np
import pytest
import torch

from scripts.networks import RD4AD, Memory, Teacher
from scripts.networks.scaling import FeatureScaling


def correlated(channels: int = 6, count: int = 40, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=g) + 2
    noise = torch.randn(count, 5, 4, channels, generator=g)
    return (noise @ mixing + torch.arange(channels)).permute(0, 3, 1, 2)


def fitted(mode: str, shrinkage: float, features: torch.Tensor, batches: int = 1) -> FeatureScaling:
    scaling = FeatureScaling([[features.shape[1]]], mode, shrinkage)
    for batch in features.chunk(batches):
        scaling.observe([[batch]])
    scaling.settle()
    return scaling


def vectors(features: torch.Tensor) -> np.ndarray:
    return features.movedim(1, -1).flatten(0, -2).double().numpy()


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_whitening_is_the_inverse_root_of_the_shrunk_covariance(shrinkage: float) -> None:
    features = correlated()
    places = vectors(features)
    covariance = np.cov(places.T, bias=True)
    ridge = shrinkage * np.trace(covariance) / len(covariance)
    values, directions = np.linalg.eigh(covariance + ridge * np.eye(len(covariance)))
    expected = (places - places.mean(0)) @ (directions / np.sqrt(values)) @ directions.T
    expected /= np.sqrt((expected**2).mean())
    found = vectors(fitted("whiten", shrinkage, features)([[features]])[0][0])
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_standardising_leaves_correlations_and_equalises_variances() -> None:
    features = correlated()
    places = vectors(features)
    expected = (places - places.mean(0)) / places.std(0)
    found = vectors(fitted("standardise", 0.0, features)([[features]])[0][0])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_dividing_leaves_mean_and_correlations_and_has_a_mean_square_of_one() -> None:
    features = correlated()
    places = vectors(features)
    found = vectors(fitted("divide", 0.3, features)([[features]])[0][0])
    np.testing.assert_allclose(found, places / np.sqrt((places**2).mean()), rtol=1e-5)


def test_each_level_may_have_a_scaling_of_its_own() -> None:
    features = correlated()
    scaling = FeatureScaling([[6, 6], [6]], [["whiten", "off"], ["divide"]], 0.3)
    scaling.observe([[features, features], [features]])
    scaling.settle()
    (first, second), (third,) = scaling([[features, features], [features]])
    torch.testing.assert_close(first, fitted("whiten", 0.3, features)([[features]])[0][0])
    assert second is features
    torch.testing.assert_close(third, fitted("divide", 0.3, features)([[features]])[0][0])


def test_batches_do_not_matter() -> None:
    features = correlated()
    whole, parts = (fitted("whiten", 0.1, features, batches)([[features]])[0][0] for batches in (1, 7))
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-6)


def test_a_channel_without_variance_stays_finite() -> None:
    features = correlated()
    features[:, 2] = 3.0
    for mode in ("whiten", "standardise"):
        assert fitted(mode, 0.3, features)([[features]])[0][0].isfinite().all()


def test_off_changes_nothing_and_keeps_nothing() -> None:
    features = correlated()
    scaling = FeatureScaling([[6]])
    assert scaling([[features]])[0][0] is features
    scaling.settle()
    assert not scaling.state_dict()


@pytest.mark.parametrize(("mode", "shrinkage", "text"), [("pca", 0.3, "scaling must be off"), ("whiten", -1, "shrink")])
def test_wrong_settings_are_refused(mode: str, shrinkage: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        FeatureScaling([[2]], mode, shrinkage)


def test_nothing_seen_is_an_error() -> None:
    with pytest.raises(ValueError, match="No normal image"):
        FeatureScaling([[2]], "whiten").settle()


def test_a_method_distils_scaled_features_and_its_checkpoint_keeps_the_scaling() -> None:
    def network() -> RD4AD:
        torch.manual_seed(0)
        teacher = Teacher("test_resnet", weights="untrained", levels=[1, 2])
        return RD4AD(teacher, 1, 1, "basic", scaling="whiten")

    ours, image = network(), torch.rand(3, 3, 64, 64)
    ours.scaling.observe(ours.features(image))
    ours.scaling.settle()
    targets = ours.eval().distill(ours.features(image)).targets
    assert float(vectors(targets[0]).mean(0).max()) == pytest.approx(0, abs=1e-5)
    other = network()
    other.load_state_dict(ours.state_dict())
    torch.testing.assert_close(other.eval()(image), ours(image), rtol=0, atol=0)


def test_a_memory_scales_what_it_remembers_as_what_it_sees() -> None:
    memory = Memory([Teacher("test_resnet", weights="untrained", levels=[2, 3])], sigma=0)
    images = torch.rand(2, 3, 64, 64)
    memory.remember(memory.features(images), ["a", "b"], images=2)
    memory.consolidate()
    assert memory.eval()(images).abs().max() < 1e-5
