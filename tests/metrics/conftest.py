"""Metrics as two processes compute them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def two_ranks(tmp_path: Path) -> Callable[..., list[list[str]]]:
    """``two_ranks(script, **data)``: the lines that each of two processes prints.

    The script finds its rank, the file at which the two meet, and the file of ``data`` in its arguments.
    """

    def run(script: str, **data: Any) -> list[list[str]]:
        torch.save(data, tmp_path / "data.pt")
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(rank), str(tmp_path / "rendezvous"), str(tmp_path / "data.pt")],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        printed = []
        for rank in ranks:
            printed.append(rank.communicate(timeout=120)[0].splitlines())
            assert rank.returncode == 0
        return printed

    return run
