"""Rows, and importance of their columns, of every kind that an encoder may meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

COLUMNS = 512
SHAPE = (12, COLUMNS)


def random(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def with_outliers() -> Values:
    values = random().standard_normal(SHAPE) * 0.01
    values[:, 5] = 1000
    return values


def any_finite_bits() -> Values:
    values = random().integers(0, 2**32, SHAPE, dtype=np.uint32).view(np.float32)
    return np.where(np.isfinite(values), values, 0)


ROWS: dict[str, Callable[[], Values]] = {
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
