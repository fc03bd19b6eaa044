"""Weights by memory map: the right values in the source type, and memory that is given back."""

from __future__ import annotations

import json
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from convert.safetensors_file import SourceTensor, read_safetensors_header, write_safetensors
from convert.shards import FAULT_WINDOW_BYTES, ShardMaps
from edge.errors import EdgeError


def write_one(path: Path, dtype: str, values: np.ndarray) -> SourceTensor:
    write_safetensors(path, [("t", dtype, values.shape, lambda: np.ascontiguousarray(values))])
    return read_safetensors_header(path).tensors["t"]


@pytest.mark.parametrize(
    ("dtype", "numpy_type"),
    [
        ("F64", "f8"), ("F32", "f4"), ("F16", "f2"), ("BF16", "u2"), ("I64", "i8"), ("U32", "u4"),
        ("I16", "i2"), ("I8", "i1"), ("U8", "u1"), ("BOOL", "u1"), ("F8_E4M3", "u1"), ("C64", "c8"),
    ],
)  # fmt: skip
def test_rows_come_in_the_source_type(dtype: str, numpy_type: str, tmp_path: Path) -> None:
    values = np.arange(12).astype(numpy_type).reshape(4, 3)
    tensor = write_one(tmp_path / "one.safetensors", dtype, values)
    with ShardMaps() as maps:
        rows = maps.rows(tensor, 1, 3)
    assert rows.dtype == np.dtype(numpy_type)
    np.testing.assert_array_equal(rows, values[1:3])


def test_outer_dimensions_are_flattened_to_rows_and_vectors_are_one_row(tmp_path: Path) -> None:
    values = np.arange(24, dtype="f4")
    cube = write_one(tmp_path / "cube.safetensors", "F32", values.reshape(2, 3, 4))
    vector = write_one(tmp_path / "vector.safetensors", "F32", values)
    scalar = write_one(tmp_path / "scalar.safetensors", "F32", values[5].reshape(()))
    with ShardMaps() as maps:
        np.testing.assert_array_equal(maps.rows(cube, 2, 5), values.reshape(6, 4)[2:5])
        np.testing.assert_array_equal(maps.rows(vector, 0, 1), values.reshape(1, 24))
        np.testing.assert_array_equal(maps.rows(scalar, 0, 1), [[5]])


def test_empty_slabs_and_empty_tensors_have_no_values(tmp_path: Path) -> None:
    tensor = write_one(tmp_path / "one.safetensors", "F32", np.ones((2, 3), "f4"))
    no_rows = write_one(tmp_path / "rows.safetensors", "F32", np.ones((0, 3), "f4"))
    no_columns = write_one(tmp_path / "columns.safetensors", "F32", np.ones((3, 0), "f4"))
    with ShardMaps() as maps:
        assert maps.rows(tensor, 2, 2).shape == (0, 3)
        assert maps.rows(no_rows, 0, 0).shape == (0, 3)
        assert maps.rows(no_columns, 0, 3).shape == (3, 0)
        maps.release(no_rows, 0, 0)
        maps.release(no_columns, 0, 3)


def test_aligned_rows_are_a_read_only_view(tmp_path: Path) -> None:
    tensor = write_one(tmp_path / "one.safetensors", "BF16", np.ones((2, 3), "u2"))
    with ShardMaps() as maps:
        rows = maps.rows(tensor, 0, 2)
        assert not rows.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            rows[0, 0] = 1


@pytest.mark.parametrize("padding", range(1, 8))
def test_tensor_at_an_odd_offset_is_read_right(padding: int, tmp_path: Path) -> None:
    header = json.dumps(
        {
            "pad": {"dtype": "U8", "shape": [padding], "data_offsets": [0, padding]},
            "t": {"dtype": "F64", "shape": [2, 2], "data_offsets": [padding, padding + 32]},
        }
    ).encode()
    values = np.arange(4, dtype="f8").reshape(2, 2)
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(padding) + values.tobytes())
    tensor = read_safetensors_header(path).tensors["t"]
    with ShardMaps() as maps:
        rows = maps.rows(tensor, 0, 2)
        assert rows.flags.aligned
        np.testing.assert_array_equal(rows, values)
        maps.release(tensor, 0, 2)
        np.testing.assert_array_equal(maps.rows(tensor, 1, 2), values[1:])


def test_view_outlives_the_maps(tmp_path: Path) -> None:
    tensor = write_one(tmp_path / "one.safetensors", "F32", np.full((2, 3), 7, "f4"))
    with ShardMaps() as maps:
        rows = maps.rows(tensor, 0, 2)
    assert rows.sum() == 42


