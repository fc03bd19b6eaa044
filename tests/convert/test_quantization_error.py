"""Rounding stays within the bounds for any weights, and damage to a single block does not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.quantization_error import ERROR_BOUNDS, ErrorSums, TensorError, damaged_blocks
from convert.tensor_types import CHOOSABLE_TYPES
from edge.gguf_format import TENSOR_TYPES, TensorType
from edge.llama.quantize import dequantize_rows, is_sound, quantize_rows

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

ROWS, COLUMNS = 16, 512
BLOCK_TYPES = [name for name in ERROR_BOUNDS if TENSOR_TYPES[name].is_quantized]

# where the float16 scales stand in a block, of the types that tell a block whose scale is halved
SCALE_OFFSETS = {
    "Q8_0": [0],
    "Q6_K": [208],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q5_K": [0, 2],
    "Q4_K": [0, 2],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "Q3_K": [108],
}


def encode(weights: Floats, kind: TensorType, importance: Floats | None = None) -> Bytes:
    encoded = np.empty(len(weights) * kind.row_bytes(weights.shape[1]), np.uint8)
    quantize_rows(weights, kind, encoded, importance)
    return encoded


def error_of(weights: Floats, kind: TensorType) -> TensorError:
    sums = ErrorSums()
    found = dequantize_rows(encode(weights, kind), kind, weights.shape[1])
    sums.add("weights", kind, 0, weights, found)
    (error,) = sums.by_tensor()
    return error


def normal(seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((ROWS, COLUMNS)).astype(np.float32) * np.float32(0.02)


def weights_of_many_kinds() -> dict[str, Floats]:
    random = np.random.default_rng(0)
    shape = (ROWS, COLUMNS)
    outliers = random.uniform(-1, 1, shape) * 0.1
    outliers[:, ::32] = 1
    kinds = {
        "normal": normal(),
        "laplace": random.laplace(size=shape) * 0.02,
        "heavy-tailed": random.standard_t(2, shape) * 0.02,
        "uniform": random.uniform(-1, 1, shape),
        "all positive": random.uniform(0, 1, shape),
        "far from zero": 1 + 0.01 * random.standard_normal(shape),
        "one value": np.full(shape, 0.0173),
        "one negative value": np.full(shape, -0.0173),
        "two values": np.sign(random.standard_normal(shape)) * 0.0173,
        "sparse": random.standard_normal(shape) * (random.random(shape) < 0.1),
        "outliers": outliers,
        "rows of different sizes": random.standard_normal(shape) * np.exp(random.uniform(-9, 3, (ROWS, 1))),
        "large": random.standard_normal(shape) * 1e3,
        "zero": np.zeros(shape),
    }
    return {name: np.ascontiguousarray(values, np.float32) for name, values in kinds.items()}


KINDS = weights_of_many_kinds()


@pytest.mark.parametrize("weights", KINDS)
@pytest.mark.parametrize("kind", ERROR_BOUNDS)
def test_rounding_stays_within_the_bounds(kind: str, weights: str) -> None:
    error = error_of(KINDS[weights], TENSOR_TYPES[kind])
    assert error.share_of_bound < 0.9
    assert error.damaged_row is None


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_normal_weights_stay_below_half_of_the_bound(kind: str) -> None:
    assert error_of(normal(), TENSOR_TYPES[kind]).share_of_bound < 0.5


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_worst_weights_of_an_8_bit_block_stay_within_the_bound(kind: str) -> None:
    """One weight decides the scale and all others lie between two steps of it."""
    weights = np.full((ROWS, COLUMNS), 0.4999 / 127, np.float32)
    weights[:, ::32] = 1
    assert error_of(weights, TENSOR_TYPES[kind]).share_of_bound < 0.9


@pytest.mark.parametrize("kind", BLOCK_TYPES)
@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    tail=st.floats(0, 4),
    spread=st.floats(0, 4),
    offset=st.floats(-2, 2),
    scale=st.floats(-18, 6),
)
def test_no_block_is_taken_for_damaged(
    kind: str, seed: int, tail: float, spread: float, offset: float, scale: float
) -> None:
    """Whatever the tails within a block, the spread of its parts, its offset and its size."""
    random = np.random.default_rng(seed)
    values = np.sign(random.standard_normal((8, 8, 32))) * np.exp(tail * random.standard_normal((8, 8, 32)))
    values = values * np.exp(spread * random.standard_normal((8, 8, 1))) + offset
    largest = np.abs(values).max()
    weights = np.ascontiguousarray((values / largest * np.exp(scale)).reshape(8, 256), np.float32)
    found = dequantize_rows(encode(weights, TENSOR_TYPES[kind]), TENSOR_TYPES[kind], 256)
    assert damaged_blocks(weights, found - weights, TENSOR_TYPES[kind]).tolist() == []


def test_every_type_that_a_conversion_may_choose_has_its_bounds() -> None:
    assert set(ERROR_BOUNDS) == set(CHOOSABLE_TYPES)


@pytest.mark.parametrize("kind", BLOCK_TYPES)
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), tail=st.floats(0, 3), weights=st.sampled_from(["normal", "laplace", "uniform"]))
def test_weighted_rounding_stays_within_the_wider_bounds(kind: str, seed: int, tail: float, weights: str) -> None:
    """However much the columns differ in importance."""
    importance = np.exp(tail * np.random.default_rng(seed).standard_normal(COLUMNS)).astype(np.float32)
    values, tensor_type = KINDS[weights], TENSOR_TYPES[kind]
    sums = ErrorSums(is_weighted=True)
    encoded = encode(values, tensor_type, importance)
    sums.add("weights", tensor_type, 0, values, dequantize_rows(encoded, tensor_type, COLUMNS))
    (error,) = sums.by_tensor()
    assert error.share_of_bound < 0.95
    assert error.damaged_row is None


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_tensor_of_another_source_is_out_of_the_wider_bounds(kind: str) -> None:
    sums = ErrorSums(is_weighted=True)
    sums.add("weights", TENSOR_TYPES[kind], 0, normal(), normal(1))
    assert sums.by_tensor()[0].share_of_bound > 1


@pytest.mark.parametrize("kind", ERROR_BOUNDS)
def test_blocks_that_vanish_near_zero_are_no_damage(kind: str) -> None:
    """Rows of a token that was never trained: float16 scales round to zero, or to a step many times too large."""
    for size in (1e-5, 1e-6, 1e-8, 1e-20, 1e-39):
        weights = normal()
        weights[3] = weights[3] / np.float32(0.02) * np.float32(size)
        error = error_of(weights, TENSOR_TYPES[kind])
        assert error.damaged_row is None, size
        assert error.share_of_bound < 0.5


@pytest.mark.parametrize("kind", SCALE_OFFSETS)
@pytest.mark.parametrize("bit", range(2, 8))
def test_one_flipped_bit_in_the_high_byte_of_a_scale_is_found(kind: str, bit: int) -> None:
    """All but its two lowest bits are sign and exponent: each at least halves, doubles or turns the whole block."""
    weights, tensor_type = normal(), TENSOR_TYPES[kind]
    per_row = COLUMNS // tensor_type.block_elements
    block = 5 * per_row + 1
    for offset in SCALE_OFFSETS[kind]:
        encoded = encode(weights, tensor_type)
        encoded[block * tensor_type.block_bytes + offset + 1] ^= 1 << bit
        found = dequantize_rows(encoded, tensor_type, COLUMNS)
        is_found = block in damaged_blocks(weights, found - weights, tensor_type)
        assert is_found or not is_sound(encoded, tensor_type)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("bit", range(8))
def test_one_flipped_bit_in_the_high_byte_of_a_value_is_found(kind: str, bit: int) -> None:
    weights, tensor_type = normal(), TENSOR_TYPES[kind]
    encoded = encode(weights, tensor_type)
    encoded[1000 * tensor_type.block_bytes - 1] ^= 1 << bit
    found = dequantize_rows(encoded, tensor_type, COLUMNS)
    assert damaged_blocks(weights, found - weights, tensor_type).tolist() == [999]


def test_damage_is_told_by_its_first_row_in_the_tensor() -> None:
    kind, weights = TENSOR_TYPES["Q8_0"], normal()
    damaged = weights.copy()
    damaged[[2, 9], 100] = 1
    sums = ErrorSums()
    sums.add("blk.0", kind, 100 + ROWS, weights, damaged.copy())
    sums.add("blk.0", kind, 100, weights, damaged.copy())
    sums.add("blk.0", kind, 100 + 2 * ROWS, weights, weights.copy())
    sums.add("blk.1", kind, 0, weights, weights.copy())
    first, second = sums.by_tensor()
    assert (first.name, first.damaged_row) == ("blk.0", 102)
    assert (second.name, second.damaged_row, second.relative_error) == ("blk.1", None, 0.0)


def test_error_is_relative_to_the_whole_tensor() -> None:
    kind = TENSOR_TYPES["Q4_K"]
    ones = np.ones((1, 256), np.float32)
    sums = ErrorSums()
    sums.add("t", kind, 0, ones, ones * np.float32(1.1))
    sums.add("t", kind, 1, ones, ones.copy())
    (error,) = sums.by_tensor()
    assert error.relative_error == pytest.approx(0.1 / 2**0.5)
    assert error.share_of_bound == pytest.approx(error.relative_error / 0.2)


def test_errors_do_not_depend_on_the_order_of_slabs() -> None:
    kind, random = TENSOR_TYPES["Q8_0"], np.random.default_rng(3)
    slabs = [(name, random.random((1, 32), np.float32)) for name in "abc" * 40]
    results = set()
    for order in (1, -1):
        sums = ErrorSums()
        for name, values in slabs[::order]:
            sums.add(name, kind, 0, values, values * np.float32(1.01))
        sums.add("z", kind, 0, slabs[0][1], slabs[0][1].copy())
        sums.add("y", kind, 0, slabs[0][1], slabs[0][1].copy())
        results.add(sums.by_tensor())
    assert len(results) == 1
    assert [error.name for error in results.pop()][3:] == ["y", "z"]


def test_anything_but_zero_for_zeros_is_infinitely_wrong() -> None:
    zeros = np.zeros((1, 32), np.float32)
    sums = ErrorSums()
    sums.add("t", TENSOR_TYPES["Q8_0"], 0, zeros, zeros + np.float32(1))
    assert sums.by_tensor()[0].share_of_bound == np.inf


def test_float32_may_not_be_off_at_all() -> None:
    weights = normal()
    other = weights.copy()
    other[0, 0] = np.nextafter(other[0, 0], np.float32(1))
    sums = ErrorSums()
    sums.add("t", TENSOR_TYPES["F32"], 0, weights, other)
    (error,) = sums.by_tensor()
    assert error.share_of_bound > 1
    assert error.damaged_row == 0


def test_values_too_large_to_be_squared_are_compared_like_others() -> None:
    """Gemma 4 divides the frequencies that turn nothing by 1e30."""
    kind, wanted = TENSOR_TYPES["F32"], np.array([[1.0], [1e30], [1e30]], np.float32)
    assert damaged_blocks(wanted, np.zeros_like(wanted), kind).tolist() == []
    assert damaged_blocks(wanted, np.array([[0.0], [1e28], [0.0]], np.float32), kind).tolist() == [1]
