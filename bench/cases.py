"""What `edge bench` measures of an open model: each case is one question, asked once in each round.

Prefill and decode are llama-bench's: decode steps over random tokens with nothing around them. The others go through
the engine, as a user's requests do. Source of the definitions: llama.cpp, tools/llama-bench/llama-bench.cpp.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.engine_sides import Run, joint_tokens_per_second, run_requests
from bench.engine_turns import percentile
from bench.measure import Case, Observation
from bench.record import MetricKind
from edge.constraint import Constraint
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.llama.context import Batch, Context
from edge.llama.model import Model
from edge.local_engine import LocalEngine
from edge.request import Request
from edge.settings import KVType, ModelSettings

PREFILL_STEP_TOKENS = 512
_KV_BLOCK_TOKENS = 256
_OPENING = "Once upon a time there was a lighthouse at the end of the world, and the keeper of it number"
_STRUCTURED_PROMPT = "Invent a person who works with bees and describe them as JSON."
_STRUCTURED_TOKENS = 384
_SCHEMA = Path(__file__).parent / "texts" / "person.schema.json"


@dataclass(frozen=True)
class BenchSettings:
    """How much is measured, and with what the model is opened."""

    prompt_tokens: int = 512
    generated_tokens: int = 128
    streams: tuple[int, ...] = (1, 4, 8)
    rounds: int = 5
    threads: int = 1
    gpu_layers: int = -1
    key_type: KVType = "F16"
    value_type: KVType = "F16"
    fresh_starts: int = 4
    """Of each kind: with the file in memory, and without. Of fewer than 4, no comparison can be sure."""
    repack_weights: bool = True

    def __post_init__(self) -> None:
        limits = (
            ("pp", self.prompt_tokens >= 1, self.prompt_tokens, "at least 1"),
            ("tg", self.generated_tokens >= 8, self.generated_tokens, "at least 8"),
            (
                "parallel",
                all(1 <= each <= 64 for each in self.streams),
                _listed(self.streams),
                "numbers between 1 and 64",
            ),
            ("rounds", self.rounds >= 1, self.rounds, "at least 1"),
        )
        for name, holds, value, rule in limits:
            if not holds:
                raise EdgeError(f"--{name} is {value}.", hint=f"--{name} must be {rule}.")

    @property
    def document(self) -> dict[str, Any]:
        """As a record has it."""
        return {**asdict(self), "streams": list(self.streams), "largest_streams": self.largest_streams}

    @property
    def largest_streams(self) -> int:
        return max(self.streams, default=1)

    def context_tokens(self, trained_tokens: int) -> int:
        """Room for all streams, or for a request with the whole prompt, or for a structured reply."""
        stream = _blocks(self.generated_tokens + 64)
        one = max(self.prompt_tokens + 64, _STRUCTURED_TOKENS + 128)
        return max(self.largest_streams * min(stream, trained_tokens), min(_blocks(one), trained_tokens))

    def model_settings(self, trained_tokens: int) -> ModelSettings:
        """Without speculation: a token is a row of a decode step."""
        return ModelSettings(
            context_tokens=self.context_tokens(trained_tokens),
            parallel=self.largest_streams,
            threads=self.threads,
            gpu_layers=self.gpu_layers,
            prefill_tokens=PREFILL_STEP_TOKENS,
            key_type=self.key_type,
            value_type=self.value_type,
            repack_weights=self.repack_weights,
            speculation="off",
        )


Compute = Callable[[Callable[[], float]], float]


class BareSteps:
    """A context of its own over a model's weights, in which tokens are decoded and nothing else happens.

    Beside an engine, `compute` is its `LocalEngine.compute`: two threads that decode slow each other down.
    """

    def __init__(
        self, model: Model, settings: BenchSettings, context_tokens: int, compute: Compute = lambda function: function()
    ) -> None:
        self._compute = compute
        self.context = Context(
            model,
            context_tokens=context_tokens,
            threads=settings.threads,
            batch_tokens=PREFILL_STEP_TOKENS,
            key_type=settings.key_type,
            value_type=settings.value_type,
        )
        self._batch = Batch(self.context.batch_tokens, 1)
        self._vocabulary_size = model.vocab.size
        self._first = model.vocab.bos_token if model.vocab.add_bos else None

    def tokens(self, count: int, seed: int) -> list[int]:
        """Random tokens behind the one that texts begin with, if the model has such a one."""
        drawn = [int(token) for token in np.random.default_rng(seed).integers(0, self._vocabulary_size, count)]
        return drawn if self._first is None else [self._first, *drawn[1:]]

    def seconds(self, tokens: Sequence[int], step_tokens: int) -> float:
        """What it takes to decode tokens from an empty cache, so many in a step, with logits after the last of each."""
        return self._compute(lambda: self._timed(tokens, step_tokens))

    def _timed(self, tokens: Sequence[int], step_tokens: int) -> float:
        self.context.remove(0, 0)
        start = time.perf_counter()
        for first in range(0, len(tokens), step_tokens):
            self._step(tokens[first : first + step_tokens], first)
        return time.perf_counter() - start

    def _step(self, tokens: Sequence[int], position: int) -> None:
        """One decode, with logits after its last token, waited for."""
        self._batch.clear()
        last = self._batch.add(tokens, sequence=0, position=position, last_logits=True)
        self.context.decode(self._batch)
        self.context.logits(last)

    def bytes_per_token(self, tokens: int) -> float:
        """Of keys and values, with so many tokens held."""
        return len(self.context.save_state(0)) / tokens


@dataclass(frozen=True)
class PrefillCase:
    """Prompt tokens per second from an empty cache: llama-bench's pp."""

    steps: BareSteps
    prompt_tokens: int

    @property
    def name(self) -> str:
        return f"pp{self.prompt_tokens}"

    def run(self, number: int) -> Observation:
        tokens = self.steps.tokens(self.prompt_tokens, number)
        seconds = self.steps.seconds(tokens, PREFILL_STEP_TOKENS)
        return Observation({self.name: len(tokens) / seconds}, len(tokens))


