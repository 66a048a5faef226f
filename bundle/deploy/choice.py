"""Which series of a study are scored, by a file of rules; ``rules.json`` explains its form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from scripts.dicom.conversion import series_name
from scripts.dicom.rules import Rules
from scripts.dicom.series import Series
from scripts.model.modality import trained_modalities

TRAINED = "trained"  # the word for what the model was trained on
ORDERS = ("priority", "alternatives")
TAKES = ("all", "first", "largest")
_CONDITIONS = ("modality", "description", "orientation", "min_slices")


@dataclass(frozen=True)
class Rule:
    """Conditions, and how many of a study's series that meet them are taken.

    Attributes:
        conditions: Conditions, all of which a series has to meet.
        take: all, first or largest.
    """

    conditions: Rules
    take: str = "all"

    def pick(self, met: Sequence[Series]) -> list[Series]:
        """Takes its share of the series that meet the conditions."""
        if self.take == "largest":
            return [max(met, key=lambda series: series.n_slices)] if met else []
        return list(met[:1] if self.take == "first" else met)


@dataclass(frozen=True)
class Choice:
    """Rules, and how they go together.

    Attributes:
        rules: Rules, in the order of the file.
        order: priority (the first rule that a series of the study meets) or alternatives (every rule).
    """

    rules: Sequence[Rule]
    order: str = "priority"

    def choose(self, found: Sequence[Series]) -> tuple[dict[str, Series], dict[str, str]]:
        """Chooses among series, study by study.

        Returns:
            The chosen series by name, and the reasons why the others are left out, by name, in the order found. Neither
            tells anything of a patient.
        """
        chosen: dict[str, Series] = {}
        others: list[tuple[str, str]] = []
        for _, group in groupby(sorted(found, key=_study), key=_study):
            study = list(group)
            taken = self._taken(study)
            for series in study:
                name = series_name(series)
                if series not in taken:
                    others.append((name, self._reason(series)))
                elif name in chosen:
                    others.append((name, "another series has its UID"))
                else:
                    chosen[name] = series
        left_out: dict[str, str] = {}
        for name, reason in others:
            while name in chosen or name in left_out:  # of another patient or study
                name += " (again)"
            left_out[name] = reason
        order = {series: place for place, series in enumerate(found)}
        return dict(sorted(chosen.items(), key=lambda item: order[item[1]])), left_out

    def _taken(self, study: list[Series]) -> list[Series]:
        taken: list[Series] = []
        for rule in self.rules:
            met = [series for series in study if rule.conditions.why_not(series) is None]
            taken += [series for series in rule.pick(met) if series not in taken]
            if taken and self.order == "priority":
                break
        return taken

    def _reason(self, series: Series) -> str:
        reasons = [rule.conditions.why_not(series) for rule in self.rules]
        if None in reasons:
            return "another series of its study was taken"
        if len(set(reasons)) == 1:
            return str(reasons[0])
        return "; ".join(f"rule {number}: {reason}" for number, reason in enumerate(reasons, start=1))


def read_choice(path: Path, modality: str | None, plane: str) -> Choice:
    """Reads a file of rules.

    Args:
        path: JSON file.
        modality: Modality that the model was trained on, see ``trained_modalities``.
        plane: Plane that the model looks at: axial, coronal or sagittal.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no file of rules; names what is wrong.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of rules {path}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("rules"), list) or not content["rules"]:
        raise ValueError(
            f'{path} has no list "rules" of at least one rule. Take rules.json of bundle/deploy as a model.'
        )
    try:
        _check_keys("the file", content, ("about", "order", "rules"))
        order = _one_of("order", content.get("order", ORDERS[0]), ORDERS)
        rules = [
            _rule(f"rule {number}", rule, modality, plane) for number, rule in enumerate(content["rules"], start=1)
        ]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return Choice(rules, order)


def _study(series: Series) -> tuple[str, str]:
    return series.patient_key, series.study_uid


def _rule(what: str, given: Any, modality: str | None, plane: str) -> Rule:
    if not isinstance(given, dict):
        raise ValueError(f"{what} is {given!r}, not conditions by name.")
    _check_keys(what, given, (*_CONDITIONS, "take"))
    conditions = {name: value for name, value in given.items() if name != "take"}
    if conditions.get("orientation") == TRAINED:
        conditions["orientation"] = plane
    if not isinstance(conditions.get("description", ""), str | None):
        raise ValueError(f"{what}: description {given['description']!r} is no text.")
    if type(conditions.get("min_slices", 0)) is not int:
        raise ValueError(f"{what}: min_slices {given['min_slices']!r} is no whole number.")
    try:
        made = Rules(**conditions | {"modality": _modality(given.get("modality"), modality)})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: {error}") from error
    return Rule(made, _one_of(f"{what}: take", given.get("take", TAKES[0]), TAKES))


def _modality(given: Any, trained: str | None) -> tuple[str, ...] | None:
    if given == TRAINED:
        return trained_modalities(trained)
    names = [given] if isinstance(given, str) else given
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError(f"modality {given!r} is neither a name nor a list of names.")
    if TRAINED in (names or ()):
        raise ValueError(f"modality {given!r}: '{TRAINED}' stands by itself, not in a list. Give it a rule of its own.")
    return None if names is None else tuple(names)


def _check_keys(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{what} has {', '.join(unknown)}; known are {', '.join(known)}.")


def _one_of(what: str, value: Any, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"{what} is {value!r}, none of {', '.join(known)}.")
    return str(value)
