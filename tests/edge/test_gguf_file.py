from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_cpp import llama_cpp

from edge.errors import EdgeError
from edge.gguf_array import FixedArray, StringArray, Value
from edge.gguf_file import MAX_HEADER_BYTES, GGUFFile, read_gguf
from edge.gguf_format import TENSOR_TYPES, ValueType
from tests.edge.gguf_bytes import F16, F32, Q8_0, Document, array, scalar, string, tensor, text

SMALL = Document(
    entries=[
        ("general.alignment", scalar(ValueType.UINT32, 32)),
        ("llama.block_count", scalar(ValueType.UINT32, 2)),
        ("llama.rope.freq_base", scalar(ValueType.FLOAT32, 0.5)),
        ("tokenizer.ggml.add_bos_token", scalar(ValueType.BOOL, True)),
        ("tokenizer.ggml.model", string("gpt2")),
        ("tokenizer.ggml.tokens", array(ValueType.STRING, ["a", "ä", "ab"])),
        ("tokenizer.ggml.token_type", array(ValueType.INT32, [1, -3, 1])),
    ],
    tensors=[tensor("output.weight", [32, 2], Q8_0, 0), tensor("output_norm.weight", [3], F32, 96)],
    weights=bytes(range(96 + 12)),
)


def read(folder: Path, document: Document | bytes):
    path = folder / "model.gguf"
    path.write_bytes(document if isinstance(document, bytes) else document.to_bytes())
    return read_gguf(path)


def refusal(folder: Path, document: Document | bytes) -> str:
    """The message of the refusal, which is one line and comes with a hint of one line."""
    with pytest.raises(EdgeError) as caught:
        read(folder, document)
    error = caught.value
    path = str(folder / "model.gguf")
    assert error.message.startswith(path)
    assert len(error.message.splitlines()) == 1
    assert len(error.hint.splitlines()) == 1
    return error.message.removeprefix(path).strip()


def file_or_refusal(path: Path) -> GGUFFile | EdgeError:
    try:
        return read_gguf(path)
    except EdgeError as error:
        return error


def plain(value: Value) -> bool | int | float | str | list:
    return value if isinstance(value, bool | int | float | str) else list(value)


def test_small_file_is_read_whole(tmp_path: Path) -> None:
    file = read(tmp_path, SMALL)
    assert (file.version, file.alignment, file.architecture) == (3, 32, "llama")
    assert file.file_bytes == file.path.stat().st_size == file.data_offset + 96 + 12
    assert {
        key: value if isinstance(value, bool | int | float | str) else list(value)
        for key, value in file.metadata.items()
    } == {
        "general.architecture": "llama",
        "general.alignment": 32,
        "llama.block_count": 2,
        "llama.rope.freq_base": 0.5,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "ä", "ab"],
        "tokenizer.ggml.token_type": [1, -3, 1],
    }
    output, norm = file.tensors.values()
    assert (output.name, output.shape, output.type.name, output.n_bytes) == ("output.weight", (32, 2), "Q8_0", 68)
    assert (norm.offset, norm.n_bytes, norm.n_elements) == (file.data_offset + 96, 12, 3)
    assert file.path.read_bytes()[norm.offset : norm.offset + norm.n_bytes] == bytes(range(96, 108))


def test_entries_keep_the_types_of_the_file(tmp_path: Path) -> None:
    types = {entry.key: (entry.type, entry.element_type) for entry in read(tmp_path, SMALL).entries}
    assert types["llama.block_count"] == (ValueType.UINT32, None)
    assert types["tokenizer.ggml.tokens"] == (ValueType.ARRAY, ValueType.STRING)
    assert types["tokenizer.ggml.token_type"] == (ValueType.ARRAY, ValueType.INT32)


def test_file_without_tensors_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, Document()).tensors == {}


def test_version_2_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, Document(version=2)).version == 2


def test_file_may_end_at_the_last_weight_without_padding(tmp_path: Path) -> None:
    file = read(tmp_path, Document(tensors=[tensor("a", [3], F32, 0)], weights=bytes(12)))
    assert file.tensors["a"].offset + 12 == file.file_bytes


