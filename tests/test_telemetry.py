"""Nothing that runs the bundle reports its use to the makers of libraries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = """
import monai.bundle  # as `python -m monai.bundle run` does before anything of ours; it imports MLflow
from mlflow.telemetry import get_telemetry_client
before = get_telemetry_client()
import scripts, os
print(before is not None, get_telemetry_client() is not None, not os.getenv("NNCF_CI"))
"""


@pytest.mark.parametrize(
    ("given", "reports"),
    [({}, "True False False"), ({"MLFLOW_DISABLE_TELEMETRY": "false", "NNCF_CI": ""}, "True True True")],
)
def test_what_libraries_report_is_off_unless_it_is_asked_for(
    given: dict[str, str], reports: str, tmp_path: Path
) -> None:
    quiet = ("CI", "PYTEST", "DO_NOT_TRACK", "MLFLOW", "NNCF", "GITHUB", "JENKINS", "TF_BUILD")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(quiet)}
    environment |= {"HOME": str(tmp_path), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", **given}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    assert done.stdout.splitlines()[-1:] == [reports], done.stdout + done.stderr
