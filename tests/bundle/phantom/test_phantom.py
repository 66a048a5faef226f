"""Phantom heads and slices: the files written, the splits, repeatability, and that lesions are where the masks say."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import binary_erosion, binary_fill_holes, label

from bundle import phantom
from bundle.phantom.heads import KINDS, Head, Lesion, Subject, draw_head
from bundle.phantom.slices import write_phantoms

SMALL = {"subjects": 12, "slices": 3, "size": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "set", **SMALL).parent


@pytest.fixture(scope="module")
def index(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "index.csv")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def draw(subject: Subject, level: float = 0.5) -> Head:
    """One slice, (rows, columns)."""
    return Head(*(part[:, :, 0] for part in draw_head(subject, [level])))


def subject_with(kind: str, seed: int = 0) -> Subject:
    rng = np.random.default_rng(seed)
    while True:
        subject = Subject.draw(rng, 0.5)
        if subject.lesion is not None and subject.lesion.kind == kind and draw(subject).mask.any():
            return subject


def test_images_are_12_bits_in_16(folder: Path, index: pd.DataFrame) -> None:
    for name in index["image"]:
        with Image.open(folder / name) as image:
            values = np.asarray(image)
        assert values.dtype == np.uint16
        assert values.shape == (64, 64)
        assert values.max() <= 4095
        assert values.max() > 2000
        assert np.median(values[:3]) < 300


def test_masks_exist_exactly_where_label_is_1(folder: Path, index: pd.DataFrame) -> None:
    assert list(index.columns) == ["image", "label", "mask", "group", "split"]
    assert (index["mask"].notna() == (index["label"] == 1)).all()
    for name in index["mask"].dropna():
        values = np.asarray(Image.open(folder / name))
        assert values.dtype == np.uint8
        assert set(np.unique(values)) == {0, 255}
    assert len(list((folder / "images").iterdir())) == len(index) == 36
    assert len(list((folder / "masks").iterdir())) == index["label"].sum()


def test_splits_are_by_subject_and_normal_but_for_test(index: pd.DataFrame) -> None:
    assert (index.groupby("group")["split"].nunique() == 1).all()
    subjects = index.groupby("group").agg(split=("split", "first"), label=("label", "max"))
    assert subjects.groupby(["split", "label"]).size().to_dict() == {
        ("test", 0): 2,
        ("test", 1): 2,
        ("training", 0): 7,
        ("validation", 0): 1,
    }


def test_abnormal_subjects_have_normal_slices_too(tmp_path: Path) -> None:
    index = pd.read_csv(write_phantoms(tmp_path, subjects=20, slices=6, size=32))
    abnormal = index.groupby("group").filter(lambda rows: rows["label"].any())
    assert set(abnormal["label"]) == {0, 1}
    assert set(abnormal["split"]) == {"test"}


def test_the_seed_decides_every_byte(folder: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "same", **SMALL)
    write_phantoms(tmp_path / "other", **SMALL, seed=1)
    first, same, other = contents(folder), contents(tmp_path / "same"), contents(tmp_path / "other")
    assert first == same
    assert not set(first.values()) & set(other.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_lesion_changes_the_image_in_its_mask_within_the_brain(kind: str) -> None:
    for seed in range(5):
        subject = subject_with(kind, seed)
        image, mask, brain = draw(subject)
        normal = draw(replace(subject, lesion=None))
        assert not normal.mask.any()
        assert not (mask & ~brain).any()
        change = np.abs(image - normal.image)
        assert np.median(change[mask]) > 3
        assert np.median(change[~mask]) == 0
        assert change[~brain].max() < change[mask].max()


@pytest.mark.parametrize(("kind", "sign"), [("haemorrhage", 1), ("infarct", -1), ("subdural", 1)])
def test_kinds_are_bright_or_dark(kind: str, sign: int) -> None:
    subject = subject_with(kind)
    image, mask, brain = draw(subject)
    assert sign * (image[mask].mean() - np.median(image[brain & ~mask])) > 4


def test_a_subdural_lies_along_the_skull() -> None:
    _, mask, brain = draw(subject_with("subdural"))
    inner = brain.copy()
    for _ in range(2):
        inner[1:-1, 1:-1] = inner[1:-1, 1:-1] & inner[2:, 1:-1] & inner[:-2, 1:-1] & inner[1:-1, 2:] & inner[1:-1, :-2]
    assert (mask & brain & ~inner).sum() > 0.2 * mask.sum()


def test_a_lesion_is_not_drawn_beyond_its_reach() -> None:
    subject = subject_with("haemorrhage")
    assert subject.lesion is not None
    far = subject.lesion.level + subject.lesion.reach + 0.01
    assert not draw(subject, far).mask.any()
    assert np.array_equal(draw(subject, far).image, draw(replace(subject, lesion=None), far).image)


def test_anatomy() -> None:
    subject = replace(Subject.draw(np.random.default_rng(3)), angle=0.0, shift=(0.0, 0.0), noise=1.0)
    low, high = draw(subject, 0.3), draw(subject, 0.95)
    assert low.brain.sum() > high.brain.sum()
    assert label(low.brain)[1] == 1
    assert np.array_equal(binary_fill_holes(low.brain), low.brain)
    middle = np.zeros_like(low.brain)
    middle[32:96, 45:83] = True
    assert (low.image[middle] < 15).sum() > 20 * max(1, (high.image[middle] < 15).sum())  # the ventricles
    assert low.image[~low.brain].max() > 500  # the skull
    assert np.median(low.image[:3]) < -900  # air
    skin = (low.image > -500) & (np.abs(np.arange(128) - 63.5) < 12)
    assert np.flatnonzero(skin.any(axis=1))[0] < 127 - np.flatnonzero(skin.any(axis=1))[-1]  # the nose is in front
    calcified = low.brain & binary_erosion(low.brain, iterations=4) & (low.image > 65)
    assert calcified[:, 64:].any()
    assert not calcified[:, :64].any()  # right


def test_slices_drawn_together_hang_together() -> None:
    """Neighbours are more alike than slices drawn one by one, each with a texture of its own."""
    subject = replace(Subject.draw(np.random.default_rng(3)), noise=0.1)
    levels = (np.arange(48) + 0.5) / 48
    together = draw_head(subject, levels, (48, 40))
    assert together.image.shape == together.brain.shape == (48, 40, 48)
    alone = np.concatenate([draw_head(subject, [level], (48, 40)).image for level in levels], axis=2)
    inner = binary_erosion(together.brain, np.ones((7, 7, 1))).all(axis=2)
    steps = [np.abs(np.diff(image[inner], axis=1)).mean() for image in (together.image, alone)]
    assert steps[0] < 0.75 * steps[1]


def test_lesions_differ_in_kind_and_size() -> None:
    lesions = [Lesion.draw(np.random.default_rng(seed), 0.5) for seed in range(50)]
    assert {lesion.kind for lesion in lesions} == set(KINDS)
    assert max(lesion.radii[0] for lesion in lesions) > 2 * min(lesion.radii[0] for lesion in lesions)


@pytest.mark.parametrize(
    "wrong", [{"subjects": 2}, {"abnormal_fraction": 0.0}, {"abnormal_fraction": 0.5}, {"slices": 0}, {"size": 8}]
)
def test_numbers_that_make_no_set(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="ask for"):
        write_phantoms(tmp_path, **{**SMALL, **wrong})
    assert not any(tmp_path.iterdir())


def run(*args: str) -> int:
    parser = argparse.ArgumentParser(description=phantom.__doc__)
    phantom.configure(parser)
    return phantom.run(parser.parse_args(args))


def test_verb(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [str(tmp_path / "set"), "--subjects", "12", "--slices", "3", "--size", "64"]
    assert run(*args) == 0
    assert "index.csv: 12 subjects" in capsys.readouterr().out
    assert contents(tmp_path / "set") == contents(folder)
    with pytest.raises(FileExistsError, match="is not empty"):
        run(*args)


def test_verb_writes_volumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--volumes", "--subjects", "2", "--slices", "5", "--size", "32", "--abnormal-fraction", "0.5"]
    assert run(str(tmp_path), *args) == 0
    assert "2 volumes of 5 slices, 1 of them abnormal" in capsys.readouterr().out
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.nii.gz")} == {
        "normal/sub-01/ct.nii.gz",
        "anomalous/sub-02/ct.nii.gz",
        "anomalous/sub-02/lesion.nii.gz",
    }
    assert len(list(tmp_path.glob("dicom/sub-02/*.dcm"))) == 5


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    assert "--abnormal-fraction" in capsys.readouterr().out