def test_arrays_answer_like_lists(tmp_path: Path) -> None:
    numbers = read(tmp_path, SMALL).metadata["tokenizer.ggml.token_type"]
    words = read(tmp_path, SMALL).metadata["tokenizer.ggml.tokens"]
    assert isinstance(numbers, FixedArray) and isinstance(words, StringArray)
    assert (numbers[0], numbers[-1], numbers[1:], numbers[::2], len(numbers)) == (1, 1, [-3, 1], [1, 1], 3)
    assert (words[0], words[-1], words[1:], words[5:], len(words)) == ("a", "ab", ["ä", "ab"], [], 3)
    assert bytes(numbers.raw) == struct.pack("<3i", 1, -3, 1)
    for values in (numbers, words):
        with pytest.raises(IndexError):
            values[3]


def test_array_element_that_is_not_utf8_keeps_its_bytes(tmp_path: Path) -> None:
    tokens = array(ValueType.STRING, [b"\xff\xfe", b"", b"ok"])
    words = read(tmp_path, Document(entries=[("tokenizer.ggml.tokens", tokens)])).metadata["tokenizer.ggml.tokens"]
    assert isinstance(words, StringArray)
    assert [words.bytes_at(place) for place in range(3)] == list(words.iter_bytes()) == [b"\xff\xfe", b"", b"ok"]
    assert [word.encode("utf-8", "surrogateescape") for word in words] == [b"\xff\xfe", b"", b"ok"]


@pytest.mark.parametrize("kind", [ValueType.FLOAT64, ValueType.UINT8, ValueType.BOOL, ValueType.STRING])
def test_empty_array_is_empty(tmp_path: Path, kind: ValueType) -> None:
    assert list(read(tmp_path, Document(entries=[("some.array", array(kind, []))])).metadata["some.array"]) == []


def test_gguf_py_reads_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_uint8("kind.u8", 200)
    writer.add_int8("kind.i8", -100)
    writer.add_uint16("kind.u16", 60000)
    writer.add_int16("kind.i16", -30000)
    writer.add_uint64("kind.u64", 1 << 63)
    writer.add_int64("kind.i64", -(1 << 63))
    writer.add_float64("kind.f64", 1e300)
    writer.add_rope_freq_base(1e6)
    writer.add_chat_template("{{ messages }} ö\n")
    writer.add_token_list(["<s>", "é", "日本"])
    writer.add_token_scores([0.5, -1.0, 2.0])
    writer.add_array("kind.bools", [True, False, True])
    rows = np.arange(64 * 3, dtype=np.float32).reshape(3, 64)
    for kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0):
        writer.add_tensor(f"blk.0.{kind.name}", gguf.quants.quantize(rows, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for key, field in fields.items():
        assert plain(ours.metadata[key]) == field.contents(), key
    assert [(t.name, list(t.shape), t.type.name, t.offset, t.n_bytes) for t in ours.tensors.values()] == [
        (t.name, t.shape.tolist(), t.tensor_type.name, t.data_offset, t.n_bytes) for t in theirs.tensors
    ]
    assert ours.data_offset == theirs.data_offset


def test_tensor_types_have_the_ids_and_sizes_of_gguf_py() -> None:
    theirs = {kind.name: (int(kind), *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    theirs["Q8_1"] = (9, 32, 36)  # gguf-py still counts the 4 bytes of an older layout; ggml's block_q8_1 has 36
    for name, kind in TENSOR_TYPES.items() - {("Q2_0", TENSOR_TYPES["Q2_0"])}:  # which gguf-py does not know yet
        assert (kind.id, kind.block_elements, kind.block_bytes) == theirs[name], name


def test_tensor_types_have_the_sizes_of_the_bound_ggml() -> None:
    block_elements, block_bytes = (llama_cpp._lib[name] for name in ("ggml_blck_size", "ggml_type_size"))
    block_elements.restype, block_bytes.restype = ctypes.c_int64, ctypes.c_size_t
    for name, kind in TENSOR_TYPES.items():
        assert (kind.block_elements, kind.block_bytes) == (block_elements(kind.id), block_bytes(kind.id)), name


def test_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"nowhere.gguf cannot be read: No such file or directory\."):
        read_gguf(tmp_path / "nowhere.gguf")


def test_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"cannot be read: Is a directory\."):
        read_gguf(tmp_path)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + bytes(19)])
