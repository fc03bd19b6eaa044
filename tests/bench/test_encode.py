from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from bench import encode
from bench.encode import KindRates, Rates, main, print_table
from edge.gguf_format import TENSOR_TYPES


@pytest.fixture
def one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "KINDS", (TENSOR_TYPES["Q4_K"],))
    monkeypatch.setattr(sys, "argv", ["encode", "--rows", "2", "--rounds", "1", "--json"])


@pytest.mark.usefixtures("one_kind")
def test_a_run_gives_both_rates_of_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    document = json.loads(capsys.readouterr().out)
    (kind,) = document["kinds"]
    assert kind["kind"] == "Q4_K"
    assert min(kind["plain"].values()) > 0
    assert min(kind["weighted"].values()) > 0


@pytest.mark.usefixtures("one_kind")
def test_bytes_that_differ_end_a_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(encode, "encode_rows", lambda rows, kind, out, importance: np.ndarray.fill(out, 0))
    with pytest.raises(SystemExit):
        main()
    assert "error: The encoders' bytes differ in Q4_K." in capsys.readouterr().err


def test_a_run_without_our_encoder_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encode, "KINDS", ())
    monkeypatch.setattr(sys, "argv", ["encode"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "error: edge's own encoder is not installed.",
        "hint:  edge doctor says how to compile it.",
    ]


def test_the_table_shows_how_many_times_faster_ours_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([KindRates("Q4_K", Rates(80, 10), Rates(120, 15.04))], "Title")
    title, _, row = capsys.readouterr().out.splitlines()
    assert title.strip() == "Title"
    assert row.split() == ["Q4_K", "80.0", "10.0", "8.0x", "120.0", "15.0", "8.0x"]
