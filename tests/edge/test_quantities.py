from __future__ import annotations

import pytest

from edge.errors import EdgeError
from edge.quantities import count_text, counted, parse_size, size_text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
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


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("2GB", 2 * 10**9),
        ("500M", 500 * 10**6),
        (" 1.5 gb ", 1_500_000_000),
        ("64k", 64_000),
        ("1T", 10**12),
        ("4096", 4096),
        ("4096B", 4096),
    ],
)
def test_sizes_are_read_in_decimal_units(text: str, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "GB", "0", "0.0001B", "-1GB", "2GiB", "2 G B", "1e9", "1,5GB", "nan", "2GB each"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(EdgeError) as caught:
        parse_size(text)
    assert caught.value.message == f"{text!r} is not a size."
    assert caught.value.hint == "Write it with a unit, such as 2GB or 500M."


@pytest.mark.parametrize(("count", "text"), [(0, "0 tokens"), (1, "1 token"), (1224, "1,224 tokens")])
def test_one_of_a_thing_is_not_several(count: int, text: str) -> None:
    assert counted(count, "token") == text