@dataclass(frozen=True)
class DecodeCase:
    """Tokens per second one by one from an empty cache: llama-bench's tg."""

    steps: BareSteps
    generated_tokens: int

    @property
    def name(self) -> str:
        return f"tg{self.generated_tokens}"

    def run(self, number: int) -> Observation:
        tokens = self.steps.tokens(self.generated_tokens, number)
        seconds = self.steps.seconds(tokens, 1)
        return Observation({self.name: len(tokens) / seconds}, len(tokens))


@dataclass(frozen=True)
class FirstTokenCase:
    """Milliseconds from a request with a prompt that nobody asked before to its first token."""

    engine: LocalEngine
    prompt_tokens: int

    @property
    def name(self) -> str:
        return f"ttft{self.prompt_tokens}"

    def run(self, number: int) -> Observation:
        generator = np.random.default_rng(1000 + number)
        prompt = tuple(int(token) for token in generator.integers(0, self.engine.vocab.size, self.prompt_tokens))
        request = Request(prompt, self.engine.default_sampling, max_tokens=1, ignore_eos=True)
        (run,) = run_requests(self.engine, [request])
        return Observation({self.name: 1000 * (run.arrivals[0] - run.submitted)}, self.prompt_tokens)


@dataclass(frozen=True)
class StreamsCase:
    """So many requests at the same time: their tokens per second together, and the time between tokens of each."""

    engine: LocalEngine
    streams: int
    generated_tokens: int

    @property
    def name(self) -> str:
        return f"streams{self.streams}"

    def run(self, number: int) -> Observation:
        sampling = self.engine.default_sampling
        requests = [
            Request(
                self.engine.text_tokens(f"{_OPENING} {place}"),
                replace(sampling, seed=number * self.streams + place),
                max_tokens=self.generated_tokens + 1,
                ignore_eos=True,
            )
            for place in range(self.streams)
        ]
        runs = run_requests(self.engine, requests)
        gaps = gaps_of(runs)
        values = {
            self.name: rate_together(runs),
            f"{self.name}_gap_p50": 1000 * percentile(gaps, 0.5),
            f"{self.name}_gap_p99": 1000 * percentile(gaps, 0.99),
        }
        return Observation(values, sum(len(run.arrivals) for run in runs), tuple(gaps))


@dataclass(frozen=True)
class StructuredCase:
    """A reply that a JSON Schema constrains, against free text behind the same prompt."""

    engine: LocalEngine
    prompt: tuple[int, ...]
    constraint: Constraint
    max_tokens: int

    name = "structured"

    def run(self, number: int) -> Observation:
        sampling = replace(self.engine.default_sampling, seed=number)
        constrained = Request(self.prompt, sampling, max_tokens=self.max_tokens, constraint=self.constraint)
        (structured,) = run_requests(self.engine, [constrained])
        tokens = max(8, len(structured.arrivals))
        free_request = Request(self.prompt, sampling, max_tokens=tokens, ignore_eos=True)
        (free,) = run_requests(self.engine, [free_request])
        usage = structured.completion.usage
        values = {
            self.name: _rate(structured),
            f"{self.name}_ratio": _rate(structured) / _rate(free),
            f"{self.name}_forced": 100 * usage.forced_tokens / max(1, usage.completion_tokens),
        }
        return Observation(values, tokens + len(free.arrivals))


def rate_together(runs: Sequence[Run]) -> float:
    """Tokens per second of all runs while all were answered; of replies that hardly overlap, over their whole time."""
    try:
        return joint_tokens_per_second(runs)
    except EdgeError:  # short replies, whose readers the system woke late
        seconds = max(run.arrivals[-1] for run in runs) - min(run.arrivals[0] for run in runs)
        return sum(len(run.arrivals) - 1 for run in runs) / seconds


