"""A model folder as a zip, in the form of MONAI's model zoo."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

from scripts.model.folder import RESUME, ModelFolder

_NOT_THE_MODELS = ("eval", "cache", "scans", "runs")  # folders of results and of patients' images
_NEVER = ("__pycache__", "salt.txt", "datalist.json")


def write_zip(folder: ModelFolder, out: Path) -> Path:
    """Writes a zip that holds the model folder below its name.

    Args:
        folder: Model folder.
        out: New ``.zip``.

    Returns:
        ``out``.

    Raises:
        FileExistsError: If there is an ``out`` already.
        ValueError: If ``out`` is no ``.zip``.
        OSError: If it cannot be written; nothing is left then.
    """
    if out.suffix != ".zip":
        raise ValueError(f"--output {out}: a file of --format zip ends in .zip.")
    if out.exists():
        raise FileExistsError(f"{out} exists: remove it, or name another --output.")
    root = folder.path.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as temporary:
        part = Path(temporary) / out.name
        # Installed code may have no times of its own, but 1970, which a zip cannot say.
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for file in sorted(root.rglob("*")):
                if _belongs(file.relative_to(root)):
                    archive.write(file, Path(root.name) / file.relative_to(root))
        os.replace(part, out)
    return out


def _belongs(path: Path) -> bool:
    names = path.parts
    hidden = any(name.startswith(".") or name in _NEVER for name in names)
    return not (hidden or names[0] in _NOT_THE_MODELS or path.as_posix() == RESUME)