def test_file_shorter_than_a_header_is_no_gguf(tmp_path: Path, content: bytes) -> None:
    assert refusal(tmp_path, content) == (
        f"is no GGUF file: it has {len(content)} bytes, fewer than the smallest header."
    )


def test_other_magic_is_no_gguf(tmp_path: Path) -> None:
    assert refusal(tmp_path, Document(magic=b"PK\x03\x04")) == (
        "is no GGUF file: it starts with b'PK\\x03\\x04' instead of b'GGUF'."
    )


@pytest.mark.parametrize("version", [0, 1, 4, 65537])
def test_other_version_is_refused(tmp_path: Path, version: int) -> None:
    assert refusal(tmp_path, Document(version=version)) == (
        f"has GGUF version {version}; versions 2 and 3 can be read."
    )


def test_big_endian_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, Document(version=int.from_bytes(struct.pack(">I", 3), "little"))) == (
        "is a big-endian GGUF file, and this machine is little-endian."
    )


@pytest.mark.parametrize("count", [3, 1 << 17, 1 << 32, (1 << 64) - 1])
def test_counts_beyond_the_file_are_refused(tmp_path: Path, count: int) -> None:
    assert refusal(tmp_path, Document(tensor_count=count)).startswith(f"claims {count} tensors, more than")
    if count > 3:
        assert refusal(tmp_path, Document(entry_count=count)).startswith(f"claims {count} keys, more than")


HOSTILE_ENTRIES = {
    "string longer than the file": (
        [("a.text", struct.pack("<IQ", ValueType.STRING, 1 << 62))],
        "is cut off: its 95 bytes end inside the value of 'a.text'.",
    ),
    "fixed-size array longer than the file": (
        [("a.list", struct.pack("<IIQ", ValueType.ARRAY, ValueType.UINT64, 1 << 61))],
        "is cut off: its 99 bytes end inside the value of 'a.list'.",
    ),
    "string array longer than the file": (
        [("a.list", struct.pack("<IIQ", ValueType.ARRAY, ValueType.STRING, 1 << 61))],
        "is cut off: its 99 bytes end inside the value of 'a.list'.",
    ),
    "string in an array longer than the file": (
        [("a.list", struct.pack("<IIQQQ", ValueType.ARRAY, ValueType.STRING, 2, (1 << 64) - 9, 0))],
        "is cut off: its 115 bytes end inside the value of 'a.list'.",
    ),
    "last string in an array longer than the file": (
        [("a.list", struct.pack("<IIQQ", ValueType.ARRAY, ValueType.STRING, 1, 1))],
        "is cut off: its 107 bytes end inside the value of 'a.list'.",
    ),
    "unknown value type": ([("a.key", struct.pack("<II", 13, 0))], "gives 'a.key' the unknown value type 13."),
    "unknown element type": (
        [("a.list", struct.pack("<IIQ", ValueType.ARRAY, 77, 0))],
        "gives 'a.list' the unknown value type 77.",
    ),
    "array of arrays": (
        [("a.list", struct.pack("<IIQ", ValueType.ARRAY, ValueType.ARRAY, 0))],
        "has an array of arrays in 'a.list'.",
    ),
    "key twice": ([("a.key", string("x")), ("a.key", string("y"))], "has the key 'a.key' twice."),
    "empty key": ([("", string("x"))], "gives key 2 of 2 a length of 0 bytes instead of 1 to 65535."),
    "key that is not UTF-8": ([(b"\xff", string("x"))], "has text that is not UTF-8 in key 2 of 2."),
    "key with a NUL": ([("a\0b", string("x"))], "has a NUL character in key 2 of 2."),
    "text that is not UTF-8": ([("a.text", string(b"\xc3("))], "has text that is not UTF-8 in the value of 'a.text'."),
    "alignment of 0": (
        [("general.alignment", scalar(ValueType.UINT32, 0))],
        "has an alignment of 0, which is no power of two.",
    ),
    "alignment of 48": (
        [("general.alignment", scalar(ValueType.UINT32, 48))],
        "has an alignment of 48, which is no power of two.",
    ),
    "alignment of another type": (
        [("general.alignment", scalar(ValueType.UINT64, 32))],
        "has general.alignment as UINT64 instead of UINT32.",
    ),
}


