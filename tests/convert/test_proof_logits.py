"""Reference logits: the divergence is the textbook's, and files that are none are refused with their reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.proof_logits import divergence, largest_divergence_allowed, read_reference_logits
from edge.errors import EdgeError

FORMAT = "It must hold tokens [n] and logits [n, vocabulary], or positions [m] and logits [m, vocabulary]."
TOKENS = np.array([1, 5, 2])
LOGITS = np.zeros((3, 8), np.float32)


def write(folder: Path, **arrays: Any) -> Path:
    path = folder / "reference.npz"
    np.savez(path, **arrays)
    return path


def test_divergence_is_the_expected_difference_of_log_probabilities() -> None:
    reference = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32)) + 7
    found = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]], np.float32)) - 3
    result = divergence(reference, found)
    assert result.positions == 2
    assert result.largest == pytest.approx(0.25 * np.log(2), abs=1e-6)
    assert result.mean == pytest.approx(0.125 * np.log(2), abs=1e-6)
    assert result.same_token_share == 0.5


def test_bound_grows_with_the_square_of_the_error_and_has_a_floor() -> None:
    assert largest_divergence_allowed(0.0) == 1e-4
    assert largest_divergence_allowed(0.2) == pytest.approx(4 * largest_divergence_allowed(0.1))


def test_every_position_is_meant_where_none_are_named(tmp_path: Path) -> None:
    reference = read_reference_logits(write(tmp_path, tokens=TOKENS, logits=LOGITS))
    assert reference.positions.tolist() == [0, 1, 2]
    some = read_reference_logits(write(tmp_path, tokens=TOKENS, logits=LOGITS[:2], positions=[0, 2]))
    assert some.positions.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"logits": LOGITS}, "has no array 'tokens'"),
        ({"tokens": TOKENS}, "has no array 'logits'"),
        ({"tokens": TOKENS * 0.5, "logits": LOGITS}, "has tokens that are no list of ids: float64 [3]"),
        ({"tokens": -TOKENS, "logits": LOGITS}, "has tokens that are no list of ids: int64 [3]"),
        ({"tokens": TOKENS[:0], "logits": LOGITS}, "has tokens that are no list of ids: int64 [0]"),
        ({"tokens": 3, "logits": LOGITS}, "has tokens that are no list of ids: int64 []"),
        ({"tokens": TOKENS, "logits": LOGITS[0]}, "has logits that are no table of numbers: float32 [8]"),
        ({"tokens": TOKENS, "logits": LOGITS.astype(int)}, "has logits that are no table of numbers: int64 [3, 8]"),
        ({"tokens": TOKENS, "logits": LOGITS[:2]}, "has 2 rows of logits for 3 positions"),
        ({"tokens": TOKENS, "logits": LOGITS, "positions": [0, 1, 3]}, "has positions outside its 3 tokens"),
        ({"tokens": TOKENS, "logits": LOGITS + np.nan}, "has logits that are no numbers"),
    ],
)
def test_arrays_that_are_no_reference_are_refused(arrays: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = write(tmp_path, **arrays)
    with pytest.raises(EdgeError) as caught:
        read_reference_logits(path)
    assert (caught.value.message, caught.value.hint) == (f"{path} {reason}.", FORMAT)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_file_that_is_no_npz_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    path.write_bytes(content)
    with pytest.raises(EdgeError) as caught:
        read_reference_logits(path)
    assert caught.value.message.startswith(f"{path} cannot be read as a .npz file: ")


def test_pickled_arrays_are_not_loaded(tmp_path: Path) -> None:
    path = write(tmp_path, tokens=np.array([{}], object), logits=LOGITS)
    with pytest.raises(EdgeError, match=r"cannot be read as a .npz file: .*allow_pickle"):
        read_reference_logits(path)


@pytest.mark.parametrize(
    ("vocabulary", "context_tokens", "reason"),
    [
        (9, 10, "has logits for 8 tokens; the model has 9"),
        (8, 2, "is of a text of 3 tokens; the model's context is 2"),
    ],
)
def test_logits_of_another_model_are_refused(vocabulary: int, context_tokens: int, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path, tokens=TOKENS, logits=LOGITS)
    with pytest.raises(EdgeError) as caught:
        read_reference_logits(path).check_fits(vocabulary, context_tokens)
    assert caught.value.message == f"{path} {reason}."


def test_token_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, tokens=TOKENS + 7, logits=LOGITS)
    with pytest.raises(EdgeError) as caught:
        read_reference_logits(path).check_fits(8, 10)
    assert caught.value.message == f"{path} has the token 12; the model has 8 tokens."
