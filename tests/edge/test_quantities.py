from __future__ import annotations

import pytest

from edge.quantities import count_text, size_text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (23_040, "23.0 kB"),
        (98_362_432, "98.4 MB"),
        (5_761_000_000, "5.76 GB"),
        (99_960_000, "100 MB"),
        (9_996_000, "10.0 MB"),
        (12 * 10**12, "12.0 TB"),
    ],
)
def test_sizes_have_three_digits(n_bytes: int, text: str) -> None:
    assert size_text(n_bytes) == text


@pytest.mark.parametrize(
    ("count", "text"), [(104, "104"), (999_999, "999,999"), (134_515_008, "135 M"), (9_241_705_984, "9.24 B")]
)
def test_counts_of_parameters_have_three_digits(count: int, text: str) -> None:
    assert count_text(count) == text