def resident_bytes(path: Path) -> int:
    """What /proc/self/smaps counts as resident of the maps of `path`."""
    smaps = Path("/proc/self/smaps").read_text()
    sizes = re.findall(rf"{re.escape(str(path))}\n(?:.*\n)*?Rss: +(\d+) kB", smaps)
    assert sizes, "the file is not mapped"
    return 1024 * sum(int(size) for size in sizes)


@pytest.fixture
def sixteen_mib(tmp_path: Path) -> SourceTensor:
    """A tensor of 4096 rows that take a page each."""
    return write_one(tmp_path / "one.safetensors", "F32", np.arange(1 << 22, dtype="f4").reshape(4096, 1024))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/smaps")
def test_released_rows_leave_memory_and_read_the_same_again(sixteen_mib: SourceTensor) -> None:
    with ShardMaps() as maps:
        total = maps.rows(sixteen_mib, 0, 4096).sum(dtype="f8")
        assert resident_bytes(sixteen_mib.file) >= sixteen_mib.n_bytes
        maps.release(sixteen_mib, 1024, 4096)
        assert resident_bytes(sixteen_mib.file) <= sixteen_mib.n_bytes // 4
        maps.release(sixteen_mib, 0, 1024)
        assert resident_bytes(sixteen_mib.file) == 0
        assert maps.rows(sixteen_mib, 0, 4096).sum(dtype="f8") == total


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/smaps")
def test_reading_slab_by_slab_never_holds_more_than_a_slab_and_its_edges(sixteen_mib: SourceTensor) -> None:
    slab_rows = 250
    with ShardMaps() as maps:
        for first in range(0, 4096, slab_rows):
            last = min(first + slab_rows, 4096)
            assert maps.rows(sixteen_mib, first, last)[-1, -1] == last * 1024 - 1
            assert maps.rows(sixteen_mib, first, last).min() == first * 1024
            assert resident_bytes(sixteen_mib.file) <= slab_rows * 4096 + 2 * FAULT_WINDOW_BYTES
            maps.release(sixteen_mib, first, last)
        assert resident_bytes(sixteen_mib.file) == 0


def test_file_that_shrank_since_its_header_was_read_is_refused(tmp_path: Path) -> None:
    tensor = write_one(tmp_path / "one.safetensors", "F32", np.ones((2, 3), "f4"))
    tensor.file.write_bytes(tensor.file.read_bytes()[:-4])
    with ShardMaps() as maps, pytest.raises(EdgeError, match="t ends at") as caught:
        maps.rows(tensor, 0, 1)
    assert "changed while it was read" in caught.value.hint


@pytest.mark.parametrize("content", [None, b""])
def test_file_that_vanished_or_was_emptied_is_refused(content: bytes | None, tmp_path: Path) -> None:
    tensor = write_one(tmp_path / "one.safetensors", "F32", np.ones((2, 3), "f4"))
    tensor.file.unlink() if content is None else tensor.file.write_bytes(content)
    with ShardMaps() as maps, pytest.raises(EdgeError, match="cannot be mapped into memory"):
        maps.rows(tensor, 0, 1)


def test_type_narrower_than_a_byte_has_no_values(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    write_safetensors(path, [("t", "F4", (2, 2), lambda: b"\0\0")])
    with ShardMaps() as maps, pytest.raises(EdgeError, match="t is F4, which has no values to read"):
        maps.rows(read_safetensors_header(path).tensors["t"], 0, 1)


def test_rows_that_were_asked_for_ahead_read_the_same(sixteen_mib: SourceTensor, tmp_path: Path) -> None:
    vector = write_one(tmp_path / "vector.safetensors", "F32", np.arange(5000, dtype=np.float32))
    with ShardMaps() as maps:
        for first in range(0, sixteen_mib.rows, 100):
            maps.read_ahead(sixteen_mib, first, min(first + 100, sixteen_mib.rows))
        maps.read_ahead(vector, 4000, 5000)  # rows of a vector are its elements
        with ShardMaps() as others:
            np.testing.assert_array_equal(
                maps.rows(sixteen_mib, 0, sixteen_mib.rows), others.rows(sixteen_mib, 0, sixteen_mib.rows)
            )
        assert maps.rows(vector, 0, 1)[0, 4999] == 4999


def test_reading_ahead_of_a_file_that_shrank_names_it(tmp_path: Path) -> None:
    tensor = write_one(tmp_path / "one.safetensors", "F32", np.zeros((4, 1000), np.float32))
    (tmp_path / "one.safetensors").write_bytes(bytes(4096))
    with ShardMaps() as maps, pytest.raises(EdgeError, match="ends at"):
        maps.read_ahead(tensor, 0, 4)
