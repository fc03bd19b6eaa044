"""The bytes before a GGUF file's tensors: exact ones, and as gguf-py and our own reader understand them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.gguf_header import TensorHeader, header_bytes
from edge.errors import EdgeError
from edge.gguf_file import GGUFFile, read_gguf
from edge.gguf_format import TENSOR_TYPES, MetadataEntry, ValueType, align

ARCHITECTURE = MetadataEntry("general.architecture", ValueType.STRING, "llama")

# a value at each end of what a type can hold
EXTREMES: dict[ValueType, list[Any]] = {
    ValueType.UINT8: [0, 255],
    ValueType.INT8: [-128, 127],
    ValueType.UINT16: [0, 65535],
    ValueType.INT16: [-32768, 32767],
    ValueType.UINT32: [0, 2**32 - 1],
    ValueType.INT32: [-(2**31), 2**31 - 1],
    ValueType.UINT64: [0, 2**64 - 1],
    ValueType.INT64: [-(2**63), 2**63 - 1],
    ValueType.FLOAT32: [-1.5, 2.0**127],
    ValueType.FLOAT64: [0.1, -1e300],
    ValueType.BOOL: [False, True],
    ValueType.STRING: ["", "añb 語 👩‍🚀\n"],
}


def array(key: str, kind: ValueType, values: Sequence[Any]) -> MetadataEntry:
    return MetadataEntry(key, ValueType.ARRAY, values, kind)


def write(path: Path, metadata: Sequence[MetadataEntry], tensors: Sequence[TensorHeader] = ()) -> Path:
    """A file with the header and zeros for weights."""
    header = header_bytes(metadata, tensors)
    ends = [tensor.offset + tensor.shape[0] * tensor.type.row_bytes(tensor.shape[-1]) for tensor in tensors]
    path.write_bytes(header + bytes(align(max(ends, default=0), 32)))
    return path


def plain(file: GGUFFile, key: str) -> Any:
    value = file.metadata[key]
    return value if isinstance(value, str | int | float) else list(value)


def gguf_py_value(reader: gguf.GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    assert field is not None
    return field.contents()


def test_header_is_these_bytes() -> None:
    header = header_bytes(
        [
            MetadataEntry("a", ValueType.UINT32, 7),
            MetadataEntry("b", ValueType.STRING, "é"),
            array("c", ValueType.INT16, [1, -1]),
        ],
        [
            TensorHeader("t", (3, 64), TENSOR_TYPES["Q8_0"], 0),
            TensorHeader("v", (5,), TENSOR_TYPES["F32"], 224),
        ],
    )
    assert header == bytes.fromhex(
        "47475546 03000000 0200000000000000 0300000000000000"  # GGUF, version 3, 2 tensors, 3 keys
        "0100000000000000 61 04000000 07000000"  # a: UINT32 7
        "0100000000000000 62 08000000 0200000000000000 c3a9"  # b: STRING of 2 bytes
        "0100000000000000 63 09000000 03000000 0200000000000000 0100 ffff"  # c: ARRAY of INT16, 2 of them
        "0100000000000000 74 02000000 4000000000000000 0300000000000000 08000000 0000000000000000"  # t: 64 x 3, Q8_0
        "0100000000000000 76 01000000 0500000000000000 00000000 e000000000000000"  # v: 5, F32, at 224
        "00000000000000000000000000000000000000000000000000"  # from 167 up to 192, a multiple of 32
    )


@pytest.mark.parametrize("kind", EXTREMES, ids=lambda kind: kind.name)
def test_scalars_are_read_as_they_were_given(kind: ValueType, tmp_path: Path) -> None:
    entries = [MetadataEntry(f"value.{index}", kind, value) for index, value in enumerate(EXTREMES[kind])]
    path = write(tmp_path / "scalars.gguf", [ARCHITECTURE, *entries])
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    assert list(ours.entries) == [ARCHITECTURE, *entries]
    assert [gguf_py_value(theirs, entry.key) for entry in entries] == EXTREMES[kind]


@pytest.mark.parametrize("kind", EXTREMES, ids=lambda kind: kind.name)
def test_arrays_are_read_as_they_were_given(kind: ValueType, tmp_path: Path) -> None:
    values = EXTREMES[kind] * 3
    path = write(tmp_path / "arrays.gguf", [ARCHITECTURE, array("all", kind, values), array("none", kind, [])])
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    assert (plain(ours, "all"), plain(ours, "none")) == (values, [])
    assert [entry.element_type for entry in ours.entries[1:]] == [kind, kind]
    assert gguf_py_value(theirs, "all") == values
    assert gguf_py_value(theirs, "none") == []


def test_strings_may_be_given_as_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "bytes.gguf", [ARCHITECTURE, array("pieces", ValueType.STRING, [b"\xff\xfe", b"ok", "é"])])
    pieces: Any = read_gguf(path).metadata["pieces"]
    assert list(pieces.iter_bytes()) == [b"\xff\xfe", b"ok", "é".encode()]


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.integers(0, 2**64 - 1),
        max_size=4,
    )
)
def test_header_ends_where_the_reader_finds_the_data(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    entries = [
        MetadataEntry(f"x.{key}", ValueType.STRING if isinstance(value, str) else ValueType.UINT64, value)
        for key, value in values.items()
    ]
    tensor = TensorHeader("t", (2, 32), TENSOR_TYPES["Q8_0"], 0)
    path = write(tmp_path_factory.mktemp("header") / "file.gguf", [ARCHITECTURE, *entries], [tensor])
    file = read_gguf(path)
    assert list(file.entries) == [ARCHITECTURE, *entries]
    assert file.data_offset == file.tensors["t"].offset == len(header_bytes([ARCHITECTURE, *entries], [tensor]))


def test_tensors_are_read_with_columns_first(tmp_path: Path) -> None:
    tensors = [
        TensorHeader("matrix", (3, 64), TENSOR_TYPES["Q8_0"], 0),
        TensorHeader("vector", (5,), TENSOR_TYPES["F32"], 224),
    ]
    path = write(tmp_path / "tensors.gguf", [ARCHITECTURE], tensors)
    ours = read_gguf(path)
    found = {name: (tensor.shape, tensor.type.name, tensor.n_bytes) for name, tensor in ours.tensors.items()}
    assert found == {"matrix": ((64, 3), "Q8_0", 3 * 68), "vector": ((5,), "F32", 20)}
    for tensor in gguf.GGUFReader(path).tensors:
        assert tuple(tensor.shape) == ours.tensors[tensor.name].shape
        assert tensor.data_offset == ours.tensors[tensor.name].offset
        assert tensor.tensor_type.name == ours.tensors[tensor.name].type.name


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ValueType.UINT32, -1),
        (ValueType.UINT32, 2**32),
        (ValueType.INT32, 2**31),
        (ValueType.UINT32, "8"),
        (ValueType.FLOAT32, 1e39),
        (ValueType.FLOAT32, None),
        (ValueType.STRING, "lone \ud800 surrogate"),
    ],
)
def test_value_that_its_type_cannot_hold_is_refused_by_its_key(kind: ValueType, value: Any) -> None:
    with pytest.raises(EdgeError) as caught:
        header_bytes([ARCHITECTURE, MetadataEntry("llama.some_key", kind, value)], [])
    assert caught.value.message.startswith("The key llama.some_key cannot be written: ")
    assert caught.value.hint == "Look for it in the checkpoint's JSON files."


def test_header_without_tensors_is_padded_as_well() -> None:
    header = header_bytes([ARCHITECTURE], [])
    assert len(header) == 96
    assert header[:4] == b"GGUF"
    assert struct.unpack_from("<QQ", header, 8) == (0, 1)
    assert header.endswith(b"llama" + bytes(27))
