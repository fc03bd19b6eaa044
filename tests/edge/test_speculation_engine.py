"""Requests get the same tokens with guesses at what comes next and without, whatever the guesses are.

In types whose products llama.cpp computes for many tokens as for one, bit for bit; so draws are the same as well.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from convert.pipeline import write_checkpoint
from edge.constraint import Constraint
from edge.local_engine import LocalEngine
from edge.prompt import plain_tokens
from edge.prompt_lookup import PromptLookup
from edge.request import Completion, Request
from edge.settings import ModelSettings, SamplingSettings
from tests.tiny import write_tiny_checkpoint

pytestmark = pytest.mark.usefixtures("free_guesses")

GREEDY = SamplingSettings(temperature=0)
SAMPLED = SamplingSettings(temperature=0.8, seed=7)
PENALIZED = SamplingSettings(temperature=0, repeat_penalty=1.3, frequency_penalty=0.2, dry_multiplier=0.8)
SETTINGS = ModelSettings(context_tokens=512, threads=1, parallel=3)
OFF = replace(SETTINGS, speculation="off")
NUMBERS = "one two three four five six seven eight nine ten eleven twelve"
LIST = Constraint.json_schema({"type": "array", "items": {"enum": ["bees", "honey"]}, "minItems": 4, "maxItems": 6})


class BlindDrafter:
    """Guesses that have nothing to do with the text, but for some that are what was said before."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._lookup = PromptLookup(tokens)
        self._generator = random.Random(5)
        self.chances: list[float] = []
        self.is_behind = False

    def extend(self, tokens: Sequence[int]) -> None:
        self._lookup.extend(tokens)

    def draft(self, limit: int) -> list[int]:
        right = self._lookup.draft(self._generator.randrange(limit + 1))
        draft = [*right, *(self._generator.randrange(3, 500) for _ in range(limit - len(right)))]
        self.chances = [0.9] * len(draft)
        return draft


@contextmanager
def opened(path: Path, drafting: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalEngine]:
    """An engine with one kind of drafts; the model is its own draft model, often unsure."""
    settings = {"off": OFF, "model": replace(SETTINGS, draft_model=path)}.get(drafting, SETTINGS)
    with monkeypatch.context() as patched:
        if drafting == "blind":
            patched.setattr("edge.local_engine.PromptLookup", BlindDrafter)
        with LocalEngine(path, settings) as engine:
            yield engine


def requests(engine: LocalEngine) -> list[Request]:
    """All that may meet with guesses: copies, constraints, penalties, draws, stops, limits."""

    def request(text: str, **changes: object) -> Request:
        values: dict[str, object] = {"sampling": GREEDY, "max_tokens": 40, **changes}
        return Request(tuple(plain_tokens(text, engine.vocab)), **values)  # type: ignore[arg-type]

    copy = f"{NUMBERS}\n{NUMBERS}\n{NUMBERS}\none two three"
    return [
        request(copy),
        request(copy, max_tokens=5),
        request(copy, stop=("seven", "ght ni")),
        request(copy, sampling=SAMPLED),
        request(copy, sampling=replace(SAMPLED, temperature=1.2, seed=8), ignore_eos=True),
        request(copy, sampling=PENALIZED),
        request(copy, logprobs=2, max_tokens=12),
        request("Insects:", constraint=LIST),
        request('["bees","bees","honey","bees","bees","honey"]\n["bees",', constraint=LIST, sampling=SAMPLED),
        request("Once upon a time", sampling=SAMPLED),
    ]


def answers(engine: LocalEngine, wanted: Sequence[Request]) -> list[Completion]:
    """One after the other."""
    return [engine.submit(request).result() for request in wanted]


def told(completion: Completion) -> tuple[object, ...]:
    """What a completion says, apart from how it was computed."""
    return completion.tokens, completion.text, completion.finish_reason, completion.usage.completion_tokens


@pytest.mark.parametrize("drafting", ["prompt", "blind", "model"])
@pytest.mark.parametrize("family", ["llama3", "gemma3", "lfm2"])
def test_tiny_models_say_the_same_with_and_without(
    family: str, drafting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_checkpoint(write_tiny_checkpoint(family, tmp_path), ["Q8_0"], tmp_path / "model.gguf")
    with opened(path, "off", monkeypatch) as engine:
        expected = answers(engine, requests(engine))
    with opened(path, drafting, monkeypatch) as engine:
        found = answers(engine, requests(engine))
    assert [told(each) for each in found] == [told(each) for each in expected]


@pytest.mark.parametrize("drafting", ["prompt", "blind", "model"])
def test_real_model_says_the_same_with_and_without(
    demo_gguf: Path, drafting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(demo_gguf, "off", monkeypatch) as engine:
        expected = answers(engine, requests(engine))
    with opened(demo_gguf, drafting, monkeypatch) as engine:
        found = answers(engine, requests(engine))
    assert [told(each) for each in found] == [told(each) for each in expected]
    drafted = sum(each.usage.drafted_tokens for each in found)
    accepted = sum(each.usage.accepted_tokens for each in found)
    assert 0 < accepted <= drafted
    if drafting == "blind":
        assert accepted < drafted / 2
    assert all(each.usage.drafted_tokens == each.usage.accepted_tokens == 0 for each in expected)


@pytest.mark.parametrize("drafting", ["prompt", "model"])
def test_streams_side_by_side_say_what_they_say_alone(
    demo_gguf: Path, drafting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedily: the cells of several sequences lie between each other, and sums over them round otherwise."""
    with opened(demo_gguf, "off", monkeypatch) as engine:
        wanted = [request for request in requests(engine) if request.sampling == GREEDY]
        expected = answers(engine, wanted)
    with opened(demo_gguf, drafting, monkeypatch) as engine:
        streams = [engine.submit(request) for request in wanted]
        found = [stream.result() for stream in streams]
    assert [told(each) for each in found] == [told(each) for each in expected]


@pytest.mark.usefixtures("guesses_at_every_step")
def test_copy_of_the_prompt_is_guessed(demo_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(demo_gguf, "prompt", monkeypatch) as engine:
        (completion,) = answers(engine, requests(engine)[:1])
    assert completion.text.startswith(" four five six seven")
    assert completion.usage.accepted_tokens >= 8


@pytest.mark.usefixtures("guesses_at_every_step")
@pytest.mark.parametrize("quantization", ["Q8_0", "Q4_K_M"])
def test_long_contexts_say_the_same_with_and_without(
    quantization: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the cells from which on llama.cpp would split the attention to a single token."""
    (path,) = write_checkpoint(write_tiny_checkpoint("llama3", tmp_path), [quantization], tmp_path / "model.gguf")
    text = f"{NUMBERS}\n" * 11
    found = []
    for drafting in ("off", "blind", "prompt"):
        with opened(path, drafting, monkeypatch) as engine:
            prompt = tuple(plain_tokens(text, engine.vocab))
            assert 256 < len(prompt) <= 410
            request = Request(prompt, sampling=GREEDY, max_tokens=90, ignore_eos=True)
            found.append(engine.submit(request).result())
    assert found[1].usage.drafted_tokens
    assert len({each.tokens for each in found}) == 1
