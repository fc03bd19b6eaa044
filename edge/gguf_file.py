"""What is in a GGUF file, read and checked in pure Python before any native code sees the file.

A file that passes keeps the promises that llama.cpp takes for granted: counts and lengths stay inside the file, names
are unique and short enough, each tensor's shape, type and place fit together. It knows the container only: what the
metadata may say is judged by `edge.gguf_check`, and which tensors a family needs is left to llama.cpp. A model that
was split is read as one, whichever of its files is given.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (format), llama.cpp's ggml/src/gguf.cpp (limits).
"""

from __future__ import annotations

import mmap
import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from edge.errors import EdgeError
from edge.gguf_array import FixedArray, StringArray, Value
from edge.gguf_check import why_llama_cpp_would_abort
from edge.gguf_format import (
    DEFAULT_ALIGNMENT,
    MAGIC,
    SCALAR_CODES,
    TENSOR_TYPES,
    TENSOR_TYPES_BY_ID,
    VERSION,
    MetadataEntry,
    TensorType,
    ValueType,
    align,
)
from edge.gguf_split import COUNT_KEY, NUMBER_KEY, TENSOR_COUNT_KEY, parse_part_name, why_no_part

MAX_HEADER_BYTES = 128 << 20
"""Far above the largest known vocabulary (about 20 MB), far below what a hostile count could ask for."""
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_KEY_BYTES = (1 << 16) - 1
MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME, less its final NUL
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MIN_OFFSET_MULTIPLE = 32  # TENSOR_ALIGNMENT: llama.cpp asserts it of every buffer that it maps

_INT64_MAX = (1 << 63) - 1
_SMALLEST_ENTRY_BYTES = 8 + 1 + 4 + 1  # length and text of the key, value type, value
_SMALLEST_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8  # length and text of the name, rank, dimension, type, offset

_FETCH_AGAIN = "The file is damaged or its download did not finish: fetch it again, or convert the checkpoint again."
_NOT_A_MODEL = "Give a .gguf model file; a Hugging Face checkpoint becomes one with `edge convert`."
_CONVERT_AGAIN = "llama.cpp cannot load it: convert the model again from its checkpoint."
_KEEP_TOGETHER = (
    "Keep all parts in one folder, under the names they were made with: NAME-00001-of-00003.gguf and so on."
)
_OTHER_PARTS = "The parts are of different models or conversions: fetch all of them again."


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of the file: `shape` has the columns first (ggml's ne), `offset` counts from the start of `path`."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    n_bytes: int
    path: Path
    """The file that holds it: of a split model, one of its parts."""

    @property
    def n_elements(self) -> int:
        product = 1
        for dimension in self.shape:
            product *= dimension
        return product


@dataclass(frozen=True)
class GGUFFile:
    """The header of a sound GGUF file, or of a split model, whose `path` is its first part: the one to load.

    Nothing stays open: who needs a tensor's bytes reads them from the tensor's `path`.
    """

    path: Path
    version: int
    alignment: int
    entries: tuple[MetadataEntry, ...]
    """The metadata with their types, in the order of the file."""
    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]
    data_offset: int
    file_bytes: int
    """Of all parts, if the model was split."""
    parts: tuple[Path, ...] = ()
    """The files of a split model in order; empty for a model that is one file."""

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])


def read_gguf(path: Path) -> GGUFFile:
    """Reads and checks the header of the file at `path`; EdgeError when llama.cpp could not rely on it.

    For any part of a split model, those of all its parts.
    """
    file = _read_header(path)
    return _read_set(path, file) if _is_part(file.metadata) else file


def read_gguf_container(path: Path) -> GGUFFile:
    """As `read_gguf`, for one file of which nothing is asked but that it is sound: it need not hold a model."""
    return _walk(path, _Header.read_container)


