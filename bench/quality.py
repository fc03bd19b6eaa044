"""Perplexity of a model, and how far its probabilities are from a reference's, read in lock step over one text.

Chunks, counted positions and error bars are those of llama-perplexity; but both models are open at the same time, so
that no file of logits lies between them, and none is rounded. Source: llama.cpp, tools/perplexity/perplexity.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge.errors import EdgeError
from edge.llama.context import Batch, Context
from edge.llama.model import Model
from edge.llama.vocab import Vocab
from edge.terminal import decode_utf8

CHUNK_TOKENS = 512
_SHARES = (0.999, 0.99, 0.95, 0.9, 0.5, 0.1, 0.05, 0.01, 0.001)
Progress = Callable[[int, int], None]
"""Takes the number of the chunk that begins, from 0, and how many there are."""
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Scores:
    """Position by position: what a model gives to the token that comes next, and how far it is from a reference.

    Natural logarithms. Without a reference, only the first is there.
    """

    negative_log: _Floats
    reference_negative_log: _Floats
    divergence: _Floats
    has_same_top: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Quality:
    """Of one model against one reference over the same positions."""

    reference: str
    text: str
    chunk_tokens: int
    chunks: int
    positions: int
    perplexity: Estimate
    reference_perplexity: Estimate
    perplexity_ratio: Estimate
    log_perplexity_ratio: Estimate
    perplexity_difference: Estimate
    correlation: float
    """Of both models' surprise at each token."""
    divergence: Estimate
    divergence_percentiles: dict[str, float]
    largest_divergence: float
    same_top: Estimate
    probability_difference: Estimate
    """Of the token that comes next: the model's less the reference's."""
    probability_difference_rms: Estimate


class Reader:
    """A context that gives the logits of all counted positions of a chunk."""

    def __init__(
        self,
        model: Model,
        *,
        chunk_tokens: int = CHUNK_TOKENS,
        first_counted: int | None = None,
        threads: int,
        key_type: str = "F16",
        value_type: str = "F16",
        flash_attention: Literal["auto", "on", "off"] = "auto",
    ) -> None:
        self.model = model
        self.first_counted = chunk_tokens // 2 if first_counted is None else first_counted
        self._context = Context(
            model,
            context_tokens=chunk_tokens,
            batch_tokens=chunk_tokens,
            max_outputs=chunk_tokens,
            threads=threads,
            key_type=key_type,
            value_type=value_type,
            flash_attention=flash_attention,
        )
        self._batch = Batch(chunk_tokens, 1)

    def read(self, tokens: Sequence[int]) -> None:
        """Compute a chunk from an empty cache."""
        self._context.remove(0, 0)
        self._batch.clear()
        first = self.first_counted
        if first:
            self._batch.add(tokens[:first], sequence=0, position=0, last_logits=False)
        self._batch.add_all_wanted(tokens[first:], sequence=0, position=first)
        self._context.decode(self._batch)

    def logits(self, position: int) -> npt.NDArray[np.float32]:
        """After a counted position of the chunk: a view [vocabulary], valid until the next `read`."""
        return self._context.logits(position)

    def close(self) -> None:
        self._context.close()


def perplexity_chunks(text: str, vocab: Vocab, chunk_tokens: int = CHUNK_TOKENS) -> list[list[int]]:
    """Whole chunks as llama-perplexity cuts them: the first token of each gives way to the one that begins texts."""
    bos = [vocab.bos_token] if vocab.add_bos and vocab.bos_token is not None else []
    tokens = bos + vocab.tokenize(text.removesuffix("\n"))
    if len(tokens) < 2 * chunk_tokens:
        raise EdgeError(
            f"The text has {len(tokens):,} tokens; at least {2 * chunk_tokens:,} are needed.",
            hint="Give a longer text with --quality.",
        )
    starts = range(0, len(tokens) - chunk_tokens + 1, chunk_tokens)
    return [bos + tokens[start + len(bos) : start + chunk_tokens] for start in starts]


def read_in_lock_step(
    reference: Reader | None,
    others: Sequence[Reader],
    chunks: Sequence[Sequence[int]],
    progress: Progress = lambda _, __: None,
) -> list[Scores]:
    """Each chunk is read by all, and compared before the next one is: for each of the others its scores."""
    found: list[list[Scores]] = [[] for _ in others]
    for number, chunk in enumerate(chunks):
        progress(number, len(chunks))
        for reader in (*([reference] if reference else []), *others):
            reader.read(chunk)
        for reader, scores in zip(others, found, strict=True):
            scores.append(_score_chunk(reference, reader, chunk))
    return [_joined(scores) for scores in found]


def _score_chunk(reference: Reader | None, reader: Reader, chunk: Sequence[int]) -> Scores:
    """At every counted position but the last one, behind which the chunk has nothing."""
    positions = range(reader.first_counted, len(chunk) - 1)
    rows = [
        score_position(reference.logits(place) if reference else None, reader.logits(place), chunk[place + 1])
        for place in positions
    ]
    own, theirs, divergence, same = zip(*rows, strict=True)
    return Scores(np.array(own), np.array(theirs), np.array(divergence), np.array(same, bool))


def score_position(
    reference: npt.NDArray[np.float32] | None, logits: npt.NDArray[np.float32], next_token: int
) -> tuple[float, float, float, bool]:
    """Negative logs of what the model and the reference give to a token, the divergence, and whether both expect the
    same one."""
    q = log_probabilities(logits)
    if reference is None:
        return -float(q[next_token]), math.nan, math.nan, False
    p = log_probabilities(reference)
    divergence = float(np.vdot(np.exp(p), p - q))
    return -float(q[next_token]), -float(p[next_token]), divergence, bool(p.argmax() == q.argmax())


