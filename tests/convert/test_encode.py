"""The C module's bytes against ggml_quantize_chunk, on rows of every kind, for every instruction set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from convert import _encoder
from convert.encode import encode_rows, encoder_name
from edge.gguf_format import TENSOR_TYPES
from edge.llama.quantize import Floats, quantize_rows

KINDS = [kind for kind in TENSOR_TYPES.values() if kind.id in _encoder.types()]
COLUMNS = 512
SHAPE = (24, COLUMNS)


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


@pytest.fixture(params=["avx2", "baseline"])
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    try:
        yield _encoder.use(request.param)
    except ValueError:
        assert request.param != "baseline"
        pytest.skip(f"this processor has no {request.param}")
    finally:
        _encoder.use()


def assert_same_bytes(values: np.ndarray) -> None:
    rows: Floats = np.ascontiguousarray(values, np.float32)
    for kind in KINDS:
        ours = np.empty(len(rows) * kind.row_bytes(rows.shape[1]), np.uint8)
        theirs = np.empty_like(ours)
        encode_rows(rows, kind, ours)
        quantize_rows(rows, kind, theirs)
        differing = (ours != theirs).reshape(-1, kind.block_bytes).any(axis=1)
        assert not differing.any(), f"{kind.name}: blocks {np.flatnonzero(differing)}"


def test_the_module_is_built_here_and_has_the_k_quants_of_four_bits_and_more() -> None:
    assert {kind.name for kind in KINDS} == {"Q4_K", "Q5_K", "Q6_K"}
    assert encoder_name() in ("avx2", "baseline")


@pytest.mark.parametrize("name", ROWS)
def test_bytes_are_ggmls(name: str, variant: str) -> None:
    with np.errstate(over="ignore"):
        assert_same_bytes(ROWS[name]())


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None)
@given(arrays.arrays(np.float32, (1, 256), elements=floats, fill=floats))
def test_bytes_are_ggmls_for_whatever_a_row_holds(rows: Floats) -> None:
    for name in ("avx2", "baseline"):
        try:
            _encoder.use(name)
        except ValueError:
            continue
        assert_same_bytes(rows)
    _encoder.use()


def test_nothing_is_written_outside_of_the_rows() -> None:
    rows: Floats = random().standard_normal((3, 256)).astype(np.float32)
    for kind in KINDS:
        memory = np.full(3 * kind.block_bytes + 128, 0xA5, np.uint8)
        _encoder.encode(kind.id, rows, memory[64:-64])
        assert (memory[:64] == 0xA5).all()
        assert (memory[-64:] == 0xA5).all()


def test_sizes_that_do_not_fit_are_refused() -> None:
    kind = TENSOR_TYPES["Q4_K"]
    with pytest.raises(ValueError, match="1024 bytes of values do not fill 143 bytes of blocks"):
        _encoder.encode(kind.id, np.zeros(256, np.float32), np.zeros(143, np.uint8))
    with pytest.raises(ValueError, match="1020 bytes of values"):
        _encoder.encode(kind.id, np.zeros(255, np.float32), np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="no encoder for type 0"):
        _encoder.encode(0, np.zeros(256, np.float32), np.zeros(1024, np.uint8))


def test_memory_that_is_read_only_is_refused() -> None:
    out = np.zeros(144, np.uint8)
    out.flags.writeable = False
    with pytest.raises((TypeError, BufferError, ValueError)):
        _encoder.encode(12, np.zeros(256, np.float32), out)


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="no variant mmx on this processor"):
        _encoder.use("mmx")
