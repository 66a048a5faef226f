"""Checks of every request before MONAI Label, which trusts its clients, acts on it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import BackgroundTasks, Request
from monailabel.interfaces.exception import ImageNotFoundException
from starlette.datastructures import UploadFile

from bundle.label.errors import OptionError

_LONGEST = 248  # bytes: with .nii.gz behind them, as many as file systems allow
_NAMES = ("image", "label", "id", "tag", "session_id")  # parameters that MONAI Label makes paths of
_OBJECTS = ("params", "info")  # fields of forms that hold JSON
_PARTED = re.compile(r"[/\\\0]")


def is_name(value: object) -> bool:
    """Checks whether a value can be the name of a file, and leads to no other folder."""
    return (
        isinstance(value, str)
        and value not in ("", ".", "..")
        and not _PARTED.search(value)
        and len(value.encode(errors="replace")) <= _LONGEST
    )


def json_object(name: str, text: str) -> dict[str, Any]:
    """Reads a field of a form.

    Raises:
        OptionError: If it is not a JSON object, or holds NaN or infinity, which no answer could return.
    """
    try:
        value = json.loads(text or "{}", parse_constant=_refuse, parse_float=_finite)
    except ValueError as error:
        raise OptionError(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise OptionError(f"{name} is not a JSON object.")
    return value


async def checked(request: Request, background_tasks: BackgroundTasks) -> AsyncIterator[None]:
    """Refuses paths where names belong, and what is not a JSON object; removes the files of a request that fails.

    Raises:
        ImageNotFoundException: If a name is a path.
        OptionError: If anything else is refused.
    """
    for name, value in [*request.query_params.multi_items(), *request.path_params.items()]:
        if name in _NAMES and value and not is_name(value):
            raise ImageNotFoundException(f"There is no {name} {value[:_LONGEST]!r}: give a name and not a path.")
    kind = request.headers.get("content-type", "")
    if kind.startswith("application/json"):
        json_object("The request", (await request.body()).decode(errors="replace"))
    elif "form" in kind:
        for name, value in (await request.form()).multi_items():
            if isinstance(value, UploadFile):
                if not is_name(Path(value.filename or "file").name):
                    raise OptionError("The uploaded file has a name that is too long, or that of a folder: rename it.")
            elif name in _OBJECTS:
                json_object(name, value)
    if request.query_params.get("uncompress", "false").lower() not in ("false", "0", "no", "off", "f", "n"):
        raise OptionError("Archives are not accepted: send a NIfTI, and leave uncompress out.")
    try:
        yield
    except Exception:
        await background_tasks()  # they remove files, and would run only after an answer
        raise


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if abs(value) < float("inf") else _refuse(text)