def log_probabilities(logits: npt.NDArray[np.float32]) -> _Floats:
    shifted = logits.astype(np.float64) - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def _joined(scores: Sequence[Scores]) -> Scores:
    return Scores(
        np.concatenate([each.negative_log for each in scores]),
        np.concatenate([each.reference_negative_log for each in scores]),
        np.concatenate([each.divergence for each in scores]),
        np.concatenate([each.has_same_top for each in scores]),
    )


def perplexity(negative_log: _Floats) -> Estimate:
    """e to the mean surprise, with the error that the mean's gives it."""
    mean = mean_and_error(negative_log)
    value = math.exp(mean.value)
    return Estimate(value, value * mean.error)


def quality_of(scores: Scores, *, reference: str, text: str, chunk_tokens: int, chunks: int) -> Quality:
    """All figures that llama-perplexity prints for a KL divergence, with its error bars."""
    own, theirs = mean_and_error(scores.negative_log), mean_and_error(scores.reference_negative_log)
    covariance = _covariance_of_means(scores.negative_log, scores.reference_negative_log)
    log_ratio = own.value - theirs.value
    log_ratio_error = math.sqrt(max(0.0, own.error**2 + theirs.error**2 - 2 * covariance))
    ratio = math.exp(log_ratio)
    ppl, base = perplexity(scores.negative_log), perplexity(scores.reference_negative_log)
    shared = 2 * ppl.value * base.value * covariance
    difference = np.exp(-scores.negative_log) - np.exp(-scores.reference_negative_log)
    errors = own.error * theirs.error
    return Quality(
        reference=reference,
        text=text,
        chunk_tokens=chunk_tokens,
        chunks=chunks,
        positions=len(scores.divergence),
        perplexity=ppl,
        reference_perplexity=base,
        perplexity_ratio=Estimate(ratio, ratio * log_ratio_error),
        log_perplexity_ratio=Estimate(log_ratio, log_ratio_error),
        perplexity_difference=Estimate(
            ppl.value - base.value, math.sqrt(max(0.0, ppl.error**2 + base.error**2 - shared))
        ),
        correlation=covariance / errors if errors else 1.0,
        divergence=mean_and_error(scores.divergence),
        divergence_percentiles={f"{share:.1%}": float(np.quantile(scores.divergence, share)) for share in _SHARES},
        largest_divergence=float(scores.divergence.max()),
        same_top=share_and_error(scores.has_same_top),
        probability_difference=mean_and_error(difference),
        probability_difference_rms=_root_mean_square(difference),
    )


def mean_and_error(values: _Floats) -> Estimate:
    """A mean and its standard error."""
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Estimate(float(values.mean()), float(error))


def share_and_error(values: npt.NDArray[np.bool_]) -> Estimate:
    """The share that is true, with its standard error."""
    share = float(values.mean())
    return Estimate(share, math.sqrt(share * (1 - share) / (len(values) - 1)) if len(values) > 1 else 0.0)


def _root_mean_square(values: _Floats) -> Estimate:
    squares = mean_and_error(values**2)
    root = math.sqrt(squares.value)
    return Estimate(root, 0.5 / root * squares.error if root else 0.0)


def _covariance_of_means(first: _Floats, second: _Floats) -> float:
    if len(first) < 2:
        return 0.0
    return float(((first * second).mean() - first.mean() * second.mean()) / (len(first) - 1))


@dataclass(frozen=True)
class Compared:
    """A model file that is held against a reference, with the types that it keeps keys and values in."""

    path: Path
    key_type: str = "F16"
    value_type: str = "F16"


def measure_quality(
    reference: Compared | None,
    others: Sequence[Compared],
    text: Path,
    *,
    threads: int,
    repack_weights: bool = True,
    chunks: int | None = None,
    progress: Progress = lambda _, __: None,
) -> list[Quality | Estimate]:
    """For each of the files its quality against the reference, or without one its perplexity.

    EdgeError if the vocabularies differ or the text is too short.
    """
    content = decode_utf8(_read(text), str(text))
    with ExitStack() as stack:
        models: dict[Path, Model] = {}

        def opened(side: Compared) -> Reader:
            if side.path not in models:
                models[side.path] = stack.enter_context(Model(side.path, repack_weights=repack_weights))
            reader = Reader(models[side.path], threads=threads, key_type=side.key_type, value_type=side.value_type)
            stack.callback(reader.close)
            return reader

        first = opened(reference) if reference else None
        rest = [opened(side) for side in others]
        cut = perplexity_chunks(content, (first or rest[0]).model.vocab)[:chunks]
        for reader, side in zip(rest, others, strict=True):
            own = perplexity_chunks(content, reader.model.vocab)[:chunks]
            _check_is_same_vocabulary(side, reader, first or rest[0], cuts_the_same=own == cut)
        scores = read_in_lock_step(first, rest, cut, progress)
    if reference is None:
        return [perplexity(each.negative_log) for each in scores]
    name = reference.path.name
    return [
        quality_of(each, reference=name, text=text.name, chunk_tokens=CHUNK_TOKENS, chunks=len(cut)) for each in scores
    ]


def _check_is_same_vocabulary(side: Compared, reader: Reader, other: Reader, *, cuts_the_same: bool) -> None:
    size, reference_size = reader.model.vocab.size, other.model.vocab.size
    hint = "Compare a model with its own unquantized file, or another quantization of the same checkpoint."
    if size != reference_size:
        raise EdgeError(
            f"{side.path.name} has {size:,} tokens, the reference {other.model.path.name} has {reference_size:,}.",
            hint=hint,
        )
    if not cuts_the_same:
        raise EdgeError(
            f"{side.path.name} and the reference {other.model.path.name} cut the text into different tokens.", hint=hint
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror}.", hint="Check the path.") from error
