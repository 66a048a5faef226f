"""docs/options.md says what the configs have."""

import re

import pytest

from docs.generate_options import CONFIGS, MEANINGS, PAGE, arguments, options, page, plain_values
from scripts.losses import PDDLoss
from scripts.tracking import Tracking


def test_the_page_is_that_of_the_configs() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "stale: make docs"


def test_every_plain_value_has_a_meaning_and_no_other() -> None:
    assert plain_values() == set(MEANINGS)


@pytest.mark.parametrize("files", CONFIGS.values(), ids=lambda files: files[-1])
def test_every_meaning_stands_alone(files: list[str]) -> None:
    found = list(options(files))
    assert found
    assert [name for name, _, meaning in found if not re.fullmatch(r"[A-Z`].*\.", meaning)] == []


def test_options_of_training() -> None:
    found = {name: default for name, default, _ in options(["train.json"])}
    assert found["epochs"] == "`100`"
    assert found["preprocessing#pixel_spacing"] == "`null`"
    assert found["local_teacher"] == "`wide_resnet50_2`"
    assert found["network_def#local_teacher#seed"] == "`0`"  # at its default in the class
    assert "preprocessing#image_size" not in found  # refers to image_size


def test_an_overlay_gets_the_meanings_of_what_it_overrides() -> None:
    found = {name: (default, meaning) for name, default, meaning in options(["data/ct.json"])}
    default, meaning = found["slices#reference_fraction"]
    assert default == "`0.25`"
    assert meaning.startswith("Share of the training patients")


def test_arguments_come_from_docstrings() -> None:
    assert arguments(PDDLoss)["kr"] == "Weight of L_kr."
    assert arguments(PDDLoss)["prp_cosine"].endswith("which pushes student 2 away from its target.")
    assert arguments(Tracking)["experiment"] == "Name of the experiment, which is made if it does not exist."
    assert arguments(int) == {}
