"""Cases take turns, and their figures follow from the seconds of their calls."""

import itertools
import statistics
from collections.abc import Callable

import numpy as np
import pytest
from tqdm import tqdm

from bundle.benchmark.speed.measuring import Call, Case, figures, spread, take, timed

BAR = tqdm(disable=True)


class Log:
    """Cases that record when they are prepared and called, and report the seconds they are given."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def case(self, name: str, seconds: list[float], count: float = 1, fails: str = "") -> Case:
        left = iter(seconds)

        def call() -> float:
            self.events.append(name)
            try:
                return next(left)
            except StopIteration:
                raise FloatingPointError(fails) from None

        def prepare() -> Call:
            self.events.append(f"prepare {name}")
            return call

        return Case(name, "images", count, prepare, {"about": name})


def test_each_round_calls_every_case_once_after_a_round_that_does_not_count() -> None:
    log = Log()
    taken, failed = take([log.case("a", [99, 1, 2, 3]), log.case("b", [99, 4, 5, 6])], 3, BAR)
    assert log.events == ["prepare a", "a", "prepare b", "b", "a", "b", "a", "b", "a", "b"]
    assert [one["seconds"] for one in taken] == [[1, 2, 3], [4, 5, 6]]
    assert failed == {}


@pytest.mark.parametrize("went_well", [0, 1, 2])
def test_a_case_that_fails_is_named_and_the_others_go_on(went_well: int) -> None:
    log = Log()
    cases = [log.case("bad", [1.0] * went_well, fails="no such number"), log.case("good", [9, 1, 2, 3])]
    taken, failed = take(cases, 3, BAR)
    assert [one["name"] for one in taken] == ["good"]
    assert failed == {"bad": "FloatingPointError: no such number"}
    assert log.events.count("bad") == went_well + 1
    assert log.events.count("good") == 4


def test_a_case_that_cannot_be_prepared_is_never_called() -> None:
    def prepare() -> Call:
        raise MemoryError("too large")

    taken, failed = take([Case("large", "images", 1, prepare)], 2, BAR)
    assert (taken, failed) == ([], {"large": "MemoryError: too large"})


def ticking(*times: float) -> Callable[[], float]:
    return iter(times).__next__


def test_what_is_timed_is_the_work_alone() -> None:
    done: list[int] = []
    clock = itertools.count(10.0, 2.5).__next__
    call = timed(lambda: done.append(1), clock=clock)
    assert done == []
    assert [call(), call()] == [2.5, 2.5]
    assert done == [1, 1]
    assert timed(lambda: None, clock=ticking(3.0, 10.0))() == 7.0


def test_the_spread_is_that_of_numpy_and_of_the_standard_library() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=101)
    found = spread(values)
    assert found["median"] == pytest.approx(statistics.median(values))
    quartiles = statistics.quantiles(values, n=4, method="inclusive")
    assert [found["lower_quartile"], found["upper_quartile"]] == pytest.approx([quartiles[0], quartiles[2]])
    assert found["minimum"] == min(values)
    assert np.median(values) == found["median"]


def test_figures_tell_units_a_second_and_keep_the_seconds_and_the_facts() -> None:
    case = Case("a", "images", 16, lambda: lambda: 0.0, {"volume": [1, 2]})
    assert figures(case, [2.0, 4.0, 8.0]) == {
        "name": "a",
        "unit": "images",
        "count": 16,
        "seconds": [2.0, 4.0, 8.0],
        "per_second": {"median": 4.0, "minimum": 2.0, "lower_quartile": 3.0, "upper_quartile": 6.0},
        "volume": [1, 2],
    }
