"""The answers of a batch: a file that only grows by whole lines, so that whatever ends the process, it can go on.

A line that was cut off while it was written is dropped; an answer that is there is never written again.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from filelock import FileLock, Timeout

from edge.batch_input import Line
from edge.errors import EdgeError
from edge.openai_fields import parse_json, shortened
from edge.whole_file import written_whole

DONE = 200
_LINE_START = b'{"id": "batch_req_'
_FSYNC_SECONDS = 5.0
# what some readers of text take for the end of a line stands only within JSON strings, where it may be escaped
_LINE_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
OTHER_OUTPUT = "Give a new output file, or the one that this batch was begun with."


class Output(Protocol):
    """Where answers go."""

    def write(self, document: Mapping[str, Any]) -> None:
        """Append an answer. EdgeError if it cannot be written; then nothing of it is."""


@dataclass(frozen=True)
class Written:
    """What an earlier run left in the output file."""

    done: frozenset[str]
    """The custom_ids of lines that were answered."""
    fingerprints: frozenset[str]
    """Of the models that answered them."""
    failed: int
    """Lines that got an error; they are asked again."""
    torn_bytes: int
    """Of a last line that was cut off."""


def examine_output(path: Path, lines: Iterable[Line], name: str) -> Written:
    """What an output file holds already. EdgeError if it is anything but answers of this very batch.

    `name` is that of the batch.
    """
    asked = {line.custom_id: line for line in lines}
    done: set[str] = set()
    fingerprints: set[str] = set()
    failed = torn_bytes = 0
    for number, text in _whole_and_torn(path):
        if not text.endswith(b"\n"):
            torn_bytes = len(text)
            if not text.startswith(_LINE_START[: len(text)]):
                raise _not_ours(path, number)
            continue
        answer = _answer(text, path, number)
        custom_id = answer["custom_id"]
        line = asked.get(custom_id)
        if line is None:
            raise EdgeError(
                f"{path} answers {shortened(custom_id)!r} in line {number}, which {name} does not ask.",
                hint=OTHER_OUTPUT,
            )
        if answer["response"]["status_code"] != DONE:
            failed += 1
            continue
        if answer["response"]["request_id"] != line.request_id:
            raise EdgeError(
                f"{path} has answered {shortened(custom_id)!r} in line {number}, but line {line.number} of {name} now"
                " asks something else.",
                hint=f"Give a new output file, or delete line {number} of {path} to have it answered anew.",
            )
        if custom_id in done:
            raise EdgeError(f"{path} answers {shortened(custom_id)!r} twice.", hint=f"Delete line {number}.")
        done.add(custom_id)
        fingerprints.add(str(answer["response"].get("body", {}).get("system_fingerprint")))
    return Written(frozenset(done), frozenset(fingerprints), failed, torn_bytes)


class OutputFile:
    """An output file open for more answers, which no other process may write to. A context manager."""

    def __init__(self, path: Path, written: Written) -> None:
        self.path = path
        if written.failed:
            _drop_failed(path)
        try:
            self._file = path.open("ab", buffering=0)
            self._is_regular = path.is_file()
            if written.torn_bytes and not written.failed:
                self._file.truncate(path.stat().st_size - written.torn_bytes)
            self._end = path.stat().st_size
        except OSError as error:
            raise _unwritable(path, error) from error
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, document: Mapping[str, Any]) -> None:
        """Append an answer with one write. EdgeError if it does not fit; the file then ends with the last whole one."""
        line = encoded_line(document)
        end = self._end + len(line)
        try:
            _write_all(self._file, line)
            if time.monotonic() - self._synced > _FSYNC_SECONDS:
                self._sync()
        except BaseException as error:
            self._cut_back(end)
            if isinstance(error, OSError):
                raise _unwritable(self.path, error) from error
            raise
        self._end = end

    def close(self) -> None:
        if self._file.closed:
            return
        try:
            self._sync()
        except OSError as error:
            raise _unwritable(self.path, error) from error
        finally:
            self._file.close()

    def _sync(self) -> None:
        if self._is_regular:
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _cut_back(self, whole_end: int) -> None:
        """Drop what was written of a line, unless it is whole."""
        if self._is_regular and os.fstat(self._file.fileno()).st_size < whole_end:
            self._file.truncate(self._end)


class StandardOutput:
    """Answers on stdout, which nothing can be resumed from."""

    def write(self, document: Mapping[str, Any]) -> None:
        try:
            sys.stdout.buffer.write(encoded_line(document))
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise EdgeError(f"stdout cannot be written: {error.strerror}.", hint="Free some space.") from error


def lock_output(path: Path) -> FileLock:
    """A lock on the output file, held. EdgeError if another process is writing to it."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise EdgeError(
            f"Another process is writing to {path}.", hint="Wait for it, or give another output file."
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    return lock


def release_output(lock: FileLock) -> None:
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def encoded_line(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, ensure_ascii=False).translate(_LINE_BREAKS) + "\n").encode()


def _drop_failed(path: Path) -> None:
    """Write the file anew with only the lines that were answered."""
    try:
        with written_whole(path) as kept:
            for number, text in _whole_and_torn(path):
                if text.endswith(b"\n") and _answer(text, path, number)["response"]["status_code"] == DONE:
                    kept.write(text)
    except OSError as error:
        raise _unwritable(path, error) from error


def _whole_and_torn(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers and ends; none where there is no such file, or nothing to read back."""
    if not path.exists() and not path.is_symlink():
        return
    if path.is_dir():
        raise EdgeError(f"{path} is a directory.", hint="Name a file for the answers.")
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            yield from enumerate(file, start=1)
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror}.", hint="Check the path.") from error


def _answer(text: bytes, path: Path, number: int) -> dict[str, Any]:
    """A line that an earlier run wrote."""
    try:
        answer = parse_json(text.decode(), "it")
    except (EdgeError, UnicodeDecodeError):
        answer = None
    response = answer.get("response") if isinstance(answer, dict) else None
    is_ours = (
        text.startswith(_LINE_START)
        and isinstance(response, dict)
        and isinstance(answer.get("custom_id"), str)
        and isinstance(response.get("status_code"), int)
        and isinstance(response.get("request_id"), str)
        and isinstance(response.get("body"), dict)
    )
    if not is_ours:
        raise _not_ours(path, number)
    assert isinstance(answer, dict)
    return answer


def _write_all(file: IO[bytes], content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _not_ours(path: Path, number: int) -> EdgeError:
    return EdgeError(f"Line {number} of {path} is not an answer of a batch.", hint=OTHER_OUTPUT)


def _unwritable(path: Path, error: OSError) -> EdgeError:
    return EdgeError(
        f"{path} cannot be written: {error.strerror or error}.",
        hint="Make room for it; what was answered is kept, and the same command goes on from there.",
    )
