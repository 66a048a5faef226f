"""Peak memory of a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from bundle.benchmark.speed.memory import Job, jobs, measure
from bundle.benchmark.speed.settings import Settings

ROOT = Path(__file__).parents[4]
LARGE = 3 * 2**28
CODE = """
import json, numpy, torch
from bundle.benchmark.speed.memory import peak
before = peak(torch.device("cpu"))["bytes"]
numpy.ones({size}, dtype=numpy.uint8)
print(json.dumps([before, peak(torch.device("cpu"))["bytes"]]))
"""


def test_what_was_held_for_a_moment_counts() -> None:
    words = [sys.executable, "-c", CODE.format(size=LARGE)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout)
    assert after - before == pytest.approx(LARGE, rel=0.05)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(torch.device("cpu"), 64, 1, 1, False, tmp_path)


def test_every_method_is_trained_and_infers_in_both_precisions_and_batches(settings: Settings) -> None:
    names = [job.name for job in jobs(settings)]
    assert len(names) == len(set(names)) == 16
    assert "PDD training, batch 8, fp32" in names
    assert "RD4AD inference, batch 1, bf16" in names


def test_a_process_that_fails_is_told_with_its_reason(settings: Settings) -> None:
    job = Job("PDD", "training", 8, False, "no such device", 64, 1, True)
    found, failed = measure([job], tqdm(disable=True))
    assert found == []
    assert "no such device" in failed["PDD training, batch 8, fp32"]
