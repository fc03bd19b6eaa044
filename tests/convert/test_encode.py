"""The C module's bytes against ggml_quantize_chunk, on rows of every kind, for every instruction set."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from convert import _encoder
from convert.encode import encode_rows, encoder_name
from edge.gguf_format import TENSOR_TYPES, TensorType
from edge.llama.quantize import Floats, dequantize_rows, quantize_rows
from tests.tiny import TINY, tensor_shapes, tensor_values

KINDS = [kind for kind in TENSOR_TYPES.values() if kind.id in _encoder.types()]
VARIANTS = ("avx512", "avx2", "baseline")
COLUMNS = 512
same_bytes = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="ggml's operations may be fused on this processor"
)
SHAPE = (12, COLUMNS)


def random(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def with_outliers() -> np.ndarray:
    values = random().standard_normal(SHAPE) * 0.01
    values[:, 5] = 1000
    return values


def any_finite_bits() -> np.ndarray:
    values = random().integers(0, 2**32, SHAPE, dtype=np.uint32).view(np.float32)
    return np.where(np.isfinite(values), values, 0)


ROWS: dict[str, Callable[[], np.ndarray]] = {
    "normal": lambda: random().standard_normal(SHAPE) * 0.02,
    "heavy-tailed": lambda: random().standard_t(1.5, SHAPE) * 0.02,
    "constant": lambda: np.full(SHAPE, 0.37),
    "negative constant": lambda: np.full(SHAPE, -0.37),
    "zero": lambda: np.zeros(SHAPE),
    "outliers": with_outliers,
    "denormal": lambda: random().standard_normal(SHAPE) * 1e-40,
    "below the smallest scale": lambda: random().standard_normal(SHAPE) * 1e-16,
    "huge": lambda: random().standard_normal(SHAPE) * 1e30,
    "squares overflow": lambda: random().standard_normal(SHAPE) * 1e19,
    "positive": lambda: np.abs(random().standard_normal(SHAPE)),
    "negative": lambda: -np.abs(random().standard_normal(SHAPE)),
    "nearly constant": lambda: 1 + 1e-6 * random().standard_normal(SHAPE),
    "nearly constant, negative": lambda: -1 + 1e-6 * random().standard_normal(SHAPE),
    "sparse": lambda: random().standard_normal(SHAPE) * (random(8).random(SHAPE) < 0.05),
    "of every size": lambda: random().standard_normal(SHAPE) * 10.0 ** random(8).integers(-30, 8, SHAPE),
    "sub-blocks of every size": lambda: (
        random().standard_normal((*SHAPE[:1], 16, 32)) * 10.0 ** random(8).integers(-12, 2, (SHAPE[0], 16, 1))
    ).reshape(SHAPE),
    "whole numbers": lambda: random().integers(-3, 4, SHAPE).astype(float),
    "any bits": any_finite_bits,
}


def columns_of_no_importance() -> Floats:
    """Zeros here and there, in a whole sub-block of 32, in one of 16, and in a whole block of 256."""
    importance = (random().random(COLUMNS) + 0.01) * (random(8).random(COLUMNS) > 0.4)
    importance[32:64] = importance[96:112] = importance[256:] = 0
    return importance.astype(np.float32)


def any_positive_bits() -> Floats:
    values = random().integers(0, 2**31, COLUMNS, dtype=np.uint32).view(np.float32)
    return np.where(np.isfinite(values), values, 0).astype(np.float32)


IMPORTANCE: dict[str, Callable[[], Floats | None]] = {
    "none": lambda: None,
    "even": lambda: np.ones(COLUMNS, np.float32),
    "uneven": lambda: (random().random(COLUMNS) + 0.01).astype(np.float32),
    "zero": lambda: np.zeros(COLUMNS, np.float32),
    "zero in places": columns_of_no_importance,
    "heavy-tailed": lambda: (np.abs(random().standard_t(1.2, COLUMNS)) ** 3).astype(np.float32),
    "of every size": lambda: (10.0 ** random().integers(-30, 20, COLUMNS)).astype(np.float32),
    "any bits": any_positive_bits,
}


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
