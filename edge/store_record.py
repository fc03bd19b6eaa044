"""What the store knows of one model, as a value and as JSON; records in bundles come from strangers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from edge.stored_files import SHA256, StoredFile, is_safe_name

FORMAT = 1
CHECKPOINT = "checkpoint"  # in the place of a quantization: the files of a repository that conversions are made of


class Source(StrEnum):
    """Where a model's files came from."""

    HUB = "hub"
    CONVERSION = "conversion"
    BUNDLE = "bundle"


@dataclass(frozen=True)
class Record:
    """A model in the store.

    `files` are what it consists of, the one to open first; `licence_files` lie beside them in `folder`, which is below
    the store's folder if it is relative. Of a conversion, `origin_files` are what it was made of, for a lockfile.
    """

    name: str
    source: Source
    folder: str
    files: tuple[StoredFile, ...]
    repository: str | None = None
    revision: str | None = None
    licence: str | None = None
    licence_files: tuple[StoredFile, ...] = ()
    origin_files: tuple[StoredFile, ...] = ()
    origin: str | None = None
    converter_version: int | None = None

    @property
    def quantization(self) -> str:
        return self.name.rpartition(":")[2]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def all_files(self) -> tuple[StoredFile, ...]:
        return (*self.files, *self.licence_files)


def record_to_json(record: Record) -> dict[str, Any]:
    """A record as it stands in its file; only what is known is there."""
    content: dict[str, Any] = {"format": FORMAT, "name": record.name, "source": str(record.source)}
    content |= {"folder": record.folder, "files": files_to_json(record.files)}
    for name in ("repository", "revision", "licence", "origin", "converter_version"):
        if (value := getattr(record, name)) is not None:
            content[name] = value
    for name in ("licence_files", "origin_files"):
        if files := getattr(record, name):
            content[name] = files_to_json(files)
    return content


def files_to_json(files: Sequence[StoredFile]) -> list[dict[str, Any]]:
    return [{"file": file.name, "bytes": file.size_bytes, "sha256": file.sha256} for file in files]


def record_from_json(content: dict[str, Any]) -> Record | None:
    """A record that was read; None if anything in it is not as it must be."""
    try:
        record = Record(
            name=_text(content["name"]),
            source=Source(content["source"]),
            folder=_text(content["folder"]),
            files=files_from_json(content["files"]),
            repository=_text_or_none(content.get("repository")),
            revision=_text_or_none(content.get("revision")),
            licence=_text_or_none(content.get("licence")),
            licence_files=files_from_json(content.get("licence_files", [])),
            origin_files=files_from_json(content.get("origin_files", [])),
            origin=_text_or_none(content.get("origin")),
            converter_version=_whole_number_or_none(content.get("converter_version")),
        )
        if content["format"] != FORMAT or not record.files:
            return None
    except (KeyError, TypeError, ValueError):
        return None
    return record


def files_from_json(content: object) -> tuple[StoredFile, ...]:
    """Names, sizes and hashes. ValueError if one of them cannot be, or a name leads out of its folder."""
    return tuple(_files(content))


def _files(content: object) -> Iterator[StoredFile]:
    if not isinstance(content, list):
        raise ValueError("files are a list")
    seen = set()
    for item in content:
        name, size_bytes, sha256 = item["file"], item["bytes"], item["sha256"]
        if not isinstance(name, str) or not is_safe_name(name) or name.lower() in seen:
            raise ValueError(f"the file name {name!r} cannot be")
        if type(size_bytes) is not int or not 0 <= size_bytes < 1 << 62:
            raise ValueError(f"{name} cannot have {size_bytes!r} bytes")
        if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} of {name} is no sha256")
        seen.add(name.lower())
        yield StoredFile(name, size_bytes, sha256)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no text")
    return value


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def _whole_number_or_none(value: object) -> int | None:
    if value is not None and type(value) is not int:
        raise ValueError(f"{value!r} is no whole number")
    return value
