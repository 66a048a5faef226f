"""Results that meet a full disk."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.inputs import Inputs
from scripts.results.inference import InferenceResults


def test_a_full_disk_is_named_with_folder_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preprocessing: Any = SimpleNamespace(reading=None, plane="axial")
    unused: Any = None
    results = InferenceResults(tmp_path, unused, unused, preprocessing, unused, "model.pt", Inputs())

    def full(item: dict[str, Any]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(results, "_write_item", full)
    engine: Any = SimpleNamespace(state=SimpleNamespace(batch=[{"name": "a"}], output=[{}]))
    with pytest.raises(
        OSError, match=f"^Cannot write to {tmp_path}: .*No space left.* Make room there, or name another"
    ):
        results._collect(engine)
