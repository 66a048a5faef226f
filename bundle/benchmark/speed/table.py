"""Formats the figures as a table to read."""

from typing import Any

import numpy as np

from bundle.benchmark.speed.measuring import spread

_STEPS = ((1e9, "G"), (1e6, "M"))


def table(result: dict[str, Any]) -> str:
    """Table of a result, in lines of text."""
    machine, width = result["machine"], 64
    gpu = f", {machine['gpu']['name']}" if machine["gpu"] else ""
    lines = [
        f"{machine['cpu']}{gpu}, {result['threads']} threads, torch {result['versions']['torch']}, "
        f"{result['image_size']} x {result['image_size']} pixels; {result['weights']}",
    ]
    if result["quick"]:
        lines.append("--quick: small networks. These figures only show that it runs.")
    for group, figures in result["groups"].items():
        memory, waited = group == "memory", group == "start"
        what = "peak, GiB" if memory else "seconds" if waited else "per second"
        heading = "" if memory else f"{'median':>12}{'quartiles':>22}{'minimum':>12}"
        lines.append(f"\n{f'{group}: {what}':<{width}}{heading}".rstrip())
        for figure in figures:
            if memory:
                values = f"{figure['bytes'] / 2**30:12.2f}  {figure['of']}"
            else:
                values = _numbers(spread(np.array(figure["seconds"])) if waited else figure["per_second"])
                values += f"  {figure['unit']}"
            lines.append(f"  {figure['name']:<{width - 2}}{values}")
    for name, reason in result["failed"].items():
        lines.append(f"\nNOT MEASURED {name}: {reason}")
    if result["comparisons"]:
        lines.append(f"\n{'compared':<{width + 20}}{'is':>12}{'wanted':>12}")
    for one in result["comparisons"]:
        lines.append(f"  {one['text']:<{width + 18}}{one['value']:9.2f} {one['unit']:<3}{_verdict(one)}".rstrip())
    return "\n".join(lines)


def _numbers(values: dict[str, float]) -> str:
    quartiles = f"{_short(values['lower_quartile'])} to {_short(values['upper_quartile'])}"
    return f"{_short(values['median']):>12}{quartiles:>22}{_short(values['minimum']):>12}"


def _short(value: float) -> str:
    for step, letter in _STEPS:
        if value >= step:
            return f"{value / step:.2f} {letter}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _verdict(one: dict[str, Any]) -> str:
    if one["wanted"] is None:
        return ""
    bound = "at most" if one["unit"] == "GiB" else "at least"
    met = {None: "undecided", True: "met", False: "NOT MET"}[one["met"]]
    return f"  {bound} {one['wanted']:g}: {met}"
