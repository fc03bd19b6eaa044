"""What is done to weights between checkpoint and file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.hyperparameters import Hyperparameters, read_hyperparameters
from convert.restore import half_order_rows
from convert.transforms import ADD_ONE, ROPE_PAIRS
from tests.tiny import TINY


def shape_of(head_dim: int) -> Hyperparameters:
    return read_hyperparameters({**TINY["llama2"].config, "head_dim": head_dim})


def numbered_rows(count: int, columns: int = 1) -> npt.NDArray[np.float32]:
    return np.repeat(np.arange(count, dtype=np.float32), columns).reshape(count, columns)


def transformers_rotation(rows: npt.NDArray[np.float32], angle: float) -> npt.NDArray[np.float32]:
    """One head, [head_dim, columns], turned by an angle as transformers does: each row and the one half a head away."""
    first, second = np.split(rows, 2)
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)]
    )


def llama_cpp_rotation(rows: npt.NDArray[np.float32], angle: float) -> npt.NDArray[np.float32]:
    """The same as llama.cpp does it for its llama architecture: neighbouring rows."""
    turned = np.empty_like(rows)
    turned[0::2] = rows[0::2] * np.cos(angle) - rows[1::2] * np.sin(angle)
    turned[1::2] = rows[1::2] * np.cos(angle) + rows[0::2] * np.sin(angle)
    return turned


def test_halves_of_each_head_become_pairs() -> None:
    assert ROPE_PAIRS.apply(numbered_rows(12), shape_of(6))[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_columns_stay_together() -> None:
    moved = ROPE_PAIRS.apply(numbered_rows(8, columns=3), shape_of(8))
    assert moved.tolist() == [[row] * 3 for row in (0, 4, 1, 5, 2, 6, 3, 7)]
    assert moved.flags.c_contiguous
    assert moved.dtype == np.float32


def test_slabs_hold_whole_heads_for_pairs_and_any_rows_for_adding() -> None:
    assert ROPE_PAIRS.unit(shape_of(48)) == 48
    assert ADD_ONE.unit(shape_of(48)) == 1


@settings(deadline=None)
@given(half=st.integers(1, 16), heads=st.integers(1, 4), columns=st.integers(1, 5))
def test_restoring_a_checkpoint_undoes_the_order(half: int, heads: int, columns: int) -> None:
    rows = np.random.default_rng(half).random((heads * 2 * half, columns), np.float32)
    moved = ROPE_PAIRS.apply(rows, shape_of(2 * half))
    np.testing.assert_array_equal(half_order_rows(moved, heads), rows)


@pytest.mark.parametrize("angle", [0.3, 2.0])
def test_rotation_of_pairs_is_the_rotation_of_halves(angle: float) -> None:
    """Why the rows are moved at all: llama.cpp's rotation of moved rows is transformers' rotation, moved."""
    rows = np.random.default_rng(1).standard_normal((16, 4)).astype(np.float32)
    shape = shape_of(16)
    np.testing.assert_allclose(
        llama_cpp_rotation(ROPE_PAIRS.apply(rows, shape), angle),
        ROPE_PAIRS.apply(transformers_rotation(rows, angle), shape),
        rtol=1e-6,
    )


def test_one_is_added_in_float32() -> None:
    added = ADD_ONE.apply(np.array([[-1.0], [0.0], [2.0**-20]], np.float32), shape_of(8))
    assert added.dtype == np.float32
    assert added[:, 0].tolist() == [0.0, 1.0, 1.0 + 2.0**-20]
