"""Reference logits as the files beside this module hold them. Needs numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parent
STEP = 2.0**-14  # of the stored logits; rounding to it costs a KL divergence of 1.6e-10 (STEP**2 / 24)


@dataclass(frozen=True)
class GoldenSequence:
    """Token ids, and the logits, float32 [positions, vocabulary], at some of their positions."""

    tokens: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    logits: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Golden:
    versions: tuple[str, ...]
    weights_sha256: str
    sequences: tuple[GoldenSequence, ...]


def read_golden(name: str) -> Golden:
    """The reference logits of a tiny checkpoint by its name."""
    arrays = np.load(FOLDER / f"{name}.npz")
    sequences = []
    while f"tokens_{len(sequences)}" in arrays:
        tokens, positions, logits = (arrays[f"{part}_{len(sequences)}"] for part in ("tokens", "positions", "logits"))
        sequences.append(GoldenSequence(tokens, positions, _from_planes(logits)))
    return Golden(tuple(map(str, arrays["versions"])), str(arrays["weights_sha256"]), tuple(sequences))


def write_golden(name: str, versions: Sequence[str], weights_sha256: str, sequences: Sequence[GoldenSequence]) -> Path:
    arrays: dict[str, npt.ArrayLike] = {"versions": np.array(versions), "weights_sha256": np.array(weights_sha256)}
    for number, sequence in enumerate(sequences):
        arrays[f"tokens_{number}"] = sequence.tokens.astype(np.int32)
        arrays[f"positions_{number}"] = sequence.positions.astype(np.int32)
        arrays[f"logits_{number}"] = _to_planes(sequence.logits)
    path = FOLDER / f"{name}.npz"
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def _to_planes(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Logits [positions, vocabulary] as whole steps of 32 bits: [4, positions, vocabulary], the lowest bytes first.

    Each byte in a plane of its own, since the upper ones hardly vary and so take no room when compressed.
    """
    steps = np.rint(logits.astype(np.float64) / STEP).astype("<i4")
    return np.ascontiguousarray(np.moveaxis(steps[..., None].view(np.uint8), -1, 0))


def _from_planes(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    steps = np.ascontiguousarray(np.moveaxis(planes, 0, -1)).view("<i4")[..., 0]
    return (steps * STEP).astype(np.float32)
