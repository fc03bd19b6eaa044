"""Bundles: a model, its record and its licence as one file, for a machine without a network.

An uncompressed tar file that every tar program reads, written and read as a stream:

    edge-bundle.json      {"format": 1, "record": ...}: the names, sizes and sha256 of all that follows
    0001-model.gguf ...   the files of the model, in the order of the record
    0002-LICENSE ...      its licence

A bundle comes from a stranger. Only what edge would have written itself is read: regular files with exactly the names
and sizes of the list, in its order. Names for the disk never come from the archive's headers, so there are no links,
paths or sparse files to be had. Nothing of it has a record before every hash was right.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edge.errors import EdgeError
from edge.quantities import size_text
from edge.store import Store
from edge.store_record import Record, Source, record_from_json, record_to_json
from edge.stored_files import StoredFile
from edge.whole_file import written_whole

if TYPE_CHECKING:
    from convert.pool import ProgressCallback

FORMAT = 1
LIST_NAME = "edge-bundle.json"

_LIST_LIMIT_BYTES = 4 << 20
_TAR_BLOCK = tarfile.BLOCKSIZE  # 512: headers, and what contents are filled up to
_COPY_BYTES = 1 << 20
_MODEL_NAME = re.compile(r"[^/:\\]{1,120}(/[^/:\\]{1,120})?:\w{1,40}")


def write_bundle(store: Store, record: Record, path: Path, progress: ProgressCallback | None = None) -> None:
    """Pack a model of the store into a file that is not there yet; it gets its name when it is whole.

    EdgeError when a file is no longer what its record says, or the disk is full.
    """
    if path.exists():
        raise EdgeError(f"{path} exists already.", hint="Remove it, or name another file.")
    listed = json.dumps({"format": FORMAT, "record": _portable(record)}, ensure_ascii=False, indent=2).encode()
    sources = [*store.paths(record), *store.licence_paths(record)]
    total_bytes = sum(file.size_bytes for file in record.all_files)
    _check_space(path.absolute().parent, total_bytes + len(listed), f"The bundle of {record.name}")
    report = _report(total_bytes, progress)
    try:
        with written_whole(path) as out:
            out.write(_header(LIST_NAME, len(listed)) + listed + _padding(len(listed)))
            for number, (file, source) in enumerate(zip(record.all_files, sources, strict=True), 1):
                out.write(_header(_member_name(number, file), file.size_bytes))
                with source.open("rb") as content:
                    if _copy(content, out, file.size_bytes, report) != file.sha256 or content.read(1):
                        raise EdgeError(
                            f"{source} is no longer what was put into the store.",
                            hint=f"Get it anew: edge rm {record.name}, then edge pull {record.name}",
                        )
                out.write(_padding(file.size_bytes))
            out.write(bytes(2 * _TAR_BLOCK))  # the end of an archive
    except OSError as error:
        raise EdgeError(
            f"The bundle {path} cannot be written: {error.strerror or error}.",
            hint="Check the folder and the free space there.",
        ) from error


def read_bundle(store: Store, path: Path, progress: ProgressCallback | None = None) -> Record:
    """Take the model of a bundle into the store, every byte checked before it has a record there.

    EdgeError, and a store as before, when anything about the bundle is not as it must be.
    """
    try:
        with path.open("rb") as file:
            return _take_in(store, _Archive(path, file, path.stat().st_size), progress)
    except OSError as error:
        raise EdgeError(
            f"The bundle {path} cannot be taken in: {error.strerror or error}.",
            hint="Check the file, and the free space in the cache folder (EDGE_CACHE).",
        ) from error


def _take_in(store: Store, archive: _Archive, progress: ProgressCallback | None) -> Record:
    listed, record = archive.read_list()
    archive.check_size(listed, record)
    folder = f"bundles/{hashlib.sha256(listed).hexdigest()[:16]}"
    record = replace(record, folder=folder, source=Source.BUNDLE, origin=None, converter_version=None)
    with store.held("bundles"), store.held(record.repository or record.name):
        for remains in (store.folder / "bundles").glob("*.part"):  # of attempts that were killed
            shutil.rmtree(remains, ignore_errors=True)
        known = store.find(record.name)
        if known is not None and known.files == record.files:
            return known
        _check_space(store.folder, record.size_bytes, record.name)
        report = _report(sum(file.size_bytes for file in record.all_files), progress)
        with _scratch(store.folder / f"{folder}.part") as scratch:
            for number, file in enumerate(record.all_files, 1):
                archive.extract(_member_name(number, file), file, scratch / file.name, report)
            archive.check_end()
            _check_model(scratch / record.files[0].name, archive.path)
            shutil.rmtree(store.folder / folder, ignore_errors=True)  # without a record, or a damaged one
            scratch.rename(store.folder / folder)
        without_quantization = record.name.rpartition(":")[0]
        is_first = store.find(without_quantization) is None
        store.add(record, also_called=without_quantization if is_first else None)
    return record


@dataclass
class _Archive:
    """A bundle that is being read from its beginning to its end."""

    path: Path
    file: BinaryIO
    size_bytes: int

    def read_list(self) -> tuple[bytes, Record]:
        """The list as bytes, and the record in it."""
        size_bytes = self._read_header(LIST_NAME)
        if size_bytes > _LIST_LIMIT_BYTES:
            raise self.refusal(f"its list claims {size_text(size_bytes)}")
        listed = self.file.read(size_bytes)
        self._skip_padding(size_bytes)
        try:
            content = json.loads(listed)
        except (ValueError, RecursionError) as error:
            raise self.refusal("its list is not JSON") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else None
            raise self.refusal(f"its format is {found!r}, and this edge reads {FORMAT}")
        described = content.get("record")
        record = record_from_json(described | {"folder": "."}) if isinstance(described, dict) else None
        if record is None or not _MODEL_NAME.fullmatch(record.name) or not record.name.isprintable():
            raise self.refusal("its list does not describe a model, or has a name that is not safe")
        names = [file.name.lower() for file in record.all_files]
        if len(set(names)) < len(names) or any(other.startswith(f"{name}/") for name in names for other in names):
            raise self.refusal("two of its files have the same place")
        if not all(file.name.lower().endswith(".gguf") for file in record.files):
            raise self.refusal("its model is no GGUF file")
        return listed, record

    def check_size(self, listed: bytes, record: Record) -> None:
        """EdgeError, before anything is written, when the file cannot hold what its list says."""
        blocks = [len(listed), *(file.size_bytes for file in record.all_files)]
        needed = sum(_TAR_BLOCK + size + len(_padding(size)) for size in blocks) + 2 * _TAR_BLOCK
        if self.size_bytes < needed:
            raise self.refusal(f"it has {self.size_bytes:,} bytes of {needed:,}: it is cut off, or its list is wrong")

    def extract(self, member: str, file: StoredFile, target: Path, report: Callable[[int], None]) -> None:
        """The next member as a file; EdgeError unless it is exactly the one of the list."""
        if self._read_header(member) != file.size_bytes:
            raise self.refusal(f"{file.name} has another size than its list says")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            sha256 = _copy(self.file, out, file.size_bytes, report)
            out.flush()
            os.fsync(out.fileno())
        if sha256 != file.sha256:
            raise self.refusal(f"the content of {file.name} is not what its list says")
        self._skip_padding(file.size_bytes)

    def check_end(self) -> None:
        rest = self.file.read(2 * tarfile.RECORDSIZE)
        if len(rest) < 2 * _TAR_BLOCK or len(rest) > tarfile.RECORDSIZE or rest.strip(b"\0"):
            raise self.refusal("it does not end where its list does")

    def _read_header(self, expected_name: str) -> int:
        """The size that the next header tells. Only a regular file of this name is accepted."""
        block = self.file.read(_TAR_BLOCK)
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise self.refusal(f"where {expected_name} should be is no header ({error})") from error
        if header.type != tarfile.REGTYPE or header.linkname:
            raise self.refusal(f"{header.name[:80]!r} is no regular file")
        if header.name != expected_name:
            raise self.refusal(f"it has {header.name[:80]!r} where {expected_name!r} should be")
        if header.size < 0:
            raise self.refusal(f"{expected_name} has a size below zero")
        return header.size

    def _skip_padding(self, size_bytes: int) -> None:
        if self.file.read(len(_padding(size_bytes))).strip(b"\0"):
            raise self.refusal("there is something between its files")

    def refusal(self, reason: str) -> EdgeError:
        return EdgeError(
            f"{self.path} is no bundle to be used: {reason}.",
            hint="Copy it again from where it was made, or make it anew: edge pull MODEL --bundle FILE",
        )


def _portable(record: Record) -> dict[str, object]:
    """The record without what is true of this machine only."""
    content = record_to_json(record)
    return {key: value for key, value in content.items() if key not in ("folder", "origin", "format")} | {
        "format": content["format"]
    }


def _member_name(number: int, file: StoredFile) -> str:
    """What a file is called in the archive: readable, and within the 100 letters that all tar programs read."""
    name = re.sub(r"[^\w.-]+", "_", file.name.rpartition("/")[2], flags=re.ASCII)
    return f"{number:04}-{name[-80:]}"


def _header(name: str, size_bytes: int) -> bytes:
    """A tar header. GNU's form of the size, for files of 8 GiB and more, is what all tar programs read today."""
    header = tarfile.TarInfo(name)
    header.size = size_bytes
    return header.tobuf(tarfile.GNU_FORMAT)


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % _TAR_BLOCK)


