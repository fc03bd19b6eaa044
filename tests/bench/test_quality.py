"""Perplexity and KL divergence: definitions against plain arithmetic, lock step with tiny models."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import bench.quality
from bench.quality import (
    CHUNK_TOKENS,
    Compared,
    Estimate,
    Quality,
    Scores,
    mean_and_error,
    measure_quality,
    perplexity,
    perplexity_chunks,
    quality_of,
    score_position,
    share_and_error,
)
from convert.pipeline import write_checkpoint
from edge.errors import EdgeError
from edge.llama.model import Model
from tests.tiny import write_tiny_checkpoint

_OTHER_VOCABULARY = "Compare a model with its own unquantized file, or another quantization of the same checkpoint."


def test_a_position_is_scored_by_what_is_given_to_the_next_token() -> None:
    reference, logits = (np.log(np.array(row, np.float32)) + 3 for row in ([0.5, 0.25, 0.25], [0.25, 0.5, 0.25]))
    own, theirs, divergence, has_same_top = score_position(reference, logits, 1)
    assert own == pytest.approx(math.log(2), rel=1e-6)
    assert theirs == pytest.approx(math.log(4), rel=1e-6)
    assert divergence == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2), rel=1e-6)
    assert not has_same_top


def test_a_model_is_at_no_distance_from_itself() -> None:
    logits = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    assert score_position(logits, logits, 7)[2:] == (0.0, True)


def _sums(values: list[float]) -> tuple[float, float]:
    """Mean and uncertainty from the sums that llama-perplexity keeps: sqrt((sum2/n - mean^2) / (n - 1))."""
    count, mean = len(values), sum(values) / len(values)
    return mean, math.sqrt((sum(value * value for value in values) / count - mean * mean) / (count - 1))


def test_error_bars_are_those_of_llama_perplexity() -> None:
    generator = np.random.default_rng(2)
    own, theirs = generator.gamma(2.0, 1.0, 300), generator.gamma(2.0, 1.0, 300)
    own = 0.9 * theirs + 0.1 * own
    divergence, same = generator.gamma(1.0, 0.05, 300), generator.random(300) < 0.9
    quality = quality_of(
        Scores(own, theirs, divergence, same), reference="base", text="text", chunk_tokens=512, chunks=2
    )
    (a, da), (b, db) = _sums(list(own)), _sums(list(theirs))
    covariance = (sum(own * theirs) / 300 - a * b) / 299
    log_error = math.sqrt(da**2 + db**2 - 2 * covariance)
    assert quality.perplexity == _close(math.exp(a), math.exp(a) * da)
    assert quality.reference_perplexity == _close(math.exp(b), math.exp(b) * db)
    assert quality.log_perplexity_ratio == _close(a - b, log_error)
    assert quality.perplexity_ratio == _close(math.exp(a - b), math.exp(a - b) * log_error)
    assert quality.correlation == pytest.approx(covariance / (da * db))
    assert quality.divergence == _close(*_sums(list(divergence)))
    share = same.mean()
    assert quality.same_top == _close(share, math.sqrt(share * (1 - share) / 299))
    p_difference = np.exp(-own) - np.exp(-theirs)
    square, square_error = _sums(list(p_difference**2))
    assert quality.probability_difference_rms == _close(math.sqrt(square), 0.5 / math.sqrt(square) * square_error)
    assert quality.probability_difference == _close(*_sums(list(p_difference)))
    difference = math.exp(a) - math.exp(b)
    error = (math.exp(a) * da) ** 2 + (math.exp(b) * db) ** 2 - 2 * math.exp(a) * math.exp(b) * covariance
    assert quality.perplexity_difference == _close(difference, math.sqrt(error))


class _close:  # noqa: N801 - reads like pytest.approx
    def __init__(self, value: float, error: float) -> None:
        self._expected = (value, error)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Estimate) and (other.value, other.error) == pytest.approx(self._expected, rel=1e-6)

    def __repr__(self) -> str:
        return f"about {self._expected}"


def test_percentiles_lie_between_neighbours_as_in_llama_perplexity() -> None:
    scores = Scores(np.ones(11), np.ones(11), np.arange(11.0), np.ones(11, bool))
    quality = quality_of(scores, reference="base", text="text", chunk_tokens=512, chunks=1)
    assert quality.divergence_percentiles["95.0%"] == pytest.approx(9.5)
    assert quality.divergence_percentiles["50.0%"] == 5.0
    assert (quality.largest_divergence, quality.same_top.value) == (10.0, 1.0)


def test_standard_error_is_that_of_the_mean() -> None:
    estimate = mean_and_error(np.array([1.0, 2.0, 3.0, 4.0]))
    assert (estimate.value, estimate.error) == (2.5, pytest.approx(1.2909944 / 2))
    assert mean_and_error(np.array([2.0])) == Estimate(2.0, 0.0)
    assert share_and_error(np.array([True])) == Estimate(1.0, 0.0)


def test_perplexity_is_e_to_the_mean_surprise() -> None:
    estimate = perplexity(np.array([math.log(8.0), math.log(2.0)]))
    assert estimate.value == pytest.approx(4.0)


class _Letters:
    """A vocabulary of letters."""

    def __init__(self, bos_token: int | None) -> None:
        self.bos_token = bos_token
        self.add_bos = bos_token is not None

    def tokenize(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def test_chunks_begin_with_the_token_of_beginnings_in_the_place_of_their_first() -> None:
    chunks = perplexity_chunks("abcdefghij\n", _Letters(1), 4)  # type: ignore[arg-type]
    assert chunks == [[1, *map(ord, "abc")], [1, *map(ord, "efg")]]


def test_chunks_of_a_model_without_such_a_token_are_the_text() -> None:
    chunks = perplexity_chunks("abcdefghij", _Letters(None), 4)  # type: ignore[arg-type]
    assert chunks == [[*map(ord, "abcd")], [*map(ord, "efgh")]]


def test_a_text_of_less_than_two_chunks_is_refused() -> None:
    with pytest.raises(EdgeError, match=r"The text has 7 tokens; at least 8 are needed.") as caught:
        perplexity_chunks("abcdefg", _Letters(None), 4)  # type: ignore[arg-type]
    assert caught.value.hint == "Give a longer text with --quality."


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("quality")
    checkpoint = write_tiny_checkpoint("llama3", folder)
    full, small = write_checkpoint(checkpoint, ["F32", "Q8_0"], folder)
    return full, small


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The keeper of the lighthouse counted the ships that came by. " * 40, encoding="utf-8")
    return path


def test_a_quantization_is_near_its_reference_and_the_reference_at_no_distance(
    quantized: tuple[Path, Path], text: Path
) -> None:
    full, small = quantized
    seen: list[tuple[int, int]] = []
    of_small, of_itself = measure_quality(
        Compared(full),
        [Compared(small), Compared(full)],
        text,
        threads=1,
        chunks=2,
        progress=lambda *at: seen.append(at),
    )
    assert isinstance(of_small, Quality) and isinstance(of_itself, Quality)
    assert seen == [(0, 2), (1, 2)]
    assert of_small.positions == 2 * (CHUNK_TOKENS // 2 - 1)
    assert 0 < of_small.divergence.value < 0.01
    assert of_itself.divergence == Estimate(0.0, 0.0)
    assert of_itself.perplexity_ratio.value == 1.0
    assert of_itself.same_top.value == 1.0
    assert of_small.reference == full.name


def test_without_a_reference_there_is_the_perplexity(quantized: tuple[Path, Path], text: Path) -> None:
    full, _ = quantized
    (alone,) = measure_quality(None, [Compared(full)], text, threads=1, chunks=1)
    (beside,) = measure_quality(Compared(full), [Compared(full)], text, threads=1, chunks=1)
    assert isinstance(alone, Estimate) and isinstance(beside, Quality)
    assert alone == beside.perplexity


def test_quantized_keys_and_values_are_compared_with_the_same_weights(quantized: tuple[Path, Path], text: Path) -> None:
    full, _ = quantized
    (quality,) = measure_quality(Compared(full), [Compared(full, "Q4_0", "Q4_0")], text, threads=1, chunks=1)
    assert isinstance(quality, Quality)
    assert 0 < quality.divergence.value < 1


def test_a_reference_with_another_vocabulary_is_refused(
    quantized: tuple[Path, Path], text: Path, tmp_path: Path
) -> None:
    (other,) = write_checkpoint(write_tiny_checkpoint("gemma2", tmp_path), ["F32"], tmp_path / "other.gguf")
    with pytest.raises(EdgeError) as caught:
        measure_quality(Compared(other), [Compared(quantized[0])], text, threads=1)
    size, reference_size = (_vocabulary_size(path) for path in (quantized[0], other))
    assert caught.value.message == (
        f"{quantized[0].name} has {size:,} tokens, the reference {other.name} has {reference_size:,}."
    )
    assert caught.value.hint == _OTHER_VOCABULARY


def _vocabulary_size(path: Path) -> int:
    with Model(path) as model:
        return model.vocab.size


def test_a_reference_that_cuts_the_text_otherwise_is_refused(
    quantized: tuple[Path, Path], text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = iter([[[1, 2, 3]], [[1, 23]]])
    monkeypatch.setattr(bench.quality, "perplexity_chunks", lambda content, vocab: next(cuts))
    full, small = quantized
    with pytest.raises(EdgeError) as caught:
        measure_quality(Compared(full), [Compared(small)], text, threads=1)
    assert caught.value.message == f"{small.name} and the reference {full.name} cut the text into different tokens."
    assert caught.value.hint == _OTHER_VOCABULARY


def test_a_text_that_is_not_there_is_named(quantized: tuple[Path, Path], tmp_path: Path) -> None:
    missing = tmp_path / "missing.txt"
    with pytest.raises(EdgeError, match=r"missing.txt cannot be read: No such file"):
        measure_quality(None, [Compared(quantized[0])], missing, threads=1)
