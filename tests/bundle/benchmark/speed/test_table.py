"""Table of a result."""

from typing import Any

import pytest

from bundle.benchmark.speed.measuring import Case, figures
from bundle.benchmark.speed.table import table


def figure(name: str, unit: str, count: float, seconds: list[float]) -> dict[str, Any]:
    return figures(Case(name, unit, count, lambda: lambda: 0.0), seconds)


def result(**parts: Any) -> dict[str, Any]:
    about = {
        "machine": {"cpu": "A CPU", "gpu": None},
        "versions": {"torch": "9.9"},
        "threads": 3,
        "image_size": 256,
        "weights": "UNTRAINED",
        "quick": False,
    }
    return {**about, "groups": {}, "failed": {}, "comparisons": [], **parts}


def row(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if name in line]
    return line.split(name)[1].split()


def test_what_it_was_taken_on_comes_first() -> None:
    first = table(result()).splitlines()[0]
    assert first == "A CPU, 3 threads, torch 9.9, 256 x 256 pixels; UNTRAINED"
    gpu = table(result(machine={"cpu": "A CPU", "gpu": {"name": "A GPU"}}))
    assert gpu.startswith("A CPU, A GPU, 3 threads")


def test_rates_are_a_second_and_starts_are_seconds() -> None:
    training = [figure("PDD", "images", 16, [2.0, 4.0, 8.0])]
    start = [figure("PDD start", "starts", 1, [2.0, 4.0, 8.0])]
    scan = [figure("rate: bytes", "bytes", 24e9, [1.0])]
    text = table(result(groups={"training": training, "start": start, "scan": scan}))
    assert row(text, "  PDD  ") == ["4", "3", "to", "6", "2", "images"]
    assert row(text, "PDD start") == ["4", "3", "to", "6", "2", "starts"]
    assert row(text, "rate: bytes")[:2] == ["24.00", "G"]
    assert "training: per second" in text
    assert "start: seconds" in text


def test_memory_is_in_gib() -> None:
    memory = [{"name": "PDD training", "bytes": 3 * 2**29, "of": "resident memory"}]
    assert row(table(result(groups={"memory": memory})), "PDD training") == ["1.50", "resident", "memory"]


@pytest.mark.parametrize(
    ("unit", "wanted", "met", "verdict"),
    [
        ("x", 4.0, True, "at least 4: met"),
        ("x", 4.0, False, "at least 4: NOT MET"),
        ("%", 75.0, None, "at least 75: undecided"),
        ("GiB", 8.0, True, "at most 8: met"),
        ("x", None, None, ""),
    ],
)
def test_a_comparison_says_whether_it_is_as_wanted(
    unit: str, wanted: float | None, met: bool | None, verdict: str
) -> None:
    one = {"text": "this over that", "value": 4.321, "unit": unit, "wanted": wanted, "met": met}
    found = row(table(result(comparisons=[one])), "this over that")
    assert " ".join(found) == f"4.32 {unit} {verdict}".strip()


def test_what_failed_is_named_with_its_reason() -> None:
    text = table(result(failed={"training, PDD": "FloatingPointError: nan"}))
    assert "NOT MEASURED training, PDD: FloatingPointError: nan" in text