def _copy(source: BinaryIO, target: BinaryIO, size_bytes: int, report: Callable[[int], None]) -> str:
    """Copy so many bytes, or as many as there are; their sha256."""
    digest = hashlib.sha256()
    while size_bytes and (block := source.read(min(_COPY_BYTES, size_bytes))):
        digest.update(block)
        target.write(block)
        report(len(block))
        size_bytes -= len(block)
    return digest.hexdigest()


def _report(total_bytes: int, progress: ProgressCallback | None) -> Callable[[int], None]:
    from convert.pool import Progress

    done_bytes = 0

    def add(n_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += n_bytes
        if progress:
            progress(Progress(done_bytes, total_bytes))

    return add


def _check_space(folder: Path, needed_bytes: int, what: str) -> None:
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    free_bytes = shutil.disk_usage(there).free
    if needed_bytes > free_bytes:
        raise EdgeError(
            f"{what} needs {size_text(needed_bytes)}, and {size_text(free_bytes)} are free in {there}.",
            hint="Free some space, for example with `edge rm`, or name another folder.",
        )


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder that is gone afterwards, unless it has been renamed."""
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_model(path: Path, bundle: Path) -> None:
    """EdgeError when what is to be a model is none: hashes only say that it arrived as it was sent."""
    from edge.gguf_file import read_gguf

    try:
        read_gguf(path)
    except EdgeError as error:
        reason = error.message.replace(f"{path} ", "").rstrip(".")
        raise EdgeError(
            f"The model in {bundle} cannot be used: {path.name} {reason}.",
            hint="Make the bundle anew, from a model that runs.",
        ) from error
