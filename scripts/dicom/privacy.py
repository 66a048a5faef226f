"""What stands for a patient outside of the DICOM files."""

import hashlib
import hmac


def group_of(key: str, salt: str) -> str:
    """Gives a name that is equal for equal keys, and from which the key cannot be found without the salt.

    Args:
        key: What identifies the patient, such as ``Series.patient_key``.
        salt: The secret of the data set; another salt gives other names.

    Returns:
        16 hexadecimal digits, the start of the HMAC-SHA256.

    Raises:
        ValueError: If the salt is empty, as then anyone could try all keys.
    """
    if not salt:
        raise ValueError(
            "The salt is empty, so that patients could be found by trying their IDs. Choose a secret text."
        )
    return hmac.new(salt.encode(), key.encode(), hashlib.sha256).hexdigest()[:16]
