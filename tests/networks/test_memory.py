"""Memory: nearest neighbours as scikit-learn finds them, patients left out, any number of images, checkpoints."""

import copy

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from scripts.networks import Memory, Teacher

PATIENTS = ["anna", "ben", "ben", "carl"]


def images(count: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def empty(**options: object) -> Memory:
    teachers = [
        Teacher("test_resnet", weights="untrained", levels=[2, 3]),
        Teacher("vmamba_pico", weights="untrained", levels=[0, 1]),
    ]
    return Memory(teachers, **{"sigma": 0.0, **options})  # type: ignore[arg-type]


def built(**options: object) -> Memory:
    memory = empty(**options)
    memory.remember(memory.features(images()), PATIENTS, images=4)
    memory.consolidate()
    return memory.eval()


def embedded(memory: Memory, pictures: Tensor) -> np.ndarray:
    """Vectors (images, places, C) of unit length."""
    grid = memory._grid(memory.features(pictures))
    return memory._embedded(grid).double().numpy()


def test_a_place_is_as_far_as_its_nearest_neighbour() -> None:
    memory, new = built(), images(2, seed=1)
    bank = embedded(memory, images()).reshape(64, -1)
    near = NearestNeighbors(n_neighbors=1, metric="cosine").fit(bank)
    expected, _ = near.kneighbors(embedded(memory, new).reshape(32, -1))
    maps = memory(new)
    assert maps.shape == (2, 1, 64, 64)
    centres = maps[:, 0, 7::16, 7::16] + maps[:, 0, 8::16, 8::16]  # of the grid's cells lie between pixels
    coarse = memory.maps(memory.features(new), (4, 4))[:, 0]
    np.testing.assert_allclose(coarse.flatten().numpy(), expected[:, 0], atol=1e-5)
    torch.testing.assert_close(centres / 2, coarse, rtol=0.05, atol=0.05)


def test_the_levels_weigh_the_same_and_vectors_have_unit_length() -> None:
    vectors = embedded(built(), images())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)
    squares = (vectors**2).mean((0, 1))
    shares = [float(part.sum()) for part in np.split(squares, np.cumsum([48, 192, 32]))]
    np.testing.assert_allclose(shares, 0.25, atol=0.08)


def test_an_anomaly_is_far_where_it_lies() -> None:
    memory, odd = built(), images()[1:2].clone()
    odd[..., 32:48, 0:16] = 1.0
    anomaly_map = memory(odd)[0, 0]
    assert anomaly_map[32:48, 0:16].mean() > 5 * anomaly_map[:16, 48:].mean()


def test_of_a_training_image_the_patients_own_features_can_be_left_out() -> None:
    memory, everyone = built(), images()
    features = memory.features(everyone)
    assert memory.maps(features, (64, 64)).abs().max() < 1e-5
    without = memory.maps(features, (64, 64), without=PATIENTS)
    fewer = empty()
    fewer.scaling = copy.deepcopy(memory.scaling)
    kept = embedded(memory, everyone)
    for index, patient in enumerate(PATIENTS):
        fewer.bank = torch.from_numpy(np.concatenate([kept[i] for i, one in enumerate(PATIENTS) if one != patient]))
        fewer.bank = fewer.bank.float()
        alone = fewer.maps([[level[index : index + 1] for level in one] for one in features], (64, 64))
        torch.testing.assert_close(without[index : index + 1], alone, rtol=1e-5, atol=1e-5)


def test_a_single_patient_cannot_be_left_out() -> None:
    memory = empty()
    features = memory.features(images())
    memory.remember(features, ["anna"] * 4, images=4)
    memory.consolidate()
    with pytest.raises(ValueError, match="one patient alone"):
        memory.maps(features, (64, 64), without=["anna"] * 4)


def test_a_memory_is_no_larger_than_asked_for_and_its_choice_comes_from_the_seed() -> None:
    first, same, other = built(size=20), built(size=20), built(size=20, seed=1)
    assert first.bank.shape == (20, 48 + 192 + 32 + 64)
    torch.testing.assert_close(first.bank, same.bank, rtol=0, atol=0)
    assert not torch.equal(first.bank, other.bank)


def test_of_many_images_only_a_share_of_the_places_is_collected() -> None:
    memory = empty(size=4)
    memory.remember(memory.features(images()), PATIENTS, images=4)  # twice as many as are kept, of 4 images
    assert len(memory._owners) == 4 * 2


def test_a_checkpoint_restores_a_memory_of_any_size_and_no_patient() -> None:
    memory, other, new = built(size=30), empty(size=30), images(2, seed=1)
    state = memory.state_dict()
    assert not any(word in str(state["_extra_state"].numpy().tobytes()) for word in PATIENTS)
    other.load_state_dict(state)
    torch.testing.assert_close(other.eval()(new), memory(new), rtol=0, atol=0)


def test_a_memory_has_nothing_to_distil() -> None:
    with pytest.raises(TypeError, match="no students"):
        empty().train()(images())
