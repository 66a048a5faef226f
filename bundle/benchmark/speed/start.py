"""Measures the time to the first result: a new process imports, builds the network and computes one anomaly map."""

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from bundle.benchmark.speed.measuring import Call, Case
from bundle.benchmark.speed.methods import ROOT, method_config
from bundle.benchmark.speed.settings import Settings, environment

_SCRIPT = Path(__file__).with_name("first_result.py")


def start(settings: Settings) -> list[Case]:
    """Cases of starting each method; files come from the system's cache, as they were read before."""
    cases = []
    for name in settings.in_processes:
        steps: dict[str, float] = {}  # seconds of the latest start
        facts = {"steps_of_the_last_start_in_seconds": steps}
        cases.append(Case(f"{name}, process to first map", "starts", 1, partial(_start, name, settings, steps), facts))
    return cases


def _start(name: str, settings: Settings, steps: dict[str, float]) -> Call:
    def call() -> float:
        config = method_config(name, str(settings.device), settings.quick)
        asked = json.dumps({"config": config, "image_size": settings.image_size})
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(_SCRIPT)],
            input=asked,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(settings.threads, PYTHONPATH=str(ROOT), PYTHONSAFEPATH="1"),
            check=False,
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            raise RuntimeError(f"the process ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        steps.update(json.loads(done.stdout.splitlines()[-1]))
        return seconds

    return call