def _read_set(path: Path, given: GGUFFile) -> GGUFFile:
    """The split model that a part belongs to, as one."""
    name = parse_part_name(path.name)
    assert name is not None, f"{path} was not checked to be a part"
    paths = [path.with_name(str(part)) for part in name.all()]
    for part in paths:
        if part.name != path.name and not part.is_file():
            raise EdgeError(f"{part} is missing: {path.name} is one of {name.count} parts.", hint=_KEEP_TOGETHER)
    files = [given if part.name == path.name else _read_header(part) for part in paths]
    first, tensors = files[0], dict[str, TensorInfo]()
    promised = first.metadata.get(TENSOR_COUNT_KEY)
    for file in files:
        if not _is_part(file.metadata) or file.metadata.get(TENSOR_COUNT_KEY) != promised:
            raise EdgeError(f"{file.path} does not belong to the same model as {first.path}.", hint=_OTHER_PARTS)
        if twice := tensors.keys() & file.tensors.keys():
            raise EdgeError(f"{file.path} has the tensor {_shown(min(twice))} of another part.", hint=_OTHER_PARTS)
        tensors.update(file.tensors)
    if len(tensors) != promised:
        raise EdgeError(
            f"The {name.count} parts of {first.path} hold {len(tensors)} tensors; {TENSOR_COUNT_KEY} is {promised}.",
            hint=_OTHER_PARTS,
        )
    return replace(first, tensors=tensors, file_bytes=sum(file.file_bytes for file in files), parts=tuple(paths))


def _is_part(metadata: Mapping[str, Value]) -> bool:
    count = metadata.get(COUNT_KEY, 0)
    return isinstance(count, int) and count > 1


def _read_header(path: Path) -> GGUFFile:
    return _walk(path, _Header.read)


def _walk(path: Path, read: Callable[[_Header], GGUFFile]) -> GGUFFile:
    try:
        with path.open("rb") as file:
            file_bytes = file.seek(0, 2)
            if file_bytes < len(MAGIC) + 4 + 8 + 8:
                raise EdgeError(
                    f"{path} is no GGUF file: it has {file_bytes} bytes, fewer than the smallest header.",
                    hint=_NOT_A_MODEL,
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return read(_Header(path, mapped))
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror or error}.", hint="Check the path.") from error


