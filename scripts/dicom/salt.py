"""Secret salt of a data set, without which trying IDs identifies no patient."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

VARIABLE = "MEDICAL_ANOMALY_SALT"
FILE = "salt.txt"


def salt_of(given: str | None, folder: Path) -> tuple[str, str]:
    """Finds the salt: given, else from the environment, else from a folder, else a new one, saved in that folder.

    Args:
        given: Salt that the user gave; None if none was given.
        folder: Folder of ``salt.txt``, which only its owner may read.

    Returns:
        The salt, and a sentence for the user on where it comes from.

    Raises:
        OSError: If the file cannot be read or written.
        ValueError: If the salt is empty.
    """
    path = folder / FILE
    if given is None and VARIABLE in os.environ:
        salt, origin = os.environ[VARIABLE], f"Patients are hashed with the salt in the environment ({VARIABLE})."
    elif given is not None:
        salt, origin = given, "Patients are hashed with the salt of --salt. Keep it, and keep it secret."
    elif path.is_file():
        salt, origin = path.read_text().strip(), f"Patients are hashed with the salt in {path}. Keep it secret."
    else:
        salt = secrets.token_hex(16)
        folder.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(salt + "\n")
        origin = (
            f"Patients are hashed with a new salt, saved in {path}. Keep it secret, and give it again (--salt or "
            f"{VARIABLE}) for other datalists that should name patients the same."
        )
    if not salt:
        raise ValueError(f"{origin} It is empty, so that anyone could identify patients by trying IDs. Choose another.")
    return salt, origin
