"""The last line of an error is its cause, not MONAI's wrapping of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.errors import _excepthook

ROOT = Path(__file__).parent.parent


def test_a_missing_datalist_ends_with_what_to_do(tmp_path: Path) -> None:
    command = ["-m", "monai.bundle", "run", "training", "--config_file", "configs/train.json"]
    missing = str(tmp_path / "nothing.json")
    result = subprocess.run(
        [sys.executable, *command, "--datalist", missing], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    last = result.stderr.rstrip().splitlines()[-1]
    assert last.startswith("The cause: FileNotFoundError: ")
    assert missing in last
    assert "python -m bundle prepare" in last


def test_the_cause_is_the_wrapped_error_not_what_lies_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    wrapped = ValueError("weights.pth: put it there")
    wrapped.__cause__ = OSError("no route to host")
    inner = RuntimeError("Failed to instantiate component 'Teacher'")
    inner.__cause__ = wrapped
    outer = RuntimeError("Failed to evaluate ConfigExpression")
    outer.__cause__ = inner
    _excepthook(RuntimeError, outer, None)
    assert capsys.readouterr().err.rstrip().splitlines()[-1] == "The cause: ValueError: weights.pth: put it there"


def test_an_error_of_its_own_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    _excepthook(ValueError, ValueError("once"), None)
    assert capsys.readouterr().err.count("once") == 1