class _Header:
    """Walks through the header of one mapped file, once."""

    def __init__(self, path: Path, mapped: mmap.mmap) -> None:
        self.path = path
        self.mapped = mapped
        self.file_bytes = len(mapped)
        self.end = min(self.file_bytes, MAX_HEADER_BYTES)
        self.position = 0

    def read(self) -> GGUFFile:
        """The header of a model, or of a part of one: the first part has the keys of the whole model."""
        file = self.read_container()
        if _is_part(file.metadata) and file.metadata[NUMBER_KEY]:
            return file
        self._check_is_model(file.metadata)
        if reason := why_llama_cpp_would_abort(file.metadata):
            self._refuse(reason, _CONVERT_AGAIN)
        return file

    def read_container(self) -> GGUFFile:
        version = self._version()
        tensor_count = self._count("tensors", MAX_TENSORS, _SMALLEST_TENSOR_BYTES)
        entry_count = self._count("keys", MAX_KEYS, _SMALLEST_ENTRY_BYTES)
        entries = self._entries(entry_count)
        metadata: dict[str, Value] = {entry.key: entry.value for entry in entries.values()}  # type: ignore[misc]
        alignment = self._alignment(entries)
        if _is_part(metadata) and (reason := why_no_part(entries, parse_part_name(self.path.name))):
            self._refuse(reason, _KEEP_TOGETHER)
        placed = [self._tensor() for _ in range(tensor_count)]
        data_offset = align(self.position, alignment) if placed else self.position
        return GGUFFile(
            path=self.path,
            version=version,
            alignment=alignment,
            entries=tuple(entries.values()),
            metadata=metadata,
            tensors=self._place(placed, data_offset, alignment),
            data_offset=data_offset,
            file_bytes=self.file_bytes,
        )

    # The fields in the order of the file

    def _version(self) -> int:
        if self.mapped[:4] != MAGIC:
            self._refuse(f"is no GGUF file: it starts with {self.mapped[:4]!r} instead of {MAGIC!r}", _NOT_A_MODEL)
        self.position = 4
        version = self._integer("I", "the version")
        if version and version & 0xFFFF == 0:
            self._refuse(
                "is a big-endian GGUF file, and this machine is little-endian",
                "Get the little-endian file, which is the usual one.",
            )
        if version not in (2, VERSION):
            self._refuse(f"has GGUF version {version}; versions 2 and {VERSION} can be read", _CONVERT_AGAIN)
        return version

    def _count(self, what: str, limit: int, smallest_bytes: int) -> int:
        count = self._integer("Q", f"the number of {what}")
        if count > limit or count * smallest_bytes > self.end - self.position:
            self._refuse(f"claims {count} {what}, more than a file of {self.file_bytes} bytes can be meant to hold")
        return count

    def _entries(self, count: int) -> dict[str, MetadataEntry]:
        entries: dict[str, MetadataEntry] = {}
        for number in range(count):
            key = self._name(f"key {number + 1} of {count}", MAX_KEY_BYTES)
            if key in entries:
                self._refuse(f"has the key {_shown(key)} twice", _CONVERT_AGAIN)
            entries[key] = self._entry(key)
        return entries

    def _entry(self, key: str) -> MetadataEntry:
        what = f"the value of {_shown(key)}"
        value_type = self._value_type(key)
        if value_type is ValueType.STRING:
            return MetadataEntry(key, value_type, self._text(what))
        if value_type is not ValueType.ARRAY:
            code = SCALAR_CODES[value_type]
            return MetadataEntry(key, value_type, self._unpack(code, what))
        element_type = self._value_type(key)
        count = self._integer("Q", what)
        if element_type is ValueType.ARRAY:
            self._refuse(f"has an array of arrays in {_shown(key)}", _CONVERT_AGAIN)
        if element_type is ValueType.STRING:
            return MetadataEntry(key, value_type, self._strings(count, what), element_type)
        n_bytes = count * struct.calcsize("<" + SCALAR_CODES[element_type])
        start = self._take(n_bytes, what)
        return MetadataEntry(
            key, value_type, FixedArray(element_type, self.mapped[start : self.position]), element_type
        )

    def _strings(self, count: int, what: str) -> StringArray:
        if count * 8 > self.end - self.position:
            self._end_reached(what)
        # The one hot loop: it runs once for each token and merge of a vocabulary, so the bounds are checked after it;
        # reading a length outside the file raises.
        mapped, base = self.mapped, self.position
        unpack_length = struct.Struct("<Q").unpack_from
        starts = array("Q", bytes(8 * count))
        position = base
        try:
            for place in range(count):
                starts[place] = position - base
                position += 8 + unpack_length(mapped, position)[0]
        except (struct.error, OverflowError):
            self._end_reached(what)
        if position > self.end:
            self._end_reached(what)
        self.position = position
        return StringArray(mapped[base:position], starts)

    def _alignment(self, entries: Mapping[str, MetadataEntry]) -> int:
        entry = entries.get("general.alignment")
        if entry is None:
            return DEFAULT_ALIGNMENT
        alignment = entry.value
        if entry.type is not ValueType.UINT32 or not isinstance(alignment, int):
            self._refuse(f"has general.alignment as {entry.type.name} instead of UINT32", _CONVERT_AGAIN)
        if alignment == 0 or alignment & (alignment - 1):
            self._refuse(f"has an alignment of {alignment}, which is no power of two", _CONVERT_AGAIN)
        return alignment

    def _check_is_model(self, metadata: Mapping[str, Value]) -> None:
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            self._refuse("does not say its general.architecture: it is no model", _NOT_A_MODEL)

    def _tensor(self) -> TensorInfo:
        """The description of one tensor; its offset still counts from the start of the data."""
        name = self._name("a tensor's name", MAX_TENSOR_NAME_BYTES)
        what = f"the description of tensor {_shown(name)}"
        rank = self._integer("I", what)
        if not 1 <= rank <= MAX_DIMENSIONS:
            self._refuse(f"gives tensor {_shown(name)} {rank} dimensions instead of 1 to {MAX_DIMENSIONS}")
        shape = tuple(self._integer("q", what) for _ in range(rank))
        if min(shape) < 1:
            self._refuse(f"gives tensor {_shown(name)} the shape {list(shape)}: dimensions must be positive")
        kind = TENSOR_TYPES_BY_ID.get(type_id := self._integer("I", what))
        offset = self._integer("Q", what)
        if kind is None:
            self._refuse(
                f"has tensor {_shown(name)} of the unknown type {type_id}",
                f"Known types: {', '.join(TENSOR_TYPES)}.",
            )
        if shape[0] % kind.block_elements:
            self._refuse(
                f"has rows of {shape[0]} values in tensor {_shown(name)}, "
                f"which do not fill the blocks of {kind.block_elements} of {kind.name}",
                _CONVERT_AGAIN,
            )
        tensor = TensorInfo(name, shape, kind, offset, 0, self.path)
        if tensor.n_elements > _INT64_MAX:
            self._refuse(f"gives tensor {_shown(name)} the shape {list(shape)}: more values than can be counted")
        return replace(tensor, n_bytes=tensor.n_elements // kind.block_elements * kind.block_bytes)

    def _place(self, described: Sequence[TensorInfo], data_offset: int, alignment: int) -> dict[str, TensorInfo]:
        """The tensors by name with absolute offsets; llama.cpp wants them one after another, in order, without gaps."""
        tensors: dict[str, TensorInfo] = {}
        expected = 0
        for tensor in described:
            name, start = _shown(tensor.name), data_offset + tensor.offset
            if tensor.name in tensors:
                self._refuse(f"has the tensor {name} twice", _CONVERT_AGAIN)
            if tensor.offset % alignment or start % MIN_OFFSET_MULTIPLE:
                multiple = max(alignment, MIN_OFFSET_MULTIPLE)
                self._refuse(f"has tensor {name} at byte {start}, not at a multiple of {multiple}", _CONVERT_AGAIN)
            if tensor.offset < expected:
                self._refuse(f"has tensor {name} overlapping another tensor at byte {start}")
            if tensor.offset > expected:
                self._refuse(f"has tensor {name} at byte {start} instead of {data_offset + expected}", _CONVERT_AGAIN)
            if start + tensor.n_bytes > self.file_bytes:
                self._refuse(f"is cut off: tensor {name} reaches to byte {start + tensor.n_bytes} of {self.file_bytes}")
            tensors[tensor.name] = replace(tensor, offset=start)
            expected = align(tensor.offset + tensor.n_bytes, alignment)
        return tensors

    # Primitive fields: each is checked against the end before it is read

    def _take(self, n_bytes: int, what: str) -> int:
        """Moves over `n_bytes` and gives where they start."""
        start = self.position
        if n_bytes > self.end - start:
            self._end_reached(what)
        self.position = start + n_bytes
        return start

    def _unpack(self, code: str, what: str) -> int | float | bool:
        start = self._take(struct.calcsize("<" + code), what)
        value: int | float | bool = struct.unpack_from("<" + code, self.mapped, start)[0]
        return value

    def _integer(self, code: str, what: str) -> int:
        return int(self._unpack(code, what))

    def _value_type(self, key: str) -> ValueType:
        number = self._integer("I", f"the type of {_shown(key)}")
        try:
            return ValueType(number)
        except ValueError:
            self._refuse(f"gives {_shown(key)} the unknown value type {number}")

    def _text(self, what: str) -> str:
        start = self._take(self._integer("Q", what), what)
        try:
            return self.mapped[start : self.position].decode("utf-8")
        except UnicodeDecodeError:
            self._refuse(f"has text that is not UTF-8 in {what}")

    def _name(self, what: str, max_bytes: int) -> str:
        length = self._integer("Q", what)
        if not 1 <= length <= max_bytes:
            self._refuse(f"gives {what} a length of {length} bytes instead of 1 to {max_bytes}")
        self.position -= 8
        name = self._text(what)
        if "\0" in name:
            self._refuse(f"has a NUL character in {what}")
        return name

    def _end_reached(self, what: str) -> NoReturn:
        if self.end < self.file_bytes:
            self._refuse(f"has a header of more than {MAX_HEADER_BYTES} bytes: {what} does not fit in it")
        self._refuse(f"is cut off: its {self.file_bytes} bytes end inside {what}")

    def _refuse(self, what: str, hint: str = _FETCH_AGAIN) -> NoReturn:
        raise EdgeError(f"{self.path} {what}.", hint=hint)


def _shown(name: str) -> str:
    """A name from the file for a message: on one line, not longer than a line."""
    return repr(name if len(name) <= 80 else name[:77] + "...")
