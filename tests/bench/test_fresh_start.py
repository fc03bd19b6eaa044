"""A model in a fresh process: what comes back of it, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.fresh_start import FreshSettings, measure_fresh_start, thinned
from edge.errors import EdgeError

SETTINGS = FreshSettings(32, 8, threads=1, gpu_layers=0, key_type="F16", value_type="F16")


def test_a_fresh_process_tells_its_times_and_its_memory(tiny_gguf: Path) -> None:
    start = measure_fresh_start(tiny_gguf, SETTINGS, from_memory=True)
    assert start.was_in_memory
    names = [name for name, _ in start.phases]
    assert names == ["imports", "load", "first token", "prefill and decode", "end"]
    begins = [seconds for _, seconds in start.phases]
    assert begins == sorted(begins)
    assert 0 < start.load_seconds < start.first_token_seconds
    assert start.vram_bytes == 0
    assert start.timeline
    assert max(rss for _, rss, _ in start.timeline) <= start.peak_rss_bytes * 1.01
    assert all(anonymous <= rss for _, rss, anonymous in start.timeline)


def test_a_file_can_be_forgotten_before(tiny_gguf: Path) -> None:
    start = measure_fresh_start(tiny_gguf, SETTINGS, from_memory=False)
    assert not start.was_in_memory
    assert start.first_token_seconds > 0


def test_a_process_that_fails_says_why(tiny_gguf: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(tiny_gguf.read_bytes()[:100])
    with pytest.raises(EdgeError) as caught:
        measure_fresh_start(damaged, SETTINGS, from_memory=True)
    assert "ended with exit code 1" in caught.value.message
    assert "damaged.gguf" in caught.value.hint


def test_a_long_timeline_keeps_its_peaks() -> None:
    timeline = [[number / 100, 1000.0 + number % 7, 10.0] for number in range(5000)]
    timeline[1234][1] = 9999.0
    kept = thinned(timeline)
    assert len(kept) <= 400
    assert max(rss for _, rss, _ in kept) == 9999
    assert thinned([]) == ()
