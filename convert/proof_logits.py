"""Logits of a reference, and how far a model's are from them.

The reference is a .npz file, as numpy.savez writes it:

    tokens      integers [n]                  token ids of one text, with everything that stands in front of it
    logits      floats [positions, vocabulary] what the reference computes after these tokens
    positions   integers, optional            the tokens that the logits stand behind, from 0; missing: every one
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from edge.errors import EdgeError

_FORMAT = "It must hold tokens [n] and logits [n, vocabulary], or positions [m] and logits [m, vocabulary]."


@dataclass(frozen=True)
class ReferenceLogits:
    """What a reference computes for one text."""

    path: Path
    tokens: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]

    def check_fits(self, vocabulary: int, context_tokens: int) -> None:
        """EdgeError if these are logits of another model."""
        if self.logits.shape[1] != vocabulary:
            _refuse(self.path, f"has logits for {self.logits.shape[1]} tokens; the model has {vocabulary}")
        if self.tokens.max() >= vocabulary:
            _refuse(self.path, f"has the token {self.tokens.max()}; the model has {vocabulary} tokens")
        if len(self.tokens) > context_tokens:
            _refuse(self.path, f"is of a text of {len(self.tokens)} tokens; the model's context is {context_tokens}")


@dataclass(frozen=True)
class Divergence:
    """Kullback-Leibler divergence from the reference in nats, over all positions."""

    positions: int
    mean: float
    largest: float
    same_token_share: float
    """Of the positions, at which both find the same token the likeliest."""


def read_reference_logits(path: Path) -> ReferenceLogits:
    """The arrays of the file. EdgeError for one that is not as described above."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("tokens", "logits", "positions") if name in arrays}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise EdgeError(f"{path} cannot be read as a .npz file: {error}.", hint=_FORMAT) from error
    for name in ("tokens", "logits"):
        if name not in found:
            _refuse(path, f"has no array {name!r}")
    tokens, logits = found["tokens"], found["logits"]
    positions = found.get("positions", np.arange(len(tokens) if tokens.ndim else 0))
    if tokens.ndim != 1 or not _is_whole(tokens) or not len(tokens) or tokens.min() < 0:
        _refuse(path, f"has tokens that are no list of ids: {tokens.dtype} {list(tokens.shape)}")
    if logits.ndim != 2 or logits.dtype.kind != "f" or not logits.size:
        _refuse(path, f"has logits that are no table of numbers: {logits.dtype} {list(logits.shape)}")
    if positions.ndim != 1 or not _is_whole(positions) or len(positions) != len(logits):
        _refuse(path, f"has {len(logits)} rows of logits for {positions.size} positions")
    if positions.min() < 0 or positions.max() >= len(tokens):
        _refuse(path, f"has positions outside its {len(tokens)} tokens")
    if not np.isfinite(logits).all():
        _refuse(path, "has logits that are no numbers")
    return ReferenceLogits(path, tokens.astype(np.int64), positions.astype(np.int64), logits.astype(np.float32))


def divergence(reference: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> Divergence:
    """How far logits [positions, vocabulary] are from the reference's."""
    each = divergences(reference, found)
    same = float((reference.argmax(axis=1) == found.argmax(axis=1)).mean())
    return Divergence(len(each), float(each.mean()), float(each.max()), same)


def divergences(reference: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The divergence at each position."""
    return np.array([_divergence_at(p, q) for p, q in zip(reference, found, strict=True)])


def largest_divergence_allowed(relative_error: float) -> float:
    """The mean divergence that a file may have whose coarsest type is off by so much of its values' size.

    A divergence grows with the square of what the weights are off by. The factor leaves small models, which feel
    quantization most, three times what they were found to have; a wrong model is off by 1 and more.
    """
    return max(1e-4, 25 * relative_error**2)


def _divergence_at(reference: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> float:
    p, q = _log_softmax(reference), _log_softmax(found)
    return float(np.vdot(np.exp(p), p - q))


def _log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def _is_whole(values: npt.NDArray[Any]) -> bool:
    return values.dtype.kind in "iu"


def _refuse(path: Path, what: str) -> NoReturn:
    raise EdgeError(f"{path} {what}.", hint=_FORMAT)
