"""Storage of the feature cache: main memory, or a folder that runs share."""

import json
import logging
import zlib
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scripts.files import replacing

logger = logging.getLogger(__name__)

Entry = dict[str, Tensor]  # levels by name


class FeatureStore(Protocol):
    """Keeps entries by key, up to a size limit."""

    def get(self, key: str, names: list[str]) -> Entry | None:
        """Entry of a key; None if it is missing or lacks one of ``names``."""

    def put(self, key: str, entry: Entry) -> None:
        """Keeps an entry if there is room."""


class MemoryStore:
    """Keeps entries in main memory; once it is full, no further ones are added.

    Args:
        limit: Size limit in bytes.
    """

    def __init__(self, limit: int) -> None:
        self.free = limit
        self._entries: dict[str, Entry] = {}

    def get(self, key: str, names: list[str]) -> Entry | None:
        entry = self._entries.get(key)
        return entry if entry and entry.keys() >= set(names) else None

    def put(self, key: str, entry: Entry) -> None:
        size = _bytes(entry)
        if size <= self.free and key not in self._entries:
            self.free -= size
            self._entries[key] = entry


class FolderStore:
    """Keeps each entry in a memory-mapped safetensors file, in a folder that processes and runs may share.

    Files are written atomically. The first time that a process reads a file, it verifies the checksum; a damaged file
    is reported, and its features are computed again. New files evict the least recently used ones, but never one that
    this process has used. If the folder cannot be written, a single warning says so, and the features are computed each
    time.

    Args:
        folder: Folder for the files; it may be deleted at any time.
        limit: Size limit for all files together, in bytes.
    """

    def __init__(self, folder: str | Path, limit: int) -> None:
        self.folder, self.limit = Path(folder), limit
        self._checked: set[Path] = set()
        self._writes = True
        files = [(path.stat(), path) for path in self.folder.glob("*/*.safetensors")]
        self._sizes = {path: stat.st_size for stat, path in sorted(files, key=lambda file: file[0].st_mtime)}
        self._used = sum(self._sizes.values())

    def get(self, key: str, names: list[str]) -> Entry | None:
        path = self._path(key)
        try:
            with safe_open(path, "pt") as file:
                if not set(names) <= set(file.keys()):
                    return None
                entry = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
                if path not in self._checked:
                    self._check(entry, file.metadata())
                    path.touch()  # marks it as recently used
                    self._checked.add(path)
        except FileNotFoundError:
            return None
        except (SafetensorError, ValueError, OSError) as error:
            logger.warning("The cached features %s are damaged (%s) and will be computed again.", path, error)
            return None
        return {name: entry[name] for name in names}

    def _check(self, entry: Entry, metadata: dict[str, str] | None) -> None:
        expected = json.loads((metadata or {}).get("crc32", "{}"))
        if {name: _crc32(level) for name, level in entry.items()} != expected:
            raise ValueError("wrong checksum")

    def put(self, key: str, entry: Entry) -> None:
        path = self._path(key)
        entry = entry | (self.get(key, []) or {}) if path.exists() else entry
        if not self._writes or not self._make_room(_bytes(entry), path):
            return
        checksums = json.dumps({name: _crc32(level) for name, level in entry.items()})
        try:
            with replacing(path) as part:
                save_file(entry, part, metadata={"crc32": checksums})
            self._used += path.stat().st_size - self._sizes.get(path, 0)
            self._sizes[path] = path.stat().st_size
            self._checked.add(path)
        except (OSError, SafetensorError) as error:
            self._writes = False
            logger.warning("No more features are kept in %s (%s); they are computed each time.", self.folder, error)

    def _make_room(self, size: int, path: Path) -> bool:
        for old in list(self._sizes):
            if self._used + size <= self.limit:
                break
            if old not in self._checked and old != path:
                self._used -= self._sizes.pop(old)
                old.unlink(missing_ok=True)
        return self._used + size <= self.limit

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def _bytes(entry: Entry) -> int:
    return sum(level.numel() * level.element_size() for level in entry.values())


def _crc32(level: Tensor) -> int:
    return zlib.crc32(level.contiguous().view(torch.uint8).numpy().data)
