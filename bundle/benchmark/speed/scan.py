"""The selective scans of one VMamba alone, backend by backend, against their floor."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bundle.benchmark.speed import rates
from bundle.benchmark.speed.floor import Layer, Rates, Work, floor_seconds, scan_layers, total
from bundle.benchmark.speed.measuring import Call, Case, timed
from bundle.benchmark.speed.settings import BATCHES, Settings, named
from scripts.networks.selective_scan import DIRECTIONS, selective_scan_2d

Scan = Callable[..., Tensor]  # with the arguments of selective_scan_2d
EAGER = "torch"
NO_COMPILER = ("torch", "numba")  # backends that run where there is no C++ compiler
_MODEL, _SMALL_MODEL = "vmamba_tiny_v0", "vmamba_pico"


def backends(device: torch.device) -> dict[str, Scan]:
    """The backends that can run on the device: the one place that knows of them."""
    if device.type == "cuda":  # where the function chooses by itself
        return {"as chosen": selective_scan_2d}
    return {EAGER: selective_scan_2d}


def scan(settings: Settings) -> list[Case]:
    """Gives all scans of an image, and the rates of which the floor is made."""
    model = _SMALL_MODEL if settings.quick else _MODEL
    layers = scan_layers(model, settings.image_size)
    facts = {"model": model, "work_an_image": asdict(total(layers))}
    cases = [
        Case(
            named(f"scan, {name}", batch_size, "fp32"),
            "images",
            batch_size,
            partial(_scan, backend, layers, batch_size, settings.device),
            facts,
        )
        for batch_size in BATCHES
        for name, backend in backends(settings.device).items()
    ]
    return [*cases, *rates.rate_cases(settings.device, settings.quick)]


def floor(figures: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The scans' floor from the figures of their group, as JSON values; None if a rate or every scan failed.

    ``seconds_an_image`` is the least time, and ``shares`` how near to it each scan comes, 1 at the floor.
    """
    by_name = {figure["name"]: figure for figure in figures}
    measured = [figure for name, figure in by_name.items() if name.startswith("scan, ")]
    kinds = (rates.EXPONENTIALS, rates.MULTIPLY_ADDS, rates.BYTES)
    if not measured or any(kind not in by_name for kind in kinds):
        return None
    reached = Rates(*(by_name[kind]["per_second"]["median"] for kind in kinds))
    seconds = floor_seconds(Work(**measured[0]["work_an_image"]), reached)
    shares = {figure["name"]: figure["per_second"]["median"] * seconds for figure in measured}
    return {"rates": reached._asdict(), "rates_of": rates.TAKEN_WITH, "seconds_an_image": seconds, "shares": shares}


def _scan(backend: Scan, layers: list[Layer], batch_size: int, device: torch.device) -> Call:
    inputs = {layer: _inputs(layer, batch_size, device) for layer in set(layers)}

    def run() -> None:
        with torch.no_grad():
            for layer in layers:
                backend(*inputs[layer])

    return timed(run, device)


def _inputs(layer: Layer, batch_size: int, device: torch.device) -> list[Tensor]:
    """Of the sizes that a trained network has: steps of 0.001 to 0.1, decays of 1 to N."""
    height, width, channels, states = layer
    generator = torch.Generator().manual_seed(0)
    per_token = (batch_size, height, width)
    x = torch.randn(*per_token, channels, generator=generator)
    delta = 10 ** (-3 + 2 * torch.rand(*per_token, DIRECTIONS, channels, generator=generator))
    b, c = torch.randn(2, *per_token, DIRECTIONS, states, generator=generator)
    a = -torch.arange(1.0, states + 1).expand(DIRECTIONS, channels, states).contiguous()
    return [values.to(device) for values in (x, delta, a, b, c, torch.ones(DIRECTIONS, channels))]
