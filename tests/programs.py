"""Outside programs that tests check our files with; of the tests of both environments."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def find_program(name: str) -> str:
    """Path of a program; where it is missing, the test is skipped, or fails in CI."""
    places = [str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]
    path = shutil.which(name, path=os.pathsep.join(places))
    if path is None:
        reason = f"the program {name} is not installed: see 'make programs'"
        if os.environ.get("REQUIRE_PROGRAMS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
