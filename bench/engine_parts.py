"""Rows that a bench of their own measures: what sampling costs."""

from __future__ import annotations

from bench import sampling
from bench.engine_case import Case
from bench.engine_report import Bar, Finding

SAMPLING = "sampling"
_SAMPLING_BAR_MS = 0.35
_SAMPLING_ROUNDS = 200


def measure_sampling(case: Case) -> list[Finding]:
    """One token of the largest vocabulary with the default settings, against llama.cpp's chain over all of it."""
    size = max(sampling.VOCABULARIES)
    default = next(each for each in sampling.CASES if each.name == "default")
    times = sampling.measure(default, size, _SAMPLING_ROUNDS)
    return [
        Finding(
            SAMPLING,
            f"choosing one of {size:,} tokens",
            f"{times.edge / 1e3:.3f} ms",
            f"{times.llama / 1e3:.3f} ms",
            "llama.cpp's chain",
            times.edge / 1e3,
            unit="ms",
            bar=Bar(_SAMPLING_BAR_MS, "at most"),
        )
    ]