@pytest.mark.parametrize("case", HOSTILE_ENTRIES)
def test_hostile_metadata_is_refused(tmp_path: Path, case: str) -> None:
    entries, message = HOSTILE_ENTRIES[case]
    assert refusal(tmp_path, Document(entries=entries)) == message


def test_control_characters_of_a_key_are_escaped_in_the_message(tmp_path: Path) -> None:
    entry = ("a\n\x1b[31m" + "k" * 200, struct.pack("<II", 99, 0))
    message = refusal(tmp_path, Document(entries=[entry]))
    assert message.startswith("gives 'a\\n\\x1b[31mkkk")
    assert len(message) < 130


def test_file_without_architecture_is_refused(tmp_path: Path) -> None:
    message = "does not say its general.architecture: it is no model."
    assert refusal(tmp_path, Document(architecture=None)) == message
    assert refusal(tmp_path, Document(architecture="")) == message
    number = Document(architecture=None, entries=[("general.architecture", scalar(ValueType.UINT32, 7))])
    assert refusal(tmp_path, number) == message


def test_header_beyond_the_limit_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    elements = MAX_HEADER_BYTES
    with path.open("wb") as file:
        file.write(Document(entries=[("a.list", struct.pack("<IIQ", ValueType.ARRAY, 0, elements))]).to_bytes())
        file.truncate(2 * MAX_HEADER_BYTES)
    with pytest.raises(EdgeError, match=f"has a header of more than {MAX_HEADER_BYTES} bytes: the value of 'a.list'"):
        read_gguf(path)


HOSTILE_TENSORS = {
    "cut off": ([tensor("w", [32], F32, 0)], "is cut off: tensor 'w' reaches to byte 256 of 232."),
    "cut off inside the description": ([tensor("w", [32], F32, 0)[:-1]], "is cut off"),
    "name of 64 bytes": (
        [tensor("n" * 64, [8], F32, 0)],
        "gives a tensor's name a length of 64 bytes instead of 1 to 63.",
    ),
    "empty name": ([tensor("", [8], F32, 0)], "gives a tensor's name a length of 0 bytes instead of 1 to 63."),
    "name that is not UTF-8": ([tensor(b"\xff", [8], F32, 0)], "has text that is not UTF-8 in a tensor's name."),
    "no dimension": ([tensor("w", [], F32, 0)], "gives tensor 'w' 0 dimensions instead of 1 to 4."),
    "five dimensions": ([tensor("w", [1] * 5, F32, 0)], "gives tensor 'w' 5 dimensions instead of 1 to 4."),
    "dimension of zero": (
        [tensor("w", [8, 0], F32, 0)],
        "gives tensor 'w' the shape [8, 0]: dimensions must be positive.",
    ),
    "negative dimension": (
        [tensor("w", [-8, -1], F32, 0)],
        "gives tensor 'w' the shape [-8, -1]: dimensions must be positive.",
    ),
    "overflowing dimensions": (
        [tensor("w", [1 << 32, 1 << 32], F32, 0)],
        "gives tensor 'w' the shape [4294967296, 4294967296]: more values than can be counted.",
    ),
    "shape larger than the file": ([tensor("w", [1 << 40], F32, 0)], "is cut off: tensor 'w' reaches to byte"),
    "unknown type": ([tensor("w", [8], 4, 0)], "has tensor 'w' of the unknown type 4."),
    "row that does not fill blocks": (
        [tensor("w", [33], Q8_0, 0)],
        "has rows of 33 values in tensor 'w', which do not fill the blocks of 32 of Q8_0.",
    ),
    "misaligned": ([tensor("w", [4], F32, 8)], "has tensor 'w' at byte 136, not at a multiple of 32."),
    "overlapping": (
        [tensor("w", [16], F32, 0), tensor("v", [4], F16, 32)],
        "has tensor 'v' overlapping another tensor at byte 192.",
    ),
    "gap between tensors": (
        [tensor("w", [4], F32, 0), tensor("v", [4], F16, 64)],
        "has tensor 'v' at byte 224 instead of 192.",
    ),
    "offset that overflows": (
        [tensor("w", [4], F32, (1 << 64) - 32)],
        "has tensor 'w' at byte 18446744073709551712 instead of 128.",
    ),
    "same name twice": ([tensor("w", [8], F32, 0), tensor("w", [8], F32, 32)], "has the tensor 'w' twice."),
}


