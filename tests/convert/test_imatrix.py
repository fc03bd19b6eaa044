"""Importance matrices: both of llama.cpp's formats, what they mean, and which models they fit."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from convert.gguf_header import TensorHeader, header_bytes
from convert.imatrix import (
    ImportanceMatrix,
    TensorImportance,
    check_matrix,
    expert_rows,
    read_imatrix,
    write_imatrix,
)
from edge.errors import EdgeError
from edge.gguf_format import TENSOR_TYPES, MetadataEntry, ValueType

DENSE = TensorImportance(np.arange(1, 9, dtype=np.float32).reshape(1, 8), np.array([4]))
EXPERTS = TensorImportance(np.arange(24, dtype=np.float32).reshape(3, 8), np.array([2, 0, 5]))
MATRIX = ImportanceMatrix(
    "measured.gguf",
    {"blk.0.ffn_up_exps.weight": EXPERTS, "blk.0.attn_q.weight": DENSE},
    ("prose.txt",),
    chunk_count=7,
    chunk_tokens=512,
)
SHAPES = {
    "token_embd.weight": (9, 8),
    "blk.0.attn_q.weight": (2, 8),
    "blk.0.attn_norm.weight": (8,),
    "blk.0.ffn_up_exps.weight": (3, 2, 8),
}


def test_matrix_survives_the_way_through_a_file(tmp_path: Path) -> None:
    path = tmp_path / "measured.gguf"
    write_imatrix(path, MATRIX)
    again = read_imatrix(path)
    assert again.entries.keys() == MATRIX.entries.keys()
    for name, entry in MATRIX.entries.items():
        assert np.array_equal(again.entries[name].sums, entry.sums)
        assert again.entries[name].counts.tolist() == entry.counts.tolist()
    assert (again.name, again.datasets, again.chunk_count, again.chunk_tokens) == (
        "measured.gguf",
        ("prose.txt",),
        7,
        512,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["measured.gguf"]


def test_matrix_beside_another_that_is_being_written_leaves_that_alone(tmp_path: Path) -> None:
    (tmp_path / "measured.gguf.part").write_text("another's")
    write_imatrix(tmp_path / "measured.gguf", MATRIX)
    assert read_imatrix(tmp_path / "measured.gguf").entries.keys() == MATRIX.entries.keys()
    assert (tmp_path / "measured.gguf.part").read_text() == "another's"


def test_matrix_that_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgeError, match=r"file/measured\.gguf cannot be written: ") as caught:
        write_imatrix(tmp_path / "file" / "measured.gguf", MATRIX)
    assert caught.value.hint == "Check the folder."
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_file_has_the_keys_and_tensors_that_llama_cpp_reads(tmp_path: Path) -> None:
    path = tmp_path / "measured.gguf"
    write_imatrix(path, MATRIX)
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["prose.txt"]
    assert reader.fields["imatrix.chunk_count"].contents() == 7
    assert reader.fields["imatrix.chunk_size"].contents() == 512
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert list(tensors) == [
        "blk.0.attn_q.weight.in_sum2",
        "blk.0.attn_q.weight.counts",
        "blk.0.ffn_up_exps.weight.in_sum2",
        "blk.0.ffn_up_exps.weight.counts",
    ]
    assert tensors["blk.0.ffn_up_exps.weight.in_sum2"].shape.tolist() == [8, 3]
    assert tensors["blk.0.ffn_up_exps.weight.counts"].shape.tolist() == [1, 3]
    assert np.array_equal(tensors["blk.0.ffn_up_exps.weight.in_sum2"].data, EXPERTS.sums)
    assert tensors["blk.0.ffn_up_exps.weight.counts"].data.reshape(-1).tolist() == [2, 0, 5]


def test_weights_are_means_and_one_for_experts_that_were_never_chosen() -> None:
    assert DENSE.weights.tolist() == [0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]
    assert EXPERTS.weights.reshape(3, 8)[1].tolist() == [1] * 8
    assert EXPERTS.weights.reshape(3, 8)[2].tolist() == [value / np.float32(5) for value in EXPERTS.sums[2]]


def test_keys_of_a_file_made_with_a_matrix_are_llama_cpp_s() -> None:
    assert [(entry.key, entry.value) for entry in MATRIX.metadata()] == [
        ("quantize.imatrix.file", "measured.gguf"),
        ("quantize.imatrix.dataset", "prose.txt"),
        ("quantize.imatrix.entries_count", 2),
        ("quantize.imatrix.chunks_count", 7),
    ]


def legacy_bytes(*, trailer: bytes = b"") -> bytes:
    """Two entries, as llama.cpp wrote them before GGUF: means times the number of calls."""
    out = struct.pack("<i", 2)
    for name, calls, values in (("blk.0.attn_q.weight", 3, [3.0, 6.0]), ("blk.0.attn_k.weight", 0, [0.5, 1.0])):
        out += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values))
        out += struct.pack(f"<{len(values)}f", *values)
    return out + trailer


def test_legacy_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.dat"
    path.write_bytes(legacy_bytes(trailer=struct.pack("<ii", 12, 4) + b"text"))
    matrix = read_imatrix(path)
    assert matrix.entries["blk.0.attn_q.weight"].weights.tolist() == [1.0, 2.0]
    assert matrix.entries["blk.0.attn_k.weight"].weights.tolist() == [0.5, 1.0]
    assert (matrix.datasets, matrix.chunk_count) == (("text",), 12)


def test_legacy_file_may_end_after_its_entries(tmp_path: Path) -> None:
    path = tmp_path / "old.dat"
    path.write_bytes(legacy_bytes())
    assert read_imatrix(path).datasets == ()


@pytest.mark.parametrize("length", [0, 3, 4, 6, 20, 40, len(legacy_bytes()) - 1, len(legacy_bytes()) + 2])
def test_legacy_file_cut_off_anywhere_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "old.dat"
    path.write_bytes(legacy_bytes(trailer=bytes(8))[:length])
    with pytest.raises(EdgeError) as caught:
        read_imatrix(path)
    assert caught.value.message == f"{path} is no importance matrix, or cut off."


def test_empty_legacy_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.dat"
    path.write_bytes(bytes(4))
    with pytest.raises(EdgeError) as caught:
        read_imatrix(path)
    assert caught.value.message == f"{path} holds no importance of any tensor."


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="cannot be read: No such file"):
        read_imatrix(tmp_path / "none.gguf")


def write_gguf(path: Path, tensors: dict[str, np.ndarray], *, kind: str = "F32") -> Path:  # type: ignore[type-arg]
    headers, body = [], b""
    for name, values in tensors.items():
        headers.append(TensorHeader(name, values.shape, TENSOR_TYPES[kind], len(body)))
        body += values.tobytes()
        body += bytes(-len(body) % 32)
    path.write_bytes(header_bytes([MetadataEntry("imatrix.chunk_count", ValueType.UINT32, 1)], headers) + body)
    return path


def test_sums_without_counts_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"blk.0.attn_q.weight.in_sum2": np.ones((1, 8), np.float32)})
    with pytest.raises(EdgeError) as caught:
        read_imatrix(path)
    assert caught.value.message == f"{path}: 'blk.0.attn_q.weight.counts' is missing."


def test_counts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "m.gguf", {"a.in_sum2": np.ones((1, 8), np.float32), "a.counts": np.ones((3, 1), np.float32)}
    )
    with pytest.raises(EdgeError) as caught:
        read_imatrix(path)
    assert caught.value.message == f"{path}: the counts of 'a' do not fit its 8 sums."


def test_sums_of_another_type_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"a.in_sum2": np.ones((1, 8), np.float16)}, kind="F16")
    with pytest.raises(EdgeError) as caught:
        read_imatrix(path)
    assert caught.value.message == f"{path}: 'a.in_sum2' is F16 instead of F32."


@pytest.mark.parametrize(
    ("value", "what"), [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity"), (-1, "negative")]
)
def test_values_that_are_no_sums_of_squares_are_refused(value: float, what: str, tmp_path: Path) -> None:
    sums = np.ones((1, 8), np.float32)
    sums[0, 3] = value
    path = write_gguf(tmp_path / "m.gguf", {"a.in_sum2": sums, "a.counts": np.ones((1, 1), np.float32)})
    with pytest.raises(EdgeError) as caught:
        read_imatrix(path)
    assert what in caught.value.message and "'a'" in caught.value.message


def test_model_is_no_matrix(tiny_gguf: Path) -> None:
    with pytest.raises(EdgeError) as caught:
        read_imatrix(tiny_gguf)
    assert (
        caught.value.message == f"{tiny_gguf} is a GGUF file, but no importance matrix: it has no imatrix.chunk_count."
    )


# Which models a matrix fits


def test_matrix_fits_its_model() -> None:
    check_matrix(MATRIX, SHAPES)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"blk.0.attn_q.weight": (2, 16)}, "it has 8 values for 'blk.0.attn_q.weight', which needs 16"),
        ({"blk.0.ffn_up_exps.weight": (4, 2, 8)}, "it has 24 values for 'blk.0.ffn_up_exps.weight', which needs 32"),
        ({"blk.1.attn_q.weight": (2, 8)}, "it has nothing for 'blk.1.attn_q.weight'"),
    ],
)
def test_matrix_of_another_model_is_refused_by_its_first_tensor(
    changes: dict[str, tuple[int, ...]], reason: str
) -> None:
    with pytest.raises(EdgeError) as caught:
        check_matrix(MATRIX, {**SHAPES, **changes})
    assert caught.value.message == f"The importance matrix measured.gguf is of another model: {reason}."
    assert caught.value.hint == "Measure one for this model with --calibrate."


def test_matrix_with_a_tensor_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(EdgeError, match=r"it knows 'blk.0.attn_q.weight', which the model does not have"):
        check_matrix(MATRIX, {"blk.0.ffn_up_exps.weight": (3, 2, 8)})


def test_rows_of_a_stack_are_cut_where_experts_end() -> None:
    assert list(expert_rows(3, 11, 4)) == [(0, 3, 4), (1, 4, 8), (2, 8, 11)]
    assert list(expert_rows(0, 4, 4)) == [(0, 0, 4)]
