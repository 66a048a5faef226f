"""Measures the rates of this machine that set the floor of a scan."""

from collections.abc import Callable
from functools import partial

import torch

from bundle.benchmark.speed.measuring import Call, Case, timed
from scripts.networks.selective_scan import cpu_backends, native

EXPONENTIALS, MULTIPLY_ADDS, BYTES = "rate: exponentials", "rate: multiply-adds", "rate: bytes"
_REPEATS = 10**6  # takes some tenths of a second
_IN_CACHE = 2**15  # float32 values for each thread, 128 KiB; torch gives a thread no less
_MATRIX = 1024
_IN_MEMORY = 2**26  # float32 values, 256 MiB: more than any cache holds


def taken_with(device: torch.device) -> str:
    """Code that the rates are measured with: ``"native"``, or kernels of ``"torch"``, whose rates are no bound."""
    return "native" if device.type == "cpu" and "native" in cpu_backends() else "torch"


def rate_cases(device: torch.device, quick: bool = False) -> list[Case]:
    """Cases that measure the rates in ``floor.Rates``.

    Args:
        device: Device to measure.
        quick: Whether to do a thousandth of the work.
    """
    less = 1000 if quick else 1
    make = _native if taken_with(device) == "native" else _torch
    memory = _IN_MEMORY // less

    def copied() -> Call:
        source, target = torch.rand(memory, device=device), torch.empty(memory, device=device)
        return timed(lambda: target.copy_(source), device)

    return [*make(device, less), Case(BYTES, "bytes", 2 * 4 * memory, copied)]


def _native(device: torch.device, less: int) -> list[Case]:
    repeats = _REPEATS // less
    functions = {EXPONENTIALS: native.exponentials, MULTIPLY_ADDS: native.multiply_adds}

    def repeated(function: Callable[[int], int]) -> Call:
        return timed(partial(function, repeats), device)

    return [
        Case(name, name.removeprefix("rate: "), function(1) * repeats, partial(repeated, function))
        for name, function in functions.items()
    ]


def _torch(device: torch.device, less: int) -> list[Case]:
    values = _IN_CACHE * torch.get_num_threads() if device.type == "cpu" else _IN_MEMORY // 4
    repeats = max(1, (500 if device.type == "cpu" else 20) // less)
    side = _MATRIX if less == 1 else _MATRIX // 8

    def exponentials() -> Call:
        numbers, result = torch.linspace(-8, 0, values, device=device), torch.empty(values, device=device)
        return timed(lambda: [torch.exp(numbers, out=result) for _ in range(repeats)], device)

    def multiply_adds() -> Call:
        left, right = torch.rand(2, side, side, device=device)
        result = torch.empty_like(left)
        return timed(lambda: [torch.mm(left, right, out=result) for _ in range(4)], device)

    return [
        Case(EXPONENTIALS, "exponentials", values * repeats, exponentials),
        Case(MULTIPLY_ADDS, "multiply-adds", 4 * side**3, multiply_adds),
    ]
