"""Which series the rules choose, and what is told of the others."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bundle.deploy import DEFAULT_RULES
from bundle.deploy.choice import read_choice
from scripts.dicom.conversion import series_name
from scripts.dicom.series import find_series

CT, MR = ("CT", "axial"), ("MR", "axial")


@pytest.fixture(scope="module")
def phantom() -> tuple[np.ndarray, np.ndarray]:
    """Noise of 10 slices, as rules look at headers alone."""
    array = np.random.default_rng(0).integers(-1000, 1000, (12, 10, 10)).astype(np.int16)
    return array, np.diag([-4.0, -4.0, 7.0, 1.0])


@pytest.fixture
def series(study: Callable[..., Path]) -> dict[str, str]:
    """Names by description: three CT, one of them short, a localiser, two MR, and the CT of another study."""
    study(series=0, description="Brain 5 mm")
    study(series=1, description="Bone 5 mm", slices=8)
    study(series=2, description="Short", slices=3)
    study(series=3, description="Scout")
    study(series=4, description="T1", modality="MR")
    study(series=5, description="T2", modality="MR", enhanced=True)
    found = find_series(study(study=1, series=0, description="Follow up"), progress=False).series
    return {one.description: series_name(one) for one in found}


@pytest.fixture
def choose(
    series: dict[str, str], tmp_path: Path
) -> Callable[[Path | str, tuple[str | None, str]], tuple[set[str], dict[str, str]]]:
    """``choose(file, trained)``: descriptions of the chosen series, and reasons by the descriptions of the others."""
    names = {name: description for description, name in series.items()}

    def run(file: Path | str, trained: tuple[str | None, str]) -> tuple[set[str], dict[str, str]]:
        found = find_series(tmp_path / "study", progress=False).series
        chosen, left_out = read_choice(Path(file), *trained).choose(found)
        return {names[name] for name in chosen}, {names[name]: reason for name, reason in left_out.items()}

    return run


def test_the_default_is_every_scan_of_the_modality_that_the_model_was_trained_on(choose) -> None:
    chosen, left_out = choose(DEFAULT_RULES, CT)
    assert chosen == {"Brain 5 mm", "Bone 5 mm", "Follow up"}
    assert left_out == {
        "Short": "3 slices, fewer than 5",
        "Scout": "a localiser or screen save",
        "T1": "modality MR",
        "T2": "modality MR",
    }
    assert choose(DEFAULT_RULES, MR)[0] == {"T1", "T2"}
    for any_of_both in (None, "unknown", "CT+MR"):
        assert choose(DEFAULT_RULES, (any_of_both, "axial"))[0] == {
            *("Brain 5 mm", "Bone 5 mm", "Follow up"),
            *("T1", "T2"),
        }


def test_series_of_another_plane_are_taken_where_a_study_has_none_of_the_trained_one(choose) -> None:
    assert choose(DEFAULT_RULES, ("CT", "coronal"))[0] == {"Brain 5 mm", "Bone 5 mm", "Follow up"}


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        ({"modality": "CT", "take": "largest"}, {"Brain 5 mm", "Follow up"}),
        ({"modality": "CT", "description": "^bone", "take": "largest"}, {"Bone 5 mm"}),
        ({"modality": ["CT", "MR"], "min_slices": 9}, {"Brain 5 mm", "Follow up", "T1", "T2"}),
        ({"modality": "MR", "take": "all"}, {"T1", "T2"}),
        ({"min_slices": 1, "description": "short|follow"}, {"Short", "Follow up"}),
        ({"orientation": "sagittal"}, set()),
    ],
)
def test_a_rule_takes_of_each_study_what_it_says(choose, rules, rule: dict, chosen: set[str]) -> None:
    assert choose(rules(rule), CT)[0] == chosen


def test_first_takes_one_of_each_study(choose, rules) -> None:
    chosen, left_out = choose(rules({"modality": "CT", "take": "first"}), CT)
    assert len(chosen & {"Brain 5 mm", "Bone 5 mm"}) == 1
    assert "Follow up" in chosen
    assert "another series of its study was taken" in left_out.values()


def test_priority_takes_the_first_rule_that_a_study_meets_and_alternatives_all(choose, rules) -> None:
    given = [{"description": "bone"}, {"modality": "CT", "take": "largest"}, {"modality": "MR"}]
    assert choose(rules(*given, order="priority"), CT)[0] == {"Bone 5 mm", "Follow up"}
    assert choose(rules(*given, order="alternatives"), CT)[0] == {"Bone 5 mm", "Brain 5 mm", "Follow up", "T1", "T2"}


def test_the_reason_names_the_rules_where_they_differ(choose, rules) -> None:
    _, left_out = choose(rules({"modality": "MR", "description": "flair"}, {"modality": "CT"}), CT)
    assert left_out["T1"] == "rule 1: description does not match 'flair'; rule 2: modality MR"


def test_a_series_that_shares_its_uid_with_another_is_left_out(study, tmp_path: Path) -> None:
    for patient in "abc":
        study(patient=patient, SeriesInstanceUID="1.2.3")
    study(patient="0", SeriesInstanceUID="1.2.3", slices=2)
    found = find_series(tmp_path / "study", progress=False).series
    chosen, left_out = read_choice(DEFAULT_RULES, *CT).choose(found)
    assert len(found) == 4
    name = series_name(found[0])
    assert list(chosen) == [name]
    assert left_out == {
        f"{name} (again)": "2 slices, fewer than 5",
        f"{name} (again) (again)": "another series has its UID",
        f"{name} (again) (again) (again)": "another series has its UID",
    }


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("nothing", "no JSON"),
        ({"rules": []}, "at least one rule"),
        ([], "at least one rule"),
        ({"rules": [{}], "oder": "priority"}, "oder"),
        ({"rules": [{}], "order": "both"}, "priority, alternatives"),
        ({"rules": ["CT"]}, "rule 1"),
        ({"rules": [{}, {"modalities": "CT"}]}, "rule 2 has modalities"),
        ({"rules": [{"take": "two"}]}, "all, first, largest"),
        ({"rules": [{"description": "("}]}, "no regular expression"),
        ({"rules": [{"description": 3}]}, "rule 1: description 3 is no text"),
        ({"rules": [{"description": 0}]}, "rule 1: description 0 is no text"),
        ({"rules": [{"orientation": "oblique"}]}, "axial, coronal, sagittal"),
        ({"rules": [{"min_slices": "5"}]}, "whole number"),
        ({"rules": [{"modality": [3]}]}, "list of names"),
        ({"rules": [{"modality": 3}]}, "list of names"),
        ({"rules": [{"modality": ["trained", "PT"]}]}, "'trained' stands by itself"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, content, text: str) -> None:
    path = tmp_path / "rules.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match="rules.json") as caught:
        read_choice(path, *CT)
    assert text in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none.json"):
        read_choice(tmp_path / "none.json", *CT)
