"""The model card of a model folder."""

from typing import Any

import pytest

from scripts.model.card import model_card


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
