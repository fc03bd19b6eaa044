"""The bench of calibrations: what it measures, on a tiny model, and how it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.calibration import (
    HELD_OUT,
    Case,
    Comparison,
    Side,
    compare,
    comparison_document,
    comparison_lines,
)
from convert.calibration_text import DEFAULT_FOLDER
from edge.errors import EdgeError
from tests.tiny import write_tiny_checkpoint


def test_both_files_are_compared_with_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "held-out.txt"
    text.write_text(HELD_OUT.read_text(encoding="utf-8")[:900], encoding="utf-8")
    checkpoint = write_tiny_checkpoint("qwen3", tmp_path)
    case = Case(checkpoint, "Q2_K", str(HELD_OUT), text, threads=1)
    comparison = compare(case)
    assert comparison.positions % (256 - 32 - 1) == 0
    assert comparison.plain.file_bytes < comparison.calibrated.file_bytes < comparison.plain.file_bytes + 1000
    assert comparison.plain.mean > 0 and comparison.calibrated.mean > 0
    assert comparison.gain == pytest.approx(comparison.plain.mean - comparison.calibrated.mean)
    assert {path.name for path in tmp_path.iterdir()} == {"held-out.txt", "qwen3"}


def test_text_that_is_too_short_to_compare_on_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "held-out.txt"
    text.write_text("Too short.", encoding="utf-8")
    with pytest.raises(EdgeError) as caught:
        compare(Case(write_tiny_checkpoint("qwen3", tmp_path), "Q4_0", str(HELD_OUT), text, threads=1))
    assert caught.value.message.startswith(f"{text} has ") and caught.value.message.endswith(" are needed.")


def test_figures_are_printed_with_their_errors() -> None:
    case = Case(Path("models/demo"), "Q4_K_M", "default", HELD_OUT, threads=2)
    plain = Side("Q4_K_M", 1_000_000, 0.02, 0.001, 0.9)
    calibrated = Side("Q4_K_M, calibrated", 1_000_320, 0.015, 0.0009, 0.92)
    comparison = Comparison(case, 1344, plain, calibrated, 0.005, 0.0004)
    assert comparison_lines(comparison) == [
        "demo against its F32 on 1,344 tokens of held_out.txt",
        "  Q4_K_M                mean KL divergence 0.02000 ± 0.00100 nats,  same likeliest token 90.00%,"
        "  1,000,000 bytes",
        "  Q4_K_M, calibrated    mean KL divergence 0.01500 ± 0.00090 nats,  same likeliest token 92.00%,"
        "  1,000,320 bytes",
        "  calibration takes 0.00500 ± 0.00040 nats away (25.0%)",
    ]
    assert comparison_document(comparison)["case"]["quantization"] == "Q4_K_M"


def test_held_out_text_shares_no_line_with_the_calibration_text() -> None:
    """A text that was calibrated on would flatter the figures."""
    calibration = "\n".join(path.read_text(encoding="utf-8") for path in DEFAULT_FOLDER.glob("*.txt"))
    words = calibration.split()
    phrases = {tuple(words[first : first + 8]) for first in range(len(words))}
    held_out = HELD_OUT.read_text(encoding="utf-8").split()
    assert not phrases & {tuple(held_out[first : first + 8]) for first in range(len(held_out) - 7)}
