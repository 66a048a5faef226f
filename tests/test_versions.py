"""Every file that names a version of the project names the same."""

import json
import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
METADATA = json.loads((ROOT / "configs" / "metadata.json").read_text())


def test_the_version_is_one() -> None:
    versions = {
        "pyproject.toml": tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"],
        "CITATION.cff": yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"],
        "app.yaml": yaml.safe_load((ROOT / "bundle/deploy/app.yaml").read_text())["application"]["version"],
    }
    assert versions == dict.fromkeys(versions, METADATA["version"])


def test_both_changelogs_name_the_same_versions_in_the_same_order() -> None:
    headings = re.findall(r"^## (\d+\.\d+\.\d+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings == list(METADATA["changelog"])
    assert headings[0] == METADATA["version"]
