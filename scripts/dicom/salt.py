"""The secret of a data set, without which nobody can find patients by trying their IDs."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

VARIABLE = "MEDICAL_ANOMALY_SALT"
FILE = "salt.txt"


def salt_of(given: str | None, folder: Path) -> tuple[str, str]:
    """Gives the salt: the one given, or of the environment, or kept in a folder, or else a new one, kept there.

    Args:
        given: By the user.
        folder: With ``salt.txt``, which only its owner may read.

    Returns:
        The salt, and a sentence for the user on where it is from.

    Raises:
        OSError: If the file can be neither read nor written.
        ValueError: If the salt is empty.
    """
    path = folder / FILE
    if given is None and VARIABLE in os.environ:
        salt, origin = os.environ[VARIABLE], f"Patients are hashed with the salt of the environment ({VARIABLE})."
    elif given is not None:
        salt, origin = given, "Patients are hashed with the salt of --salt. Keep it secret and by you."
    elif path.is_file():
        salt, origin = path.read_text().strip(), f"Patients are hashed with the salt in {path}. Keep it secret."
    else:
        salt = secrets.token_hex(16)
        folder.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(salt + "\n")
        origin = (
            f"Patients are hashed with a new salt, kept in {path}. Keep it secret, and give it again (--salt or "
            f"{VARIABLE}) for datalists elsewhere that shall name patients alike."
        )
    if not salt:
        raise ValueError(f"{origin} It is empty, so that anyone could find patients by their IDs. Choose another.")
    return salt, origin
