from dataclasses import replace
from pathlib import Path

import pytest

from bundle.prepare.layouts import Sample
from bundle.prepare.splits import (
    deal_by_name,
    deal_training,
    draw_abnormal,
    drop_crossing,
    hold_out_validation,
    merge_groups,
)


def samples(*rows):
    return [Sample(Path(f"{i}.png"), label, group, split=split) for i, (label, group, split) in enumerate(rows)]


def test_equal_pixels_join_groups_in_chains():
    merged = merge_groups(
        samples((0, "a", None), (0, "b", None), (0, "b", None), (0, "c", None), (0, "d", None)),
        ["1", "1", "2", "2", "3"],
    )
    assert [sample.group for sample in merged] == ["a", "a", "a", "a", "d"]
    assert merge_groups([], []) == []


@pytest.mark.parametrize(("count", "fraction", "expected"), [(None, 0.75, 73), (None, 1.0, 98), (10, 0.75, 10)])
def test_deals_normals_out(count, fraction, expected):
    given = samples(*[(0, f"n{i}", None) for i in range(98)], *[(1, f"a{i}", None) for i in range(5)])
    dealt = deal_training(given, count, fraction, seed=1)
    training = {sample.image for sample in dealt if sample.split == "training"}
    assert len(training) == expected
    assert {sample.split for sample in dealt if sample.label == 1} == {"test"}
    again = deal_training(given[::-1], count, fraction, seed=1)
    assert {sample.image for sample in again if sample.split == "training"} == training
    if expected < 98:
        other = deal_training(given, count, fraction, seed=2)
        assert {sample.image for sample in other if sample.split == "training"} != training


def test_patients_are_not_parted():
    given = samples(*[(0, f"p{i // 4}", None) for i in range(80)], (1, "p0", None))
    dealt = deal_training(given, None, 0.5, seed=0)
    split_of = {}
    for sample in dealt:
        assert split_of.setdefault(sample.group, sample.split) == sample.split
    assert split_of["p0"] == "test"  # all images of a patient with an anomaly
    assert sum(sample.split == "training" for sample in dealt) == 40
    held_out = hold_out_validation(dealt, 0.2, seed=0)
    assert sum(sample.split == "validation" for sample in held_out) == 8
    assert not {s.group for s in held_out if s.split == "validation"} & {
        s.group for s in held_out if s.split == "training"
    }


def test_too_few_normals():
    with pytest.raises(ValueError, match="Only 1 normals are free to train on, 2 were asked for"):
        deal_training(samples((0, "a", None), (0, "b", None), (1, "b", None)), 2, 0, seed=0)


def test_test_keeps_what_crosses():
    given = samples(
        (0, "a", "training"), (0, "a", "test"), (0, "b", "training"), (0, "c", "training"), (0, "c", "validation")
    )
    kept, dropped = drop_crossing(given)
    assert [sample.image.stem for sample in kept] == ["1", "2", "4"]
    assert [sample.image.stem for sample in dropped] == ["0", "3"]


def test_patients_named_to_be_tested():
    given = samples((0, "a", None), (0, "b", None), (1, "c", None), (0, "c", None), (1, "d", None), (1, "e", None))
    dealt, unused = deal_by_name(given, {"b", "d"}, ["e"])
    assert [(sample.image.stem, sample.split) for sample in dealt] == [
        ("0", "training"),
        ("1", "test"),
        ("4", "test"),
        ("5", "training"),
    ]
    assert [sample.image.stem for sample in unused] == ["2", "3"]


def test_abnormal_patients_to_train_on_have_masks():
    given = [
        replace(sample, mask=None if sample.group == "p3" else Path("mask.nii"))
        for sample in samples((0, "n", None), *[(1, f"p{i // 2}", None) for i in range(12)])
    ]
    free = {"p0", "p1", "p2", "p4", "p5"}
    drawn = draw_abnormal(given, 2, seed=1)
    assert len(drawn) == 2
    assert set(drawn) < free
    assert draw_abnormal(given[::-1], 2, seed=1) == drawn
    assert set(draw_abnormal(given, 1.0, seed=1)) == set(draw_abnormal(given, 5, seed=3)) == free
    assert len(draw_abnormal(given, 0.5, seed=1)) == 2
    with pytest.raises(ValueError, match="Only 5 patients with anomalies, all masked, are free to train on, 6 were"):
        draw_abnormal(given, 6, seed=1)
    dealt = deal_training(given, None, 1.0, 0, abnormal=drawn)
    assert {sample.group for sample in dealt if sample.split == "training"} == {"n", *drawn}
