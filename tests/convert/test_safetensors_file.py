"""The safetensors reader and writer: exact bytes, and a hostile file for each rule of the format."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convert.safetensors_file import SourceTensor, read_safetensors_header, write_safetensors
from edge.errors import EdgeError

PAIR = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}


def file_bytes(header: bytes, tensor_bytes: int = 32, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(tensor_bytes)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def with_entry(name: str = "a", **changes: Any) -> bytes:
    return json.dumps({**PAIR, name: {**PAIR[name], **changes}}).encode()


def test_header_gives_absolute_offsets_and_row_major_shapes(tmp_path: Path) -> None:
    header = json.dumps(PAIR | {"__metadata__": {"format": "pt"}}).encode()
    path = written(tmp_path / "model.safetensors", file_bytes(header))
    file = read_safetensors_header(path)
    start = 8 + len(header)
    assert file.tensors == {
        "a": SourceTensor("a", "F32", (2, 3), path, start, 24),
        "b": SourceTensor("b", "BF16", (4,), path, start + 24, 8),
    }
    assert file.metadata == {"format": "pt"}
    assert file.header_sha256 == hashlib.sha256(path.read_bytes()[:start]).hexdigest()


def test_rows_flatten_all_outer_dimensions_and_vectors_are_one_row() -> None:
    shapes = [(2, 3, 5), (7,), (), (0, 4)]
    tensors = [SourceTensor("t", "F32", shape, Path("f"), 0, 0) for shape in shapes]
    assert [(tensor.rows, tensor.columns) for tensor in tensors] == [(6, 5), (1, 7), (1, 1), (0, 4)]


def test_writer_makes_these_exact_bytes_with_wider_types_first(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    write_safetensors(
        path, [("h", "BF16", (1,), lambda: b"\x80\x3f"), ("w", "F32", [1, 1], lambda: b"\0\0\x80\x3f")], {"k": "v"}
    )
    header = (
        b'{"__metadata__":{"k":"v"},"w":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},'
        b'"h":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]}}'
    )
    header += b" " * (-len(header) % 8)
    assert path.read_bytes() == struct.pack("<Q", len(header)) + header + b"\0\0\x80\x3f\x80\x3f"


def test_what_the_writer_wrote_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    write_safetensors(path, [("empty", "F16", (0, 4), lambda: b""), ("one", "I8", (), lambda: b"\x07")])
    file = read_safetensors_header(path)
    assert {name: (tensor.dtype, tensor.shape, tensor.n_bytes) for name, tensor in file.tensors.items()} == {
        "empty": ("F16", (0, 4), 0),
        "one": ("I8", (), 1),
    }
    assert path.read_bytes()[file.tensors["one"].offset :] == b"\x07"


HOSTILE = {
    "empty file": (b"", "too few for the header length"),
    "seven bytes": (bytes(7), "too few for the header length"),
    "header longer than the file": (file_bytes(b"{}", 0, length=3), "claims 3 bytes and the file has 10"),
    "header longer than the limit": (file_bytes(b"{}", 0, length=1 << 40), "above the limit"),
    "header length with the top bit": (file_bytes(b"{}", 0, length=(1 << 64) - 1), "above the limit"),
    "no brace": (file_bytes(b' {"a":1}', 0), "does not begin with '{'"),
    "empty header": (file_bytes(b"", 0), "does not begin with '{'"),
    "not JSON": (file_bytes(b'{"a":', 0), "is not JSON"),
    "two documents": (file_bytes(b"{}{}", 0), "is not JSON"),
    "not UTF-8": (file_bytes(b'{"\xff":1}', 0), "is not JSON"),
    "nested too deep": (file_bytes(b'{"a":' + b"[" * 200_000, 0), "is not JSON"),
    "number too long": (file_bytes(b'{"a":' + b"9" * 5_000 + b"}", 0), "is not JSON"),
    "name twice": (file_bytes(b'{"a":1,"a":2}', 0), "'a' stands twice"),
    "dtype twice": (file_bytes(b'{"a":{"dtype":"F32","dtype":"F16"}}', 0), "'dtype' stands twice"),
    "lone surrogate in a name": (file_bytes(b'{"\\ud800":{}}', 0), "cannot be printed"),
    "escape sequence in a name": (file_bytes(b'{"\\u001b[2J":{}}', 0), "cannot be printed"),
    "metadata is a list": (file_bytes(b'{"__metadata__":[]}', 0), "not a map from text to text"),
    "metadata holds a number": (file_bytes(b'{"__metadata__":{"a":1}}', 0), "not a map from text to text"),
    "entry is a list": (file_bytes(b'{"a":[]}', 0), "is not made of dtype, shape and data_offsets"),
    "entry without shape": (
        file_bytes(b'{"a":{"dtype":"F32","data_offsets":[0,4]}}', 4),
        "is not made of dtype, shape and data_offsets",
    ),
    "unknown entry field": (file_bytes(with_entry(codec="zip")), "is not made of dtype, shape and data_offsets"),
    "unknown dtype": (file_bytes(with_entry(dtype="F31")), "unknown type 'F31'"),
    "dtype is a list": (file_bytes(with_entry(dtype=["F32"])), "unknown type ['F32']"),
    "negative size": (file_bytes(with_entry(shape=[-2, -3])), "the shape of 'a' is not a list"),
    "fractional size": (file_bytes(with_entry(shape=[2.0, 3])), "the shape of 'a' is not a list"),
    "size is true": (file_bytes(with_entry(shape=[6, True])), "the shape of 'a' is not a list"),
    "size beyond 63 bits": (file_bytes(with_entry(shape=[1 << 63, 0])), "the shape of 'a' is not a list"),
    "65 dimensions": (file_bytes(with_entry(shape=[1] * 65)), "at most 64 sizes"),
    "product beyond 64 bits": (file_bytes(with_entry(shape=[1 << 32, 1 << 32])), "but spans 24 bytes"),
    "shape disagrees": (file_bytes(with_entry(shape=[2, 4])), "which takes 256 bits, but spans 24 bytes"),
    "negative offset": (file_bytes(with_entry(data_offsets=[-24, 0])), "are not two offsets"),
    "three offsets": (file_bytes(with_entry(data_offsets=[0, 12, 24])), "are not two offsets"),
    "end before begin": (file_bytes(with_entry(data_offsets=[24, 0])), "begins at 24, after its end at 0"),
    "overlap": (file_bytes(with_entry("b", data_offsets=[16, 24]), 24), "overlaps the tensor before it"),
    "same extent twice": (
        file_bytes(with_entry("b", dtype="F32", shape=[6], data_offsets=[0, 24]), 24),
        "overlaps the tensor before it",
    ),
    "hole": (file_bytes(with_entry("b", data_offsets=[32, 40]), 40), "leaves a hole before it"),
    "hole at the start": (
        file_bytes(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', 2),
        "leaves a hole before it",
    ),
    "truncated": (file_bytes(json.dumps(PAIR).encode(), 31), "it is truncated"),
    "bytes at the end": (file_bytes(json.dumps(PAIR).encode(), 33), "1 bytes after its last tensor belong to none"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused_by_name_and_reason(name: str, tmp_path: Path) -> None:
    content, reason = HOSTILE[name]
    path = written(tmp_path / "model.safetensors", content)
    with pytest.raises(EdgeError) as caught:
        read_safetensors_header(path)
    assert reason in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_missing_file_and_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="No such file"):
        read_safetensors_header(tmp_path / "absent.safetensors")
    with pytest.raises(EdgeError, match="cannot be read"):
        read_safetensors_header(tmp_path)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["F32", "BF16", "U8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F4"]) | json_values,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2) | json_values,
    }
)


def _read(path: Path) -> tuple[EdgeError | None, list[SourceTensor]]:
    try:
        return None, list(read_safetensors_header(path).tensors.values())
    except EdgeError as error:
        return error, []


def assert_reads_or_refuses(path: Path, content: bytes) -> None:
    """Whatever is in the file, its tensors lie within it, or one error names it and says what to do."""
    path.write_bytes(content)
    refusal, tensors = _read(path)
    assert refusal is None or (str(path) in refusal.message and refusal.hint)
    assert all(tensor.offset >= 8 and tensor.offset + tensor.n_bytes <= len(content) for tensor in tensors)


@given(
    header=st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), entries | json_values), extra=st.integers(0, 40)
)
@settings(deadline=None)
def test_any_json_header_parses_or_is_an_edge_error(
    header: dict[str, Any], extra: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert_reads_or_refuses(
        tmp_path_factory.getbasetemp() / "json.safetensors", file_bytes(json.dumps(header).encode(), extra)
    )


@given(position=st.integers(0, 200), value=st.binary(min_size=1, max_size=3))
@example(position=0, value=b"\xff")
@settings(deadline=None)
def test_any_flipped_bytes_parse_or_are_an_edge_error(
    position: int, value: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(file_bytes(json.dumps(PAIR).encode()))
    content[position : position + len(value)] = value
    assert_reads_or_refuses(tmp_path_factory.getbasetemp() / "flipped.safetensors", bytes(content))
