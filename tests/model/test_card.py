"""The model card of a model folder."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from scripts.data.datalist import datalist_hash
from scripts.model.card import EvaluatedCard, model_card


@pytest.mark.parametrize(
    ("facts", "notice"),
    [
        ({"untrained_teachers": []}, "For research. Not for clinical use."),
        (
            {"untrained_teachers": ["resnet18", "vmamba"]},
            "For research. Not for clinical use. **Untrained teachers (resnet18, vmamba): its scores mean nothing.**",
        ),
    ],
    ids=["trained", "untrained"],
)
def test_a_card_begins_with_what_the_model_is_not_for(facts: dict[str, Any], notice: str) -> None:
    model = {"name": "brain", "created": "2026-11-28T16:13:41+00:00", "checkpoint_sha256": "0351f338f57f" + "0" * 52}
    card = model_card({"version": "0.6.0", "model": model | facts})
    assert card.split("\n\n")[:2] == ["# brain", notice]
    assert "| Checkpoint | sha256 0351f338f57f |" in card


def test_a_folder_that_may_only_be_read_is_evaluated_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = {"metrics": {"image_auroc": 0.75}, "model": {"data": "heads"}, "items": 2, "groups": 2}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "datalist.json").write_text(json.dumps({"name": "heads", "test": []}))
    card = EvaluatedCard(tmp_path / "brain", tmp_path, tmp_path / "datalist.json")
    card()
    written = card.card.read_text()
    assert "| image auroc | 0.750 |" in written
    assert f"Test split of heads (sha256 {datalist_hash(tmp_path / 'datalist.json')[:12]}): 2 scans" in written

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_text", read_only)
    card()
    assert card.card.read_text() == written
    assert f"The scores are not in the model card: {card.card} cannot be written" in caplog.text