@pytest.mark.parametrize("case", HOSTILE_TENSORS)
def test_hostile_tensor_is_refused(tmp_path: Path, case: str) -> None:
    tensors, message = HOSTILE_TENSORS[case]
    assert refusal(tmp_path, Document(tensors=tensors, weights=bytes(100 if case != "cut off" else 104))).startswith(
        message
    )


def test_alignment_below_what_llama_cpp_maps_is_refused_where_it_matters(tmp_path: Path) -> None:
    entries = [("general.alignment", scalar(ValueType.UINT32, 8))]
    weights = Document(
        entries=entries, alignment=8, tensors=[tensor("w", [2], F32, 0), tensor("v", [2], F32, 8)], weights=bytes(16)
    )
    assert "not at a multiple of 32." in refusal(tmp_path, weights)


def test_unknown_tensor_type_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(EdgeError) as caught:
        read(tmp_path, Document(tensors=[tensor("w", [8], 4, 0)], weights=bytes(32)))
    assert caught.value.hint == f"Known types: {', '.join(TENSOR_TYPES)}."


def test_metadata_that_would_abort_llama_cpp_is_refused(tmp_path: Path) -> None:
    layers = Document(entries=[("llama.block_count", scalar(ValueType.UINT32, 0))])
    assert refusal(tmp_path, layers) == "claims 0 layers instead of 1 to 512."


def test_every_truncation_of_a_small_file_is_refused(tmp_path: Path) -> None:
    whole = SMALL.to_bytes()
    for length in range(len(whole)):
        assert refusal(tmp_path, whole[:length])


@settings(max_examples=600, deadline=None)
@given(place=st.integers(0, len(SMALL.to_bytes()) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_parses_or_is_refused(tmp_path_factory: pytest.TempPathFactory, place: int, byte: int) -> None:
    changed = bytearray(SMALL.to_bytes())
    changed[place] = byte
    path = tmp_path_factory.getbasetemp() / "changed.gguf"
    path.write_bytes(changed)
    outcome = file_or_refusal(path)
    if isinstance(outcome, EdgeError):
        assert outcome.hint
    else:
        assert all(tensor.offset + tensor.n_bytes <= outcome.file_bytes for tensor in outcome.tensors.values())


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=400))
def test_any_bytes_after_the_magic_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + content)
    outcome = file_or_refusal(path)
    assert isinstance(outcome, GGUFFile) or outcome.hint


@given(words=st.lists(st.binary(max_size=20)), numbers=st.lists(st.integers(-(1 << 63), (1 << 63) - 1)))
def test_arrays_give_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, words: list[bytes], numbers: list[int]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    entries = [("a.words", array(ValueType.STRING, words)), ("a.numbers", array(ValueType.INT64, numbers))]
    file = read(folder, Document(entries=entries))
    read_words = file.metadata["a.words"]
    assert isinstance(read_words, StringArray)
    assert list(read_words.iter_bytes()) == [read_words.bytes_at(place) for place in range(len(words))] == words
    assert list(file.metadata["a.numbers"]) == numbers


def test_text_helper_writes_what_the_format_says() -> None:
    assert text("é") == b"\x02\0\0\0\0\0\0\0\xc3\xa9"
