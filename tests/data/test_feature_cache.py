"""The cache of teachers' features: what it gives is what the teachers give, and it keeps to its bound."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scripts.data.feature_cache import FeatureCache, Features
from scripts.networks import PDD, RD4AD, Teacher


class CountingTeacher(Teacher):
    """Counts the batches that it is shown."""

    seen = 0

    def forward(self, image: Tensor) -> list[Tensor]:
        self.seen += 1
        return super().forward(image)


Make = Callable[..., FeatureCache]


@pytest.fixture(params=["memory", "folder"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """A cache in main memory or in a folder."""
    folder = tmp_path / "features" if request.param == "folder" else None
    return lambda gibibytes=1.0, batch_size=1: FeatureCache(gibibytes, folder, batch_size)


def detector() -> PDD:
    return PDD(CountingTeacher("test_resnet", "untrained"), CountingTeacher("vmamba_pico", "untrained"))


@pytest.fixture
def network() -> PDD:
    return detector()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def seen(network: PDD) -> int:
    """Batches that both teachers were shown."""
    first, second = network.teachers
    assert first.seen == second.seen
    return first.seen  # type: ignore[return-value]


def flat(features: Features) -> list[Tensor]:
    return [level for levels in features for level in levels]


def equal(first: Features, second: Features) -> bool:
    return all(torch.equal(a, b) for a, b in zip(flat(first), flat(second), strict=True))


def size_of_one(network: PDD) -> float:
    """GiB of the features of an image."""
    return sum(level.numel() * 4 for level in flat(network.features(torch.zeros(1, 3, 32, 32)))) / 2**30


@pytest.mark.parametrize("amp", [False, True])
def test_features_are_those_of_the_teachers(make: Make, network: PDD, images: Tensor, amp: bool) -> None:
    cache = make(batch_size=3)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
        first, exact = cache(network, images), network.features(images)
        again = cache(network, images)
    assert equal(first, exact)
    assert equal(again, exact)
    assert [level.dtype for level in flat(again)] == [level.dtype for level in flat(exact)]
    assert any(level.dtype == torch.bfloat16 for level in flat(exact)) == amp
    assert all(level.is_contiguous(memory_format=torch.channels_last) for level in flat(again))


def test_precisions_are_kept_apart(make: Make, network: PDD, images: Tensor) -> None:
    cache = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache(network, images)
    assert all(level.dtype == torch.float32 for level in flat(cache(network, images)))


def test_a_second_pass_asks_no_teacher_and_gives_the_same(make: Make, network: PDD, images: Tensor) -> None:
    cache = make()
    first = cache(network, images)
    assert seen(network) == 3
    assert equal(first, cache(network, images))
    assert seen(network) == 3


def test_teachers_see_whole_batches(make: Make, network: PDD, images: Tensor) -> None:
    cache = make(batch_size=2)
    cache(network, images)
    assert seen(network) == 2


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_features_do_not_depend_on_the_batch_they_were_computed_in(
    make: Make, network: PDD, images: Tensor, batch_size: int, tmp_path: Path
) -> None:
    whole = FeatureCache(1, None, batch_size)(network, images)
    cache = make(batch_size=batch_size)
    cache(network, images[[2]])
    cache(network, images[[1, 2]])
    assert equal(whole, cache(network, images))


def test_the_content_of_an_image_is_what_counts(make: Make, network: PDD, images: Tensor) -> None:
    cache = make()
    cache(network, images)
    changed = images.clone()
    changed[1, 0, 0, 0] += 1e-3
    cache(network, changed)
    assert seen(network) == 4
    cache(network, images.flip(0))
    assert seen(network) == 4


def test_what_a_caller_does_to_features_does_not_reach_the_cache(make: Make, network: PDD, images: Tensor) -> None:
    cache = make()
    first = cache(network, images[:1])
    expected = [level.clone() for level in flat(first)]
    for level in flat(first):
        level.zero_()
    for level in flat(cache(network, images[:1])):
        level.zero_()
    again = flat(cache(network, images[:1]))
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


@pytest.mark.parametrize("room", [1, 2, 3])
def test_no_more_is_kept_in_memory_than_asked_for(images: Tensor, room: int) -> None:
    teacher = CountingTeacher("test_resnet", "untrained", levels=(1, 2))
    network = RD4AD(teacher, 1, 1)
    size = sum(level.numel() * 4 for level in flat(network.features(images[:1]))) / 2**30
    cache, teacher.seen = FeatureCache(room * size), 0
    first = cache(network, images)
    assert equal(first, cache(network, images))
    assert teacher.seen == 3 + (3 - room)


def test_nothing_is_kept_without_room(make: Make, network: PDD, images: Tensor) -> None:
    cache = make(gibibytes=0)
    for _ in range(2):
        assert equal(cache(network, images), network.features(images))
    assert seen(network) == 4


def test_features_have_no_gradient(make: Make, network: PDD, images: Tensor) -> None:
    assert not any(level.requires_grad for level in flat(make()(network, images.requires_grad_())))


# What only a folder can do or suffer


def test_a_folder_serves_later_runs_and_other_methods(network: PDD, images: Tensor, tmp_path: Path) -> None:
    first = FeatureCache(1, tmp_path)(network, images)
    later = detector()
    assert equal(first, FeatureCache(1, tmp_path)(later, images))
    assert seen(later) == 0
    teacher = CountingTeacher("test_resnet", "untrained", levels=(1, 2))
    ((one, two),) = FeatureCache(1, tmp_path)(RD4AD(teacher, [1, 1], 1), images)
    assert teacher.seen == 0
    strides = network.teachers[0].strides
    for level, stride in zip((one, two), teacher.strides, strict=True):
        assert torch.equal(level, first[0][strides.index(stride)])  # type: ignore[operator, union-attr]


def test_levels_that_a_file_lacks_are_added_to_it(network: PDD, images: Tensor, tmp_path: Path) -> None:
    teacher = CountingTeacher("test_resnet", "untrained", levels=(1, 2))
    small = RD4AD(teacher, [1, 1], 1)
    expected = FeatureCache(1, tmp_path)(small, images)
    FeatureCache(1, tmp_path)(network, images)
    assert seen(network) == 3
    assert equal(expected, FeatureCache(1, tmp_path)(small, images))
    assert teacher.seen == 3


def test_other_weights_are_other_features(network: PDD, images: Tensor, tmp_path: Path) -> None:
    cache = FeatureCache(1, tmp_path)
    first = cache(network, images)
    other = PDD(CountingTeacher("test_resnet", "untrained", seed=1), CountingTeacher("vmamba_pico", "untrained"))
    second = cache(other, images)
    assert [teacher.seen for teacher in other.teachers] == [3, 0]
    assert not torch.equal(first[0][0], second[0][0])


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*"))


@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "text"])
def test_a_damaged_file_is_computed_again_and_said(
    network: PDD, images: Tensor, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = FeatureCache(1, tmp_path)(network, images)
    damaged = files(tmp_path)[0]
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(
        {"cut": content[:-100], "emptied": b"", "flipped": content, "text": b"no features" * 100}[damage]
    )
    with caplog.at_level(logging.WARNING):
        assert equal(first, FeatureCache(1, tmp_path)(network, images))
    assert str(damaged) in caplog.text
    caplog.clear()
    assert equal(first, FeatureCache(1, tmp_path)(network, images))
    assert not caplog.text


def test_the_longest_unused_files_make_room(network: PDD, images: Tensor, tmp_path: Path) -> None:
    size = size_of_one(network) * 1.2  # with the files' headers
    FeatureCache(1, tmp_path)(network, images[:2])
    old = files(tmp_path)
    for path in old:
        os.utime(path, (1, 1))
    FeatureCache(1, tmp_path)(network, images[:1])  # used again
    kept = {path for path in old if path.stat().st_mtime > 1}
    assert len(kept) == 2
    FeatureCache(2.1 * size, tmp_path)(network, images[2:])
    assert kept < set(files(tmp_path))
    assert len(files(tmp_path)) == 4
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 2.1 * size * 2**30


def test_files_of_this_run_stay_when_it_is_full(network: PDD, images: Tensor, tmp_path: Path) -> None:
    cache = FeatureCache(1.2 * size_of_one(network), tmp_path)
    first = cache(network, images)
    kept = files(tmp_path)
    assert equal(first, cache(network, images))
    assert files(tmp_path) == kept
    assert sum(path.stat().st_size for path in kept) <= 1.2 * size_of_one(network) * 2**30


def test_a_folder_that_cannot_be_written_is_said_once(
    network: PDD, images: Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    cache = FeatureCache(1, tmp_path / "file")
    with caplog.at_level(logging.WARNING):
        first = cache(network, images)
        assert equal(first, cache(network, images))
    assert caplog.text.count("No more features are kept") == 1


def test_a_folder_may_vanish(network: PDD, images: Tensor, tmp_path: Path) -> None:
    cache = FeatureCache(1, tmp_path)
    first = cache(network, images)
    for path in files(tmp_path):
        path.unlink()
    assert equal(first, cache(network, images))
