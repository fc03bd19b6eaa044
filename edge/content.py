"""The content of the store's files: what it is, and whether it still is what their record says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import EdgeError
from edge.store import Store
from edge.store_record import Record
from edge.stored_files import StoredFile, sha256_of

if TYPE_CHECKING:
    from edge.stored_files import Display

_SHOWN_BYTES = 200_000_000  # from this size on, it is shown that a file is being checked


def measure(path: Path, name: str, display: Display) -> StoredFile:
    """A file by its content, under a name. EdgeError if it cannot be read."""
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise EdgeError(
            f"{path} cannot be read: {error.strerror or error}.", hint="Check its permissions, or pull the model again."
        ) from error
    if size_bytes < _SHOWN_BYTES:
        return StoredFile(name, size_bytes, sha256_of(path))
    with display(f"Checking {path.name}") as progress:
        return StoredFile(name, size_bytes, sha256_of(path, progress))


def check_content(store: Store, record: Record, display: Display) -> None:
    """EdgeError when a file of a model is no longer what its record says."""
    for file, path in zip(record.files, store.paths(record), strict=True):
        found = measure(path, file.name, display)
        if found != file:
            raise EdgeError(
                f"{path} is damaged: its sha256 is {found.sha256[:16]}..., not {file.sha256[:16]}... as when it came.",
                hint=f"Get it anew: edge rm {record.name}, then edge pull {record.name}",
            )
