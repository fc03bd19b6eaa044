"""The model store: a record of each model in the cache folder, of its files with their hashes, and of its last use.

records/<name>.json     one for each model; its time is that of the last use. One with only `same_as` is another name.
models/, hub/, bundles/ the files themselves: converted here, from the hub, out of a bundle
locks/                  one file for each thing that only one process may make at a time

Knows nothing of where models come from. A record may name files outside of the folder, such as those in
huggingface_hub's cache: they are used where they are, and never removed. A record is read with a few calls of stat.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import EdgeError
from edge.store_record import FORMAT, Record, record_from_json, record_to_json
from edge.stored_files import held
from edge.whole_file import written_whole

_RECORD_NAME_LIMIT = 80


@dataclass(frozen=True)
class Removal:
    """What removing a model takes from the disk, and what it leaves there."""

    record: Record
    paths: tuple[Path, ...]
    freed_bytes: int
    outside: tuple[Path, ...]


@dataclass(frozen=True)
class Store:
    """The models below `folder`, which several processes may use at once."""

    folder: Path

    # Records

    def find(self, name: str) -> Record | None:
        """The model of that name, or of what that is another name for, if all its files are there whole."""
        record = self.recorded(name)
        return record if record and self.is_whole(record) else None

    def recorded(self, name: str) -> Record | None:
        """As `find`, whatever has become of the files."""
        content = _read_json(self._record_path(name))
        if content is not None and isinstance(other := content.get("same_as"), str):
            name, content = other, _read_json(self._record_path(other))
        record = record_from_json(content) if content is not None else None
        return record if record and record.name == name else None

    def records(self) -> list[Record]:
        """Every model of which there is something, by name."""
        found = []
        for path in self._records_folder.glob("*.json"):
            content = _read_json(path)
            record = record_from_json(content) if content and "same_as" not in content else None
            if record and any(place.exists() for place in self.paths(record)):
                found.append(record)
        return sorted(found, key=lambda record: record.name.lower())

    def called(self, name: str) -> list[Record]:
        """The models of that name, with or without the quantization behind its colon."""
        return [record for record in self.records() if name in (record.name, record.name.rpartition(":")[0])]

    def add(self, record: Record, *, also_called: str | None = None) -> None:
        """Keep a record; one of the same name goes with the files that only it had. EdgeError if that fails."""
        old = self.recorded(record.name)
        self._write(self._record_path(record.name), record_to_json(record))
        if old and old != record:
            self._remove_files(old)
        if also_called is not None:
            self._write(self._record_path(also_called), {"format": FORMAT, "same_as": record.name})

    def mark_used(self, record: Record) -> None:
        """Remember that a model was opened now: the time of its record."""
        with contextlib.suppress(OSError):  # a cache that cannot be written is no reason not to run a model
            os.utime(self._record_path(record.name))

    def last_used(self, record: Record) -> float:
        """When a model was opened last, or came; seconds since 1970."""
        try:
            return self._record_path(record.name).stat().st_mtime
        except OSError:
            return 0.0

    def is_whole(self, record: Record) -> bool:
        """Whether all files are there in their sizes; their content is for `edge.content`."""
        try:
            sizes = [path.stat().st_size for path in self.paths(record)]
        except OSError:
            return False
        return sizes == [file.size_bytes for file in record.files]

    # Files

    def paths(self, record: Record) -> list[Path]:
        """Where the files of a model are; the one to open first."""
        folder = self.folder / record.folder
        return [folder / file.name for file in record.files]

    def licence_paths(self, record: Record) -> list[Path]:
        folder = self.folder / record.folder
        return [folder / file.name for file in record.licence_files]

    def hub_folder(self, repository: str, revision: str) -> Path:
        """Where files of a repository are put. The layout is huggingface_hub's, by which conversions are named."""
        return self.folder / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / revision

    def held(self, what: str) -> contextlib.AbstractContextManager[None]:
        """A lock on making `what`, between processes."""
        return held(self.folder / "locks" / f"{_file_name(what)}.lock", what)

    def unfinished(self, repository: str | None = None) -> list[Path]:
        """Downloads that have begun and not ended, of all repositories or of one."""
        pattern = glob.escape(f"models--{repository.replace('/', '--')}") if repository else "models--*"
        return sorted((self.folder / "hub").glob(f"{pattern}/snapshots/*/**/*.part"))

    # Removing

    def removal(self, record: Record) -> Removal:
        """What would go with a model: the files in the store that no other model has."""
        others = {path for other in self.records() if other.name != record.name for path in self._all_paths(other)}
        mine = [path for path in self._all_paths(record) if path not in others]
        inside = [path for path in mine if self._is_inside(path)]
        with_proof = [*inside, *(proof for path in inside if (proof := _proof_path(path)).is_file())]
        freed = sum(path.stat().st_size for path in with_proof if path.is_file())
        return Removal(record, tuple(with_proof), freed, tuple(path for path in mine if path not in inside))

    def remove(self, removal: Removal) -> None:
        """Delete what `removal` found, the record last: interrupted, it can be done again."""
        for path in removal.paths:
            self.remove_file(path)
        for path in self._records_folder.glob("*.json"):
            content = _read_json(path) or {}
            if removal.record.name in (content.get("name"), content.get("same_as")):
                path.unlink(missing_ok=True)

    def _remove_files(self, replaced: Record) -> None:
        needed = {path for record in self.records() for path in self._all_paths(record)}
        for path in self._all_paths(replaced):
            if path not in needed and self._is_inside(path):
                self.remove_file(path)

    def remove_file(self, path: Path) -> None:
        """Delete one file of the store, and the folders that are empty then. Nothing else is ever deleted."""
        if not self._is_inside(path):
            raise EdgeError(
                f"{path} is not in the model store {self.folder}.", hint="Delete it yourself, if you mean to."
            )
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise EdgeError(
                f"{path} cannot be removed: {error.strerror or error}.", hint="End what still uses the model."
            ) from error
        for folder in path.parents:
            if folder == self.folder or not folder.is_relative_to(self.folder):
                return
            try:
                folder.rmdir()
            except OSError:
                return

    def _is_inside(self, path: Path) -> bool:
        """Whether a file is really below the folder, whatever links lead there."""
        return path.parent.resolve().is_relative_to(self.folder.resolve())

    def _all_paths(self, record: Record) -> list[Path]:
        return self.paths(record) + self.licence_paths(record)

    @property
    def _records_folder(self) -> Path:
        return self.folder / "records"

    def _record_path(self, name: str) -> Path:
        return self._records_folder / f"{_file_name(name)}.json"

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as file:
                file.write((json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode())
        except OSError as error:
            raise EdgeError(
                f"The cache folder {path.parent} cannot be written: {error.strerror or error}.",
                hint="Name another folder in the environment variable EDGE_CACHE.",
            ) from error


def _proof_path(path: Path) -> Path:
    """The record of a conversion's proof, beside it. Source: convert.proof_record.record_path."""
    return path.with_name(path.name.replace(".gguf", "") + ".proof.json")


def _file_name(name: str) -> str:
    """A name as that of a file, readable and different for each name."""
    readable = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)[:_RECORD_NAME_LIMIT]
    return f"{readable}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
