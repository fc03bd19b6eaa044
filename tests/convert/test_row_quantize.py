"""ggml's encoders and decoders through ctypes: exact bytes, and what gguf-py makes of the same ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from gguf.quants import dequantize

from edge.errors import EdgeError
from edge.gguf_format import FILE_TYPES, TENSOR_TYPES, TensorType
from edge.llama.quantize import dequantize_rows, is_sound, quantize_file, quantize_rows, to_float32

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BLOCK_TYPES = [name for name, kind in TENSOR_TYPES.items() if kind.is_quantized and name not in ("Q8_1", "Q8_K")]
RECIPE_TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "Q5_0", "Q5_1"]
WITHOUT_GGUF_PY = ("Q1_0", "Q2_0")
HALF_PRECISION = np.arange(65536).astype(np.uint16)  # every bit pattern


def normal(rows: int, columns: int) -> Floats:
    return np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)


def encode(rows: Floats, kind: TensorType) -> Bytes:
    out = np.empty(len(rows) * kind.row_bytes(rows.shape[1]), np.uint8)
    quantize_rows(rows, kind, out)
    return out


def widened(stored: npt.NDArray[np.float16] | npt.NDArray[np.uint16]) -> Floats:
    out = np.empty(stored.shape, np.float32)
    to_float32(stored, out)
    return out


def test_every_float16_is_widened_exactly() -> None:
    halves = HALF_PRECISION.view(np.float16)
    np.testing.assert_array_equal(widened(halves), halves.astype(np.float32))


def test_every_bfloat16_is_the_upper_half_of_a_float32() -> None:
    expected = (HALF_PRECISION.astype(np.uint32) << np.uint32(16)).view(np.float32)
    np.testing.assert_array_equal(widened(HALF_PRECISION), expected)


def test_matrices_are_widened_in_place() -> None:
    halves = normal(3, 40).astype(np.float16)
    np.testing.assert_array_equal(widened(halves), halves.astype(np.float32))


def test_float32_is_kept_bit_by_bit() -> None:
    values = np.array([[0.1, -0.0, np.float32(1e-45), 3.4e38]], np.float32)
    assert encode(values, TENSOR_TYPES["F32"]).tobytes() == values.tobytes()


def test_float16_is_rounded_to_the_nearest_and_ties_to_even() -> None:
    ties = np.array([[2048.5, 2049.0, 2051.0, 65519.0, 65520.0, 2.0**-25, 3 * 2.0**-25, -1 / 3]], np.float32)
    for values in (ties, normal(20, 50), normal(20, 50) * np.float32(1e-6)):
        with np.errstate(over="ignore"):
            expected = values.astype(np.float16)
        assert encode(values, TENSOR_TYPES["F16"]).tobytes() == expected.tobytes()


def test_bfloat16_is_rounded_to_the_nearest_and_ties_to_even() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xBF818000, 0x00000000], np.uint32)
    found = encode(bits.view(np.float32).reshape(1, -1), TENSOR_TYPES["BF16"]).view(np.uint16)
    assert [f"{number:04x}" for number in found] == ["3f80", "3f82", "3f81", "3f80", "bf82", "0000"]


def test_block_of_q8_0_is_a_float16_scale_and_32_signed_bytes() -> None:
    values = np.zeros((1, 32), np.float32)
    values[0, :5] = [63.5, -63.5, 0.5, 0.24, -0.26]
    expected = np.float16(0.5).tobytes() + bytes([127, 129, 1, 0, 255]) + bytes(27)
    assert encode(values, TENSOR_TYPES["Q8_0"]).tobytes() == expected


def test_rows_are_encoded_one_by_one() -> None:
    values = normal(4, 512)
    for name in RECIPE_TYPES:
        kind = TENSOR_TYPES[name]
        whole = encode(values, kind)
        assert whole.tobytes() == b"".join(encode(values[row : row + 1], kind).tobytes() for row in range(4)), name


@pytest.mark.parametrize("name", ["Q8_0", "Q5_0", "Q5_1"])
def test_encoders_agree_with_gguf_py(name: str) -> None:
    """It has its own for the simple types only."""
    values = normal(32, 256)
    expected = gguf.quantize(values, gguf.GGMLQuantizationType[name])
    assert encode(values, TENSOR_TYPES[name]).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", [name for name in BLOCK_TYPES if name not in WITHOUT_GGUF_PY])
def test_decoders_agree_with_gguf_py_on_any_bytes(name: str) -> None:
    kind = TENSOR_TYPES[name]
    encoded = np.random.default_rng(1).integers(0, 256, 16 * kind.row_bytes(512), np.uint8)
    ours = dequantize_rows(encoded, kind, 512)
    with np.errstate(all="ignore"):
        theirs = dequantize(encoded.reshape(16, -1), gguf.GGMLQuantizationType[name])
    assert ours.shape == (16, 512)
    usual = np.isfinite(theirs) & (np.abs(theirs) < 1e30)
    assert usual.mean() > 0.3
    np.testing.assert_allclose(ours[usual], theirs[usual], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_every_block_type_has_a_decoder(name: str) -> None:
    kind = TENSOR_TYPES[name]
    zeros = dequantize_rows(np.zeros(2 * kind.row_bytes(256), np.uint8), kind, 256)
    assert zeros.shape == (2, 256)
    assert np.isfinite(zeros).all()


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_plain_types_are_decoded_as_they_were_encoded(name: str) -> None:
    kind = TENSOR_TYPES[name]
    values = dequantize_rows(encode(normal(3, 7), kind), kind, 7)
    assert dequantize_rows(encode(values, kind), kind, 7).tobytes() == values.tobytes()


@pytest.mark.parametrize("name", RECIPE_TYPES)
def test_soundness_is_about_values_and_scales(name: str) -> None:
    kind = TENSOR_TYPES[name]
    encoded = encode(normal(2, 256), kind)
    assert is_sound(encoded, kind)
    scale = 208 if name == "Q6_K" else 0
    encoded[scale : scale + 4] = 0xFF
    assert not is_sound(encoded, kind)


def test_several_threads_may_encode_at_once() -> None:
    kind, slabs = TENSOR_TYPES["Q4_K"], [normal(8, 256) * np.float32(1 + index) for index in range(16)]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda slab: encode(slab, kind).tobytes(), slabs))
    assert at_once == [encode(slab, kind).tobytes() for slab in slabs]


def test_memory_of_the_wrong_size_never_reaches_native_code() -> None:
    kind = TENSOR_TYPES["Q8_0"]
    with pytest.raises(AssertionError, match="67 bytes for 2 rows of Q8_0"):
        quantize_rows(normal(2, 32), kind, np.empty(67, np.uint8))
    with pytest.raises(AssertionError, match="33 columns do not fill blocks of Q8_0"):
        quantize_rows(normal(2, 33), kind, np.empty(68, np.uint8))
    with pytest.raises(AssertionError):
        quantize_rows(normal(32, 2).T, kind, np.empty(68, np.uint8))


def test_file_types_are_the_numbers_of_llama_h() -> None:
    names = {"F32": "LLAMA_FTYPE_ALL_F32"}
    for name, number in FILE_TYPES.items():
        assert number == getattr(llama_cpp, names.get(name, f"LLAMA_FTYPE_MOSTLY_{name}"))


def test_file_that_llama_cpp_cannot_quantize_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(EdgeError) as caught:
        quantize_file(source, tmp_path / "out.gguf", "Q8_0")
    assert caught.value.message.startswith(f"llama.cpp cannot quantize {source}: ")
    assert caught.value.hint == f"See what is in the file with: edge inspect {source}"
