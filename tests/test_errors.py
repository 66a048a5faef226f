"""The last line of an error is its cause, not MONAI's wrapping of it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_missing_input_ends_with_what_to_do(tmp_path: Path) -> None:
    command = ["-m", "monai.bundle", "run", "inferring", "--config_file", "configs/inference.json"]
    missing = str(tmp_path / "nothing.png")
    result = subprocess.run(
        [sys.executable, *command, "--input", missing], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert (
        result.stderr.rstrip().splitlines()[-1]
        == f"The cause: FileNotFoundError: There is no file or folder {missing}."
    )
