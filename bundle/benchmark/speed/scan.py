"""Measures the selective scans of one VMamba alone, by backend, against their floor."""

from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bundle.benchmark.speed import rates
from bundle.benchmark.speed.floor import Layer, Rates, Work, floor_seconds, scan_layers, total
from bundle.benchmark.speed.measuring import Call, Case, timed
from bundle.benchmark.speed.settings import BATCHES, Settings, named
from scripts.networks.selective_scan import DIRECTIONS, Scan, backend, cpu_backends

EAGER = "torch"
NO_COMPILER = ("torch", "numba")  # backends that need no C compiler
_MODEL, _SMALL_MODEL = "vmamba_tiny_v0", "vmamba_pico"


def backends(device: torch.device) -> dict[str, Scan]:
    """Backends of the scan that run on the device."""
    if device.type == "cuda":
        return dict([backend("cuda")])
    return cpu_backends()


def scan(settings: Settings) -> list[Case]:
    """Cases of all scans of an image, and of the rates that set the floor."""
    model = _SMALL_MODEL if settings.quick else _MODEL
    layers = scan_layers(model, settings.image_size)
    facts = {"model": model, "work_an_image": asdict(total(layers))}
    cases = [
        Case(
            named(f"scan, {name}", batch_size, "fp32"),
            "images",
            batch_size,
            partial(_scan, form, layers, batch_size, settings.device),
            facts,
        )
        for batch_size in BATCHES
        for name, form in backends(settings.device).items()
    ]
    return [*cases, *rates.rate_cases(settings.device, settings.quick)]


def floor(figures: list[dict[str, Any]], device: torch.device) -> dict[str, Any] | None:
    """Floor of the scans, computed from the figures of their group.

    Returns:
        JSON values: ``seconds_an_image`` is the least time, and ``shares`` how near to it each scan comes, with 1 at
        the floor. None if a rate or every scan failed.
    """
    by_name = {figure["name"]: figure for figure in figures}
    measured = [figure for name, figure in by_name.items() if name.startswith("scan, ")]
    kinds = (rates.EXPONENTIALS, rates.MULTIPLY_ADDS, rates.BYTES)
    if not measured or any(kind not in by_name for kind in kinds):
        return None
    reached = Rates(*(by_name[kind]["per_second"]["median"] for kind in kinds))
    seconds = floor_seconds(Work(**measured[0]["work_an_image"]), reached)
    shares = {figure["name"]: figure["per_second"]["median"] * seconds for figure in measured}
    return {
        "rates": reached._asdict(),
        "rates_of": rates.taken_with(device),
        "seconds_an_image": seconds,
        "shares": shares,
    }


def _scan(form: Scan, layers: list[Layer], batch_size: int, device: torch.device) -> Call:
    inputs = {layer: _inputs(layer, batch_size, device) for layer in set(layers)}

    def run() -> None:
        with torch.no_grad():
            for layer in layers:
                form(*inputs[layer])

    return timed(run, device)


def _inputs(layer: Layer, batch_size: int, device: torch.device) -> list[Tensor]:
    """Random inputs with the magnitudes of a trained network: steps around 0.01, decays of 1 to N."""
    height, width, channels, states, rank = layer
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch_size, height, width, channels, generator=generator)
    projected = torch.randn(batch_size, height, width, DIRECTIONS, rank + 2 * states, generator=generator)
    step_weight = torch.randn(DIRECTIONS, channels, rank, generator=generator) / rank**0.5
    step_bias = torch.full((DIRECTIONS, channels), -4.6)
    a = -torch.arange(1.0, states + 1).expand(DIRECTIONS, channels, states).contiguous()
    tensors = (x, projected, step_weight, step_bias, a, torch.ones(DIRECTIONS, channels))
    return [tensor.to(device) for tensor in tensors]
