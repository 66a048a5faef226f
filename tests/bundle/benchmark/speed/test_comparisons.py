"""Comparisons of made-up figures."""

from typing import Any

import numpy as np
import pytest
import torch

from bundle.benchmark.speed import rates
from bundle.benchmark.speed.comparisons import compare
from bundle.benchmark.speed.floor import Layer, work
from bundle.benchmark.speed.measuring import Case, figures
from bundle.benchmark.speed.scan import floor

CPU = torch.device("cpu")


def figure(name: str, seconds: list[float], count: float = 8, **facts: Any) -> dict[str, Any]:
    return figures(Case(name, "images", count, lambda: lambda: 0.0, facts), seconds)


def only(found: list[dict[str, Any]]) -> dict[str, Any]:
    (one,) = found
    return one


@pytest.mark.parametrize(("cached", "met"), [([1.0, 2.0, 4.0], True), ([2.0, 4.0, 8.0], False)])
def test_a_cached_epoch_is_compared_round_by_round(cached: list[float], met: bool) -> None:
    first = [5.0, 8.0, 20.0]
    training = [
        figure("PDD first epoch, batch 8, fp32", first, 16),
        figure("PDD cached epoch, batch 8, fp32", cached, 16),
    ]
    one = only(compare({"training": training}, None))
    assert one["value"] == np.median(np.array(first) / np.array(cached))
    assert (one["unit"], one["wanted"], one["met"]) == ("x", 4.0, met)
    assert one["spread"]["minimum"] == min(a / b for a, b in zip(first, cached, strict=True))


def test_rates_are_compared_not_times_of_unlike_numbers_of_images() -> None:
    training = [
        figure("RD4AD first epoch, batch 1, fp32", [4.0], 8),
        figure("anomalib ReverseDistillation training, batch 1, fp32", [1.0], 1),
    ]
    one = only(compare({"training": training}, None))
    assert one["value"] == 2.0  # 2 images a second over 1
    assert one["text"] == "training RD4AD, first epoch, over anomalib's, batch 1, fp32"
    assert (one["wanted"], one["met"]) == (None, None)


def test_the_best_export_of_each_side_stands_for_it() -> None:
    exports = [
        figure("anomalib ReverseDistillation, ONNX Runtime, batch 1, fp32", [0.5, 0.5], 1),
        figure("anomalib ReverseDistillation, OpenVINO, batch 1, fp32", [0.4, 0.4], 1),
        figure("RD4AD, ONNX Runtime, batch 1, fp32", [0.1, 0.1], 1),
        figure("RD4AD, OpenVINO, batch 1, fp32", [0.2, 0.2], 1),
        figure("RD4AD, OpenVINO, batch 1, bf16", [0.05, 0.05], 1),  # which has no counterpart
    ]
    one = only(compare({"exports": exports}, None))
    assert one["value"] == pytest.approx(4.0)
    assert one["of"] == "RD4AD, ONNX Runtime, batch 1, fp32"
    assert one["to"] == "anomalib ReverseDistillation, OpenVINO, batch 1, fp32"


def test_the_vmamba_in_bf16_is_compared_with_the_plain_resnet_in_fp32() -> None:
    teachers = [
        figure("vmamba_tiny_v0, batch 8, bf16", [1.0]),
        figure("vmamba_tiny_v0, batch 8, fp32", [9.0]),
        figure("wide_resnet50_2, batch 8, fp32", [9.0]),
        figure("plain timm wide_resnet50_2, batch 8, fp32", [2.0]),
    ]
    assert only(compare({"teachers": teachers}, None))["value"] == 2.0


@pytest.mark.parametrize(("gib", "met"), [(8.0, True), (8.1, False)])
def test_the_memory_of_pdds_training_at_batch_8_may_be_8_gib(gib: float, met: bool) -> None:
    memory = [
        {"name": "PDD training, batch 8, fp32", "bytes": gib * 2**30, "of": "resident memory"},
        {"name": "RD4AD training, batch 8, fp32", "bytes": 2**40, "of": "resident memory"},
    ]
    one = only(compare({"memory": memory}, None))
    assert (one["value"], one["unit"], one["met"]) == (gib, "GiB", met)


def scans(**seconds: float) -> list[dict[str, Any]]:
    """Figures of a scan of 8 updates an image, on a machine with 1 exponential, multiply-add and byte per second."""
    layer = Layer(1, 1, 1, 2, 3)
    measured = [
        figure(f"scan, {name}, batch 8, fp32", [value], model="m", work_an_image=vars(work(layer)))
        for name, value in seconds.items()
    ]
    names = (rates.EXPONENTIALS, rates.MULTIPLY_ADDS, rates.BYTES)
    return [*measured, *(figure(name, [1.0], 1) for name in names)]


@pytest.fixture(params=["native", "torch"])
def taken_with(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Code that the rates were measured with."""
    monkeypatch.setattr(rates, "taken_with", lambda device: request.param)
    return request.param


def test_the_share_of_the_floor_is_that_of_the_fastest_scan(taken_with: str) -> None:
    group = scans(torch=8 * 1200.0, numba=8 * 240.0)
    bottom = floor(group, CPU)
    assert bottom is not None
    assert bottom["seconds_an_image"] == 120  # of 120 bytes; the arithmetic takes 16 + 49
    assert bottom["shares"] == pytest.approx({"scan, torch, batch 8, fp32": 0.1, "scan, numba, batch 8, fp32": 0.5})
    ratio, share = compare({"scan": group}, bottom)
    assert ratio["value"] == pytest.approx(5.0)
    assert ratio["met"] is True
    assert share["value"] == pytest.approx(50.0)
    assert share["of"] == "scan, numba, batch 8, fp32"
    assert share["met"] is {"native": False, "torch": None}[taken_with]  # torch's exponentials are no bound


@pytest.mark.parametrize(("seconds", "met"), [(8 * 150.0, True), (8 * 170.0, False)])
def test_the_share_is_judged_where_its_rates_are_a_bound(
    seconds: float, met: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "taken_with", lambda device: "native")
    group = scans(native=seconds)
    assert only(compare({"scan": group}, floor(group, CPU)))["met"] is met


def test_there_is_no_floor_without_every_rate() -> None:
    assert floor(scans(torch=1.0)[:-1], CPU) is None
    assert floor([], CPU) is None
