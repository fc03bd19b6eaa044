"""Prefix files: the tokens of a sequence, and llama.cpp's state for them, to go on from in another process.

Layout, little-endian:

    8 bytes  magic
    uint32   version
    uint32   bytes of the header
    uint32   crc32 of the header
    header   JSON: identity, token_count, state_bytes, crc32 of tokens and state
    int32[]  tokens
    bytes    state, as llama_state_seq_get_data gives it

Everything is checked before native code sees the state. The checksums find damage, not malice: a state is as trusted
as the model file beside it. Such a file holds a conversation, so only its owner may read it.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from edge.errors import EdgeError
from edge.prefix_identity import PrefixIdentity
from edge.whole_file import written_privately

MAGIC = b"EDGE-KV\n"
VERSION = 1
SUFFIX = ".prefix"

_HEAD = struct.Struct("<8sIII")
_MAX_HEADER_BYTES = 1 << 16
_TOKEN_BYTES = 4
_COUNTS = ("token_count", "state_bytes", "tokens_crc32", "state_crc32")
_DELETE = "Delete it: what it holds is computed again."
_MAKE_AGAIN = "Open the model as it was then, or delete the file: what it holds is computed again."


@dataclass(frozen=True)
class PrefixFile:
    """A sound prefix file; its state is still on the disk."""

    path: Path
    identity: PrefixIdentity
    tokens: tuple[int, ...]
    state_offset: int
    state_bytes: int
    state_crc32: int

    def check_identity(self, wanted: PrefixIdentity) -> None:
        """EdgeError if the state is wrong for a model that is opened so, saying what differs."""
        if reason := self.identity.why_different(wanted):
            raise EdgeError(f"{self.path} {reason}.", hint=_MAKE_AGAIN)

    def read_state(self) -> bytes:
        """The state as it was written. EdgeError if it is damaged."""
        with _open(self.path) as file:
            file.seek(self.state_offset)
            state = _read(file, self.state_bytes, self.path)
        if zlib.crc32(state) != self.state_crc32:
            _refuse(self.path, "is damaged: the checksum of its state is wrong")
        return state


def write_prefix(path: Path, identity: PrefixIdentity, tokens: Sequence[int], state: bytes) -> None:
    """Write a prefix file, which has its name only when it is complete. EdgeError if the place cannot be written."""
    token_bytes = _packed(array("i", tokens))
    counts = (len(tokens), len(state), zlib.crc32(token_bytes), zlib.crc32(state))
    header = json.dumps({"identity": identity.to_json(), **dict(zip(_COUNTS, counts, strict=True))}).encode()
    head = _HEAD.pack(MAGIC, VERSION, len(header), zlib.crc32(header))
    write_private(path, (head, header, token_bytes, state))


def open_prefix(path: Path) -> PrefixFile:
    """Read and check all of a prefix file but the state itself, whose size is right. EdgeError for any other file."""
    with _open(path) as file:
        file_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        if file_bytes < _HEAD.size:
            _refuse(path, f"is no prefix file: it has {file_bytes} bytes, fewer than the smallest header")
        magic, version, header_bytes, header_crc32 = _HEAD.unpack(_read(file, _HEAD.size, path))
        if magic != MAGIC:
            _refuse(path, f"is no prefix file: it starts with {magic!r}")
        if version != VERSION:
            _refuse(path, f"has version {version} of the format; version {VERSION} can be read")
        if header_bytes > _MAX_HEADER_BYTES:
            _refuse(path, f"is damaged: it claims a header of {header_bytes} bytes")
        header = _read(file, header_bytes, path)
        if zlib.crc32(header) != header_crc32:
            _refuse(path, "is damaged: the checksum of its header is wrong")
        identity, counts = _parse_header(header, path)
        state_offset = _HEAD.size + header_bytes + _TOKEN_BYTES * counts["token_count"]
        expected = state_offset + counts["state_bytes"]
        if file_bytes != expected:
            _refuse(path, f"is damaged: it has {file_bytes} bytes instead of {expected}")
        token_bytes = _read(file, _TOKEN_BYTES * counts["token_count"], path)
    if zlib.crc32(token_bytes) != counts["tokens_crc32"]:
        _refuse(path, "is damaged: the checksum of its tokens is wrong")
    tokens = _unpacked(token_bytes)
    if not tokens or min(tokens) < 0 or not counts["state_bytes"]:
        _refuse(path, "is damaged: it has no state, no tokens, or negative ones")
    return PrefixFile(path, identity, tokens, state_offset, counts["state_bytes"], counts["state_crc32"])


def write_private(path: Path, parts: Sequence[bytes]) -> None:
    """Write a file that only its owner may read, whole or not at all. EdgeError if its place cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_privately(path) as file:
            for part in parts:
                file.write(part)
    except OSError as error:
        raise EdgeError(
            f"{path} cannot be written: {error.strerror or error}.", hint="Check the folder and the free space."
        ) from error


def _parse_header(header: bytes, path: Path) -> tuple[PrefixIdentity, dict[str, int]]:
    try:
        document = json.loads(header)
    except (ValueError, RecursionError):
        document = None
    identity = PrefixIdentity.from_json(document.get("identity")) if isinstance(document, dict) else None
    if not isinstance(document, dict) or identity is None:
        _refuse(path, "is damaged: its header does not say what it was made with")
    counts: dict[str, int] = {}
    for name in _COUNTS:
        value = document.get(name)
        if type(value) is not int or value < 0:
            _refuse(path, f"is damaged: its header gives {value!r} as {name}")
        counts[name] = value
    return identity, counts


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror or error}.", hint="Check the path.") from error


def _read(file: IO[bytes], n_bytes: int, path: Path) -> bytes:
    try:
        content = file.read(n_bytes)
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror or error}.", hint="Check the disk.") from error
    if len(content) != n_bytes:
        _refuse(path, f"is cut off: {n_bytes - len(content)} bytes are missing")
    return content


def _packed(numbers: array[int]) -> bytes:
    assert numbers.itemsize == _TOKEN_BYTES
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _unpacked(content: bytes) -> tuple[int, ...]:
    numbers = array("i", content)
    if sys.byteorder == "big":
        numbers.byteswap()
    return tuple(numbers)


def _refuse(path: Path, what: str) -> NoReturn:
    raise EdgeError(f"{path} {what}.", hint=_DELETE)
