"""Layouts: a model that fits is one file, any other one becomes parts that llama.cpp loads as the same model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.layout import StoredTensor, lay_out
from convert.pipeline import write_checkpoint
from convert.plan import ConversionOptions
from edge.errors import EdgeError
from edge.gguf_file import GGUFFile, read_gguf
from edge.gguf_format import TENSOR_TYPES, MetadataEntry, ValueType
from edge.local_engine import LocalEngine
from edge.request import Request
from edge.settings import ModelSettings, SamplingSettings
from tests.convert.conftest import TinyFolder

METADATA = [MetadataEntry("general.architecture", ValueType.STRING, "llama")]
TWO_PARTS = ConversionOptions(max_part_bytes=3_000_000)
F32, Q8_0 = TENSOR_TYPES["F32"], TENSOR_TYPES["Q8_0"]


def tensors(*rows: int) -> list[StoredTensor]:
    return [StoredTensor(f"t{number}", (count, 64), Q8_0) for number, count in enumerate(rows)]


def hashes(file: GGUFFile) -> dict[str, tuple[str, str]]:
    """Each tensor's type and the hash of its bytes."""
    found = {}
    for tensor in file.tensors.values():
        with tensor.path.open("rb") as content:
            content.seek(tensor.offset)
            found[tensor.name] = tensor.type.name, hashlib.sha256(content.read(tensor.n_bytes)).hexdigest()
    return found


def refusal(max_bytes: int, *stored: StoredTensor) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        lay_out(Path("m.gguf"), METADATA, stored, max_bytes)
    return caught.value


def test_model_that_fits_stays_one_file_without_keys_of_a_split() -> None:
    (part,) = lay_out(Path("m.gguf"), METADATA, tensors(10), 10_000)
    assert (part.path, b"split." in part.header) == (Path("m.gguf"), False)
    assert lay_out(Path("m.gguf"), METADATA, tensors(10), part.file_bytes) == (part,)
    assert len(lay_out(Path("m.gguf"), METADATA, tensors(5, 5), part.file_bytes - 1)) == 2


@given(rows=st.lists(st.integers(1, 60), min_size=1, max_size=30), max_bytes=st.integers(4500, 12_000))
def test_no_part_is_larger_than_asked_and_every_tensor_has_one_place(rows: list[int], max_bytes: int) -> None:
    stored = tensors(*rows)
    parts = lay_out(Path("m.gguf"), METADATA, stored, max_bytes)
    assert all(part.file_bytes <= max_bytes for part in parts)
    assert [name for part in parts for name in part.offsets] == [tensor.name for tensor in stored]
    sizes = {tensor.name: tensor.n_bytes for tensor in stored}
    for part in parts:
        end = len(part.header)
        for name, offset in part.offsets.items():
            assert offset >= end and offset % 32 == 0
            end = offset + sizes[name]
        assert part.file_bytes >= end


def test_only_the_first_part_has_the_model_s_metadata() -> None:
    first, second = lay_out(Path("a/m.gguf"), METADATA, tensors(60, 60), 5000)
    assert [part.path for part in (first, second)] == [
        Path("a/m-00001-of-00002.gguf"), Path("a/m-00002-of-00002.gguf"),
    ]  # fmt: skip
    assert b"general.architecture" in first.header
    assert b"general.architecture" not in second.header
    assert all(key in part.header for part in (first, second) for key in (b"split.no", b"split.tensors.count"))


def test_metadata_that_leave_no_room_have_a_part_of_their_own() -> None:
    metadata = [*METADATA, MetadataEntry("general.description", ValueType.STRING, "x" * 4000)]
    first, second = lay_out(Path("m.gguf"), metadata, tensors(60), 4400)
    assert (list(first.offsets), list(second.offsets)) == ([], ["t0"])


def test_what_does_not_fit_into_any_part_is_named() -> None:
    error = refusal(2000, *tensors(1, 60))
    assert error.message == "The tensor 't1' takes 4.08 kB, more than a part of 2.00 kB can hold."
    assert error.hint == "Give a larger --split-max-size."
    error = refusal(100, *tensors(60))
    assert error.message == "The metadata take 160 bytes, more than a part of 100 bytes can hold."
    assert error.hint == "Give a larger --split-max-size."


def test_more_parts_than_can_be_counted_are_refused() -> None:
    stored = [StoredTensor(f"t{number}", (1, 64), F32) for number in range(70_000)]
    error = refusal(512, *stored)
    assert error.message == "Parts of 512 bytes would be 70,000 files; 65,535 are possible."
    assert error.hint == "Give a larger --split-max-size."


def test_split_model_is_the_same_model(tiny: TinyFolder, tmp_path: Path) -> None:
    (whole,) = write_checkpoint(tiny("llama3"), ["Q4_K_M"], tmp_path / "whole.gguf")
    options = ConversionOptions(max_part_bytes=1_000_000)
    (first,) = write_checkpoint(tiny("llama3"), ["Q4_K_M"], tmp_path / "parts.gguf", options=options)
    one, several = read_gguf(whole), read_gguf(first)
    assert len(several.parts) == 4
    assert all(path.stat().st_size <= 1_000_000 for path in several.parts)
    assert hashes(several) == hashes(one)
    assert {key for key in several.metadata if key not in one.metadata} == {
        "split.no", "split.count", "split.tensors.count",
    }  # fmt: skip
    answers = []
    for path in (whole, several.parts[2]):  # any part will do
        with LocalEngine(path, ModelSettings(context_tokens=64, threads=1)) as engine:
            request = Request((1, 5, 9), sampling=SamplingSettings(temperature=0), max_tokens=8)
            answers.append(engine.submit(request).result().tokens)
    assert answers[0] == answers[1]


def test_nothing_of_the_parts_is_left_when_a_conversion_fails(
    tiny: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise EdgeError("Something went wrong.")

    monkeypatch.setattr("convert.write.encode_rows", fail)
    with pytest.raises(EdgeError, match="Something went wrong"):
        write_checkpoint(
            tiny("llama3"), ["Q8_0"], tmp_path / "m.gguf", options=ConversionOptions(max_part_bytes=2_000_000)
        )
    assert list(tmp_path.iterdir()) == []


def test_part_that_exists_is_not_overwritten(tiny: TinyFolder, tmp_path: Path) -> None:
    existing = tmp_path / "m-00002-of-00002.gguf"
    existing.write_bytes(b"of another model")
    with pytest.raises(EdgeError) as caught:
        write_checkpoint(
            tiny("llama3"), ["Q8_0"], tmp_path / "m.gguf", options=ConversionOptions(max_part_bytes=3_000_000)
        )
    assert caught.value.message == f"{existing} exists already."
    assert existing.read_bytes() == b"of another model"
