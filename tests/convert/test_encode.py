"""The C module's bytes against ggml_quantize_chunk, on rows of every kind, for every instruction set."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from convert import _encoder
from convert.encode import encode_rows, encoder_name, is_vectorized, types_left_to_ggml
from edge.gguf_format import TENSOR_TYPES, TensorType
from edge.llama.quantize import Floats, dequantize_rows, quantize_rows
from tests.convert.encoder_rows import COLUMNS, IMPORTANCE, ROWS, random
from tests.tiny import TINY, tensor_shapes, tensor_values

KINDS = [kind for kind in TENSOR_TYPES.values() if kind.id in _encoder.types()]
VARIANTS = ("avx512", "avx2", "baseline")
same_bytes = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="ggml's operations may be fused on this processor"
)


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    try:
        yield _encoder.use(request.param)
    except ValueError:
        assert request.param != "baseline"
        pytest.skip(f"this processor has no {request.param}")
    finally:
        _encoder.use()


def assert_same_bytes(values: np.ndarray, importance: Floats | None = None) -> None:
    rows: Floats = np.ascontiguousarray(values, np.float32)
    for kind in KINDS:
        if rows.shape[1] % kind.block_elements:
            continue
        ours = np.empty(len(rows) * kind.row_bytes(rows.shape[1]), np.uint8)
        theirs = np.empty_like(ours)
        encode_rows(rows, kind, ours, importance)
        quantize_rows(rows, kind, theirs, importance)
        differing = (ours != theirs).reshape(-1, kind.block_bytes).any(axis=1)
        assert not differing.any(), f"{kind.name}: blocks {np.flatnonzero(differing)}"


def test_the_module_is_built_here_and_has_every_kind_that_a_search_makes_slow() -> None:
    names = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS"
    assert [kind.name for kind in KINDS] == sorted(names.split(), key=lambda name: TENSOR_TYPES[name].id)
    assert encoder_name() in VARIANTS


@same_bytes
@pytest.mark.parametrize("importance", IMPORTANCE)
@pytest.mark.parametrize("rows", ROWS)
def test_bytes_are_ggmls(rows: str, importance: str, variant: str) -> None:
    with np.errstate(over="ignore"):
        assert_same_bytes(ROWS[rows](), IMPORTANCE[importance]())


@same_bytes
@pytest.mark.parametrize("columns", [32, 96, 288, 768])
def test_rows_of_any_number_of_blocks_are_ggmls(columns: int, variant: str) -> None:
    rows = random().standard_normal((5, columns))
    assert_same_bytes(rows)
    assert_same_bytes(rows, random(8).random(columns).astype(np.float32))


@same_bytes
@pytest.mark.parametrize("name", TINY)
def test_bytes_of_each_familys_weights_are_ggmls(name: str) -> None:
    for tensor, shape in tensor_shapes(TINY[name]).items():
        if len(shape) > 1 and shape[-1] % 32 == 0:
            rows = tensor_values(TINY[name], tensor, shape).reshape(-1, shape[-1])[:8]
            assert_same_bytes(rows)
            assert_same_bytes(rows, random().random(shape[-1]).astype(np.float32))


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
weights = st.floats(0, 2.0**100, width=32)


@same_bytes
@settings(max_examples=100, deadline=None)
@given(
    arrays.arrays(np.float32, (1, 256), elements=floats, fill=floats),
    st.none() | arrays.arrays(np.float32, 256, elements=weights, fill=weights),
)
def test_bytes_are_ggmls_for_whatever_a_row_holds(rows: Floats, importance: Floats | None) -> None:
    for name in VARIANTS:
        try:
            _encoder.use(name)
        except ValueError:
            continue
        assert_same_bytes(rows, importance)
    _encoder.use()


@same_bytes
def test_no_type_is_left_to_ggml_on_this_processor() -> None:
    assert types_left_to_ggml(TENSOR_TYPES.values()) == ()


class OtherBytes:
    """An encoder with a byte of its own in the rows of one type, where they are weighted."""

    @staticmethod
    def encode(kind: int, rows: Floats, out: np.ndarray, columns: int, importance: Floats | None) -> None:
        _encoder.encode(kind, rows, out, columns, importance)
        if kind == TENSOR_TYPES["Q4_K"].id and importance is not None:
            out[1000] ^= 1


def test_type_whose_bytes_would_differ_is_left_to_ggml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convert.encode._encoder", OtherBytes)
    is_vectorized.cache_clear()
    try:
        kind = TENSOR_TYPES["Q4_K"]
        rows, importance = random().standard_normal((64, 256)).astype(np.float32), np.ones(256, np.float32)
        ours, theirs = (np.empty(64 * kind.block_bytes, np.uint8) for _ in range(2))
        encode_rows(rows, kind, ours, importance)
        quantize_rows(rows, kind, theirs, importance)
        assert (ours == theirs).all()
        assert not is_vectorized(kind, has_importance=True)
        assert types_left_to_ggml([kind, TENSOR_TYPES["F32"]]) == ("Q4_K",)
    finally:
        is_vectorized.cache_clear()


def test_type_that_the_module_does_not_have_is_ggmls_and_not_listed() -> None:
    assert not is_vectorized(TENSOR_TYPES["IQ3_S"], has_importance=True)
    assert types_left_to_ggml([TENSOR_TYPES["IQ3_S"], TENSOR_TYPES["F16"]]) == ()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_errors_are_not_above_ggmls_on_any_processor(kind: TensorType, variant: str) -> None:
    rows: Floats = (random().standard_normal((64, COLUMNS)) * 0.02).astype(np.float32)
    errors = []
    for encode in (encode_rows, quantize_rows):
        encoded = np.empty(len(rows) * kind.row_bytes(COLUMNS), np.uint8)
        encode(rows, kind, encoded)
        errors.append(np.square(dequantize_rows(encoded, kind, COLUMNS).astype(np.float64) - rows).sum())
    assert errors[0] <= errors[1] * 1.01


def test_nothing_is_written_outside_of_the_rows() -> None:
    rows: Floats = random().standard_normal((3, 256)).astype(np.float32)
    for kind in KINDS:
        columns = kind.block_elements
        written = rows.size // columns * kind.block_bytes
        for skipped in (64, 65):  # and wherever memory begins
            memory = np.full(written + 128 + skipped, 0xA5, np.uint8)
            _encoder.encode(kind.id, rows, memory[skipped : skipped + written], columns)
            assert (memory[:skipped] == 0xA5).all()
            assert (memory[skipped + written :] == 0xA5).all()


@pytest.mark.parametrize(
    ("kind", "values", "out", "columns", "importance", "message"),
    [
        ("Q4_K", 256, 143, 256, None, "1024 bytes of values do not fill 143 bytes of blocks"),
        ("Q4_K", 256, 288, 256, None, "1024 bytes of values do not fill 288 bytes of blocks"),
        ("Q4_K", 255, 0, 256, None, "1020 bytes of values are no rows of 256 columns"),
        ("Q4_K", 256, 144, 128, None, "128 columns do not fill blocks of 256"),
        ("Q4_0", 256, 144, 0, None, "0 columns do not fill blocks of 32"),
        ("Q4_0", 256, 144, -32, None, "-32 columns do not fill blocks of 32"),
        ("Q4_0", 256, 144, 2**62, None, f"{2**62} columns do not fill blocks of 32"),
        ("Q4_0", 256, 144, 64, 256, "1024 bytes of importance for 64 columns"),
        ("F32", 256, 1024, 256, None, "no encoder for type 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    kind: str, values: int, out: int, columns: int, importance: int | None, message: str
) -> None:
    weights = None if importance is None else np.zeros(importance, np.float32)
    with pytest.raises(ValueError, match=message):
        _encoder.encode(TENSOR_TYPES[kind].id, np.zeros(values, np.float32), np.zeros(out, np.uint8), columns, weights)


def test_memory_that_is_read_only_or_scattered_is_refused() -> None:
    values, out = np.zeros(256, np.float32), np.zeros(144, np.uint8)
    with pytest.raises((TypeError, BufferError, ValueError)):
        _encoder.encode(12, np.zeros((256, 2), np.float32)[:, 0], out, 256)
    with pytest.raises((TypeError, BufferError, ValueError)):
        _encoder.encode(12, values, out, 256, np.zeros((256, 2), np.float32)[:, 0])
    out.flags.writeable = False
    with pytest.raises((TypeError, BufferError, ValueError)):
        _encoder.encode(12, values, out, 256)


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="no variant mmx on this processor"):
        _encoder.use("mmx")
