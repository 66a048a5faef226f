"""``python -m bundle benchmark --speed --quick``, from the command line to its JSON."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from bundle.__main__ import main
from bundle.benchmark.speed import GROUPS

ROOT = Path(__file__).parents[4]


class Ran(NamedTuple):
    """Result of one run of all groups."""

    code: int
    result: dict[str, Any]
    printed: str


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    out = tmp_path_factory.mktemp("speed") / "folder" / "speed.json"
    words = ["--speed", "--quick", "--threads", "1", "--device", "cpu", "--out", str(out)]
    # In a process of its own: the runtimes that it loads have threads, with which later tests would fork.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "bundle", "benchmark", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return Ran(done.returncode, json.loads(out.read_text()), done.stdout)


def test_every_group_is_measured_and_nothing_fails(ran: Ran) -> None:
    assert ran.code == 0
    assert ran.result["failed"] == {}
    assert tuple(ran.result["groups"]) == GROUPS


def test_batches_and_precisions_of_a_first_and_a_cached_epoch_and_of_inference(ran: Ran) -> None:
    exported = {
        f"RD4AD, {runtime}, batch {batch}, {precision}"
        for runtime, precision in (("ONNX Runtime", "fp32"), ("OpenVINO", "fp32"), ("OpenVINO", "bf16"))
        for batch in (1, 8)
    }
    for group, whats in (("training", ("first epoch", "cached epoch")), ("inference", ("inference",))):
        expected = {
            f"{method} {what}, batch {batch}, {precision}"
            for method in ("RD4AD", "PDD")
            for what in whats
            for batch in (1, 8)
            for precision in ("fp32", "bf16")
        }
        found = {figure["name"] for figure in ran.result["groups"][group]}
        assert found == expected
    assert {figure["name"] for figure in ran.result["groups"]["exports"]} == exported


def test_what_is_kept_of_a_case_agrees_with_its_seconds(ran: Ran) -> None:
    for group, group_figures in ran.result["groups"].items():
        if group == "memory":
            continue
        for figure in group_figures:
            assert len(figure["seconds"]) == 1
            rate = figure["count"] / np.array(figure["seconds"])
            assert figure["per_second"]["median"] == pytest.approx(np.median(rate))
            assert figure["per_second"]["minimum"] == pytest.approx(rate.min())


def test_a_start_is_its_steps_and_the_interpreters(ran: Ran) -> None:
    (figure,) = ran.result["groups"]["start"]
    steps = figure["steps_of_the_last_start_in_seconds"]
    assert steps.keys() == {"import", "build", "first_map"}
    assert 0 < sum(steps.values()) < figure["seconds"][0]


def test_memory_is_at_least_that_of_the_libraries(ran: Ran) -> None:
    (figure,) = ran.result["groups"]["memory"]
    assert figure["name"] == "PDD training, batch 8, fp32"
    assert 2**27 < figure["bytes"] < 2**33


def test_the_scan_has_a_floor_and_its_work(ran: Ran) -> None:
    scans = [figure for figure in ran.result["groups"]["scan"] if figure["name"].startswith("scan, ")]
    # vmamba_pico at 64 pixels: 4 x tokens x 2 x dim channels x 2 states, of 256, 64, 16 and 4 tokens
    updates = sum(4 * tokens * 2 * dim * 2 for tokens, dim in ((256, 16), (64, 32), (16, 64), (4, 128)))
    assert {figure["work_an_image"]["updates"] for figure in scans} == {updates}
    floor = ran.result["floor"]
    for figure in scans:
        assert floor["shares"][figure["name"]] == pytest.approx(
            floor["seconds_an_image"] * figure["per_second"]["median"]
        )


def test_machine_versions_threads_and_method_are_told(ran: Ran) -> None:
    result = ran.result
    assert result["threads"] == 1
    assert (result["device"], result["image_size"], result["quick"]) == ("cpu", 64, True)
    assert result["versions"].keys() >= {"python", "torch", "numpy", "timm", "commit"}
    assert (result["method"]["rounds"], result["method"]["warm_up_rounds"]) == (1, 1)
    assert result["weights"].startswith("UNTRAINED")
    assert result["command"].startswith("python -m bundle ")
    assert result["comparisons"] == []  # of networks that nobody uses


def test_what_is_printed_names_all_that_was_measured_and_where_it_is_written(ran: Ran) -> None:
    for group_figures in ran.result["groups"].values():
        for figure in group_figures:
            assert figure["name"] in ran.printed
    assert "UNTRAINED" in ran.printed
    assert "These figures only show that it runs" in ran.printed
    assert "speed.json" in ran.printed.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--speed", "--jobs", "2"], "--jobs: only with --suite"),
        (["--suite", "s.json", "--image-size", "64", "--quick"], "--quick, --image-size: only with --speed"),
        (["--speed", "--rounds", "0"], "--rounds must be at least 1, got"),
    ],
)
def test_options_that_do_not_fit_are_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", *words]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_in_place_of_the_file_is_told_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "--speed", "--quick", "--out", str(tmp_path)]) == 1
    assert f"{tmp_path}: is a folder. Give --out the name" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--speed", "--suite", "s.json"]])
def test_exactly_one_of_suite_and_speed_is_asked_for(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", *words])
    assert ended.value.code == 2
    assert "--suite" in capsys.readouterr().err


def test_only_the_groups_asked_for_are_measured(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    words = ["--only", "slices", "--rounds", "3", "--threads", str(torch.get_num_threads()), "--out", str(out)]
    assert main(["benchmark", "--speed", "--quick", *words]) == 0
    result = json.loads(out.read_text())
    assert result["groups"].keys() == {"slices"}
    assert {len(figure["seconds"]) for figure in result["groups"]["slices"]} == {3}