def _rate(run: Run) -> float:
    """Tokens per second of a whole request, its prompt included."""
    return len(run.arrivals) / run.wall_seconds


def gaps_of(runs: Sequence[Run]) -> list[float]:
    """Seconds between one token and the next, of all runs. EdgeError if there are none."""
    gaps = [later - earlier for run in runs for earlier, later in zip(run.arrivals, run.arrivals[1:], strict=False)]
    if not gaps:
        raise EdgeError("The replies had a single token.", hint="Ask for more with --tg.")
    return gaps


@dataclass(frozen=True)
class Subject:
    """A model that is open to be measured."""

    path: Path
    engine: LocalEngine
    cases: tuple[Case, ...]
    decode_steps: BareSteps


@contextmanager
def opened(path: Path, settings: BenchSettings) -> Iterator[Subject]:
    """The model with everything that its cases need. EdgeError if its context is too short for them."""
    check_length(path, settings)
    with ExitStack() as stack:
        # each token by itself, whose time is measured
        engine = stack.enter_context(
            LocalEngine(path, settings.model_settings(trained_tokens(path)), delivery_seconds=0)
        )
        prefill = BareSteps(engine.model, settings, settings.prompt_tokens, engine.compute)
        stack.callback(prefill.context.close)
        decode = BareSteps(engine.model, settings, settings.generated_tokens, engine.compute)
        stack.callback(decode.context.close)
        stack.callback(engine.compute, lambda: None)  # first: whoever was interrupted no longer waits for its steps
        yield Subject(path, engine, _cases(engine, prefill, decode, settings), decode)


def check_length(path: Path, settings: BenchSettings) -> None:
    """EdgeError if more tokens are asked for than the model was trained on. Nothing but the header is read."""
    trained, longest = trained_tokens(path), max(settings.prompt_tokens, settings.generated_tokens)
    if longest > trained:
        raise EdgeError(
            f"{path.name} was trained on {trained} tokens; {longest} were asked for.",
            hint=f"Ask for at most {trained} with --pp and --tg.",
        )


def trained_tokens(path: Path) -> int:
    """What the file says; 2048 where it does not."""
    file = read_gguf(path)
    value = file.metadata.get(f"{file.architecture}.context_length")
    return value if isinstance(value, int) else 2048


def metric_kinds(settings: BenchSettings, first_token_prompt: int) -> list[MetricKind]:
    """All that the cases of these settings give, in the order of reports."""
    pp, tg = settings.prompt_tokens, settings.generated_tokens
    kinds = [
        MetricKind(f"pp{pp}", f"prefill, {pp} tokens", "tok/s", "higher"),
        MetricKind(f"tg{tg}", f"decode, {tg} tokens", "tok/s", "higher"),
        MetricKind(f"ttft{first_token_prompt}", f"first token after {first_token_prompt}", "ms", "lower"),
    ]
    for streams in settings.streams:
        name, title = f"streams{streams}", f"{streams} stream{'s' * (streams > 1)}"
        kinds += [
            MetricKind(name, title, "tok/s", "higher"),
            MetricKind(f"{name}_gap_p50", f"{title}, between tokens, median", "ms", "lower"),
            MetricKind(f"{name}_gap_p99", f"{title}, between tokens, 99th percentile", "ms", "lower"),
        ]
    return [
        *kinds,
        MetricKind("structured", "structured output", "tok/s", "higher"),
        MetricKind("structured_ratio", "structured against free text", "x", "higher"),
        MetricKind("structured_forced", "tokens that the schema forces", "%", "neither"),
    ]


def first_token_prompt(settings: BenchSettings, context_tokens: int) -> int:
    """Tokens of the prompt whose first answer is waited for: all of --pp, if one more fits."""
    return min(settings.prompt_tokens, context_tokens - 1)


def _cases(engine: LocalEngine, prefill: BareSteps, decode: BareSteps, settings: BenchSettings) -> tuple[Case, ...]:
    prompt = engine.text_tokens(_STRUCTURED_PROMPT)
    constraint = Constraint.json_schema(_SCHEMA.read_text("utf-8"))
    cases: list[Case] = [
        PrefillCase(prefill, settings.prompt_tokens),
        DecodeCase(decode, settings.generated_tokens),
        FirstTokenCase(engine, first_token_prompt(settings, engine.context_tokens)),
    ]
    cases += [StreamsCase(engine, streams, settings.generated_tokens) for streams in settings.streams]
    most = min(_STRUCTURED_TOKENS, engine.context_tokens - len(prompt) - 1)
    return (*cases, StructuredCase(engine, prompt, constraint, most))


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _blocks(tokens: int) -> int:
    return -(-tokens // _KV_BLOCK_TOKENS) * _KV_BLOCK_TOKENS
