"""Pseudonyms of patients, for use outside DICOM files."""

import hashlib
import hmac


def group_of(key: str, salt: str) -> str:
    """Pseudonym that is equal for equal keys, and does not reveal the key without the salt.

    Args:
        key: Identifier of the patient, such as ``Series.patient_key``.
        salt: Secret of the data set; another salt makes other pseudonyms.

    Returns:
        First 16 hexadecimal digits of the HMAC-SHA256.

    Raises:
        ValueError: If the salt is empty, as anyone could then find the key by trying.
    """
    if not salt:
        raise ValueError(
            "The salt is empty, so that anyone could identify patients by trying IDs. Choose a secret text."
        )
    return hmac.new(salt.encode(), key.encode(), hashlib.sha256).hexdigest()[:16]
