"""Several sequences in real contexts: with windows and recurrent layers, too, each gives what it gives alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convert.pipeline import convert_adapter, write_checkpoint
from edge.constraint import Constraint
from edge.errors import EdgeError
from edge.local_engine import LocalEngine
from edge.request import AdapterChoice, Completion, Request
from edge.settings import AdapterSettings, ModelSettings, SamplingSettings
from tests.tiny import write_tiny_checkpoint
from tests.tiny.adapters import write_tiny_adapter

GREEDY = SamplingSettings(temperature=0)
SETTINGS = ModelSettings(context_tokens=512, parallel=3, threads=1)
STORY = "The bees danced, and the beekeeper wrote it down in her book. Then it rained for nine days. " * 2


@pytest.fixture(scope="module", params=["llama3", "gemma2", "gemma3", "qwen3_5", "lfm2"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models with full attention, windows of 16 tokens, and recurrent layers beside attention."""
    folder = tmp_path_factory.mktemp(request.param)
    (path,) = write_checkpoint(write_tiny_checkpoint(request.param, folder), ["F32"], folder / "model.gguf")
    return path


@pytest.fixture
def engine(path: Path) -> Iterator[LocalEngine]:
    with LocalEngine(path, SETTINGS) as engine:
        yield engine


def greedy(tokens: Sequence[int], max_tokens: int = 24) -> Request:
    return Request(tuple(tokens), sampling=GREEDY, max_tokens=max_tokens)


def alone(path: Path, request: Request) -> Completion:
    """What an engine of its own answers, which has computed nothing before and guesses nothing."""
    with LocalEngine(path, replace(SETTINGS, parallel=1, speculation="off")) as engine:
        return engine.submit(request).result()


def test_answers_are_those_of_fresh_engines_whatever_was_computed_before(path: Path, engine: LocalEngine) -> None:
    story = engine.text_tokens(STORY)
    prompts = [
        story,
        (*story, *story[5:30]),  # goes on
        (*story[:50], *story[3:40]),  # parts
        (*story[:50], *story[9:40]),  # parts at the same place
        story,  # once more
        (*story[:50], *story[3:40], *story[:20]),
    ]
    for prompt in prompts:
        expected = alone(path, greedy(prompt))
        assert engine.submit(greedy(prompt)).result().tokens == expected.tokens


def test_prompt_is_computed_once_for_several_answers(path: Path, engine: LocalEngine) -> None:
    story = engine.text_tokens(STORY)
    request = Request(story, sampling=SamplingSettings(temperature=1.0, top_k=0, seed=3), max_tokens=16)
    streams = engine.submit_choices(request, 3)
    answers = [stream.result() for stream in streams]
    assert [answer.usage.cached_tokens for answer in answers] == [0, len(story) - 1, len(story) - 1]
    assert len({answer.tokens for answer in answers}) == 3
    alike = [stream.result().tokens for stream in engine.submit_choices(greedy(story), 3)]
    assert alike == [alone(path, greedy(story)).tokens] * 3
    assert answers[0].tokens == alone(path, request).tokens


def test_conversation_goes_on_where_it_was_after_another_one_with_the_same_beginning(engine: LocalEngine) -> None:
    system = engine.text_tokens(STORY)
    first = engine.submit(greedy((*system, *system[:9]))).result()
    engine.submit(greedy((*system, *system[4:20]))).result()
    third = engine.submit(greedy((*system, *system[7:25]))).result()
    again = engine.submit(greedy((*system, *system[:9], *first.tokens, 5))).result()
    assert third.usage.cached_tokens == len(system)
    fed_tokens = len(first.tokens) - (first.finish_reason == "length")
    assert again.usage.cached_tokens == len(system) + 9 + fed_tokens


def test_completions_asked_for_with_the_wrong_count_are_refused(engine: LocalEngine) -> None:
    with pytest.raises(EdgeError, match=r"0 completions were asked for\.\nAsk for at least 1\."):
        engine.submit_choices(greedy([5]), 0)


# Options of the cache


@pytest.mark.parametrize(("key_type", "value_type"), [("Q8_0", "Q8_0"), ("Q4_0", "Q4_0"), ("Q8_0", "F16")])
@pytest.mark.model
def test_keys_and_values_are_kept_in_other_types(demo_gguf: Path, key_type: str, value_type: str) -> None:
    settings = ModelSettings(context_tokens=256, threads=1, key_type=key_type, value_type=value_type)  # type: ignore[arg-type]
    with LocalEngine(demo_gguf, settings) as engine:
        prompt = engine.text_tokens("one, two, three, four, five, six, seven, eight, nine, ten\n" * 2 + "one, two,")
        assert engine.submit(greedy(prompt, 8)).result().text.startswith(" three, four,")


def test_values_in_another_type_without_flash_attention_are_refused(path: Path) -> None:
    with pytest.raises(EdgeError) as caught:
        LocalEngine(path, replace(SETTINGS, value_type="Q8_0", flash_attention="off"))
    assert caught.value.message == "Values in Q8_0 need flash attention, which is switched off."
    assert caught.value.hint == "Leave flash attention on, or keep values in F16."


# Log probabilities


def test_log_probabilities_add_up_and_name_what_was_likeliest(engine: LocalEngine) -> None:
    answer = engine.submit(replace(greedy(engine.text_tokens(STORY), 6), logprobs=engine.vocab.size)).result()
    for token, logprobs in zip(answer.tokens, answer.logprobs, strict=True):
        values = np.array([each.logprob for each in logprobs.top])
        assert np.exp(values).sum() == pytest.approx(1, abs=1e-5)
        assert (logprobs.top[0].token, logprobs.top[0].logprob) == (token, logprobs.logprob)
        assert sorted(each.token for each in logprobs.top) == list(range(engine.vocab.size))


# Adapters


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    checkpoint = write_tiny_checkpoint("qwen2", folder)
    write_checkpoint(checkpoint, ["F32"], folder / "base.gguf", threads=1)
    convert_adapter(write_tiny_adapter("qwen2-rslora", folder), checkpoint, out=folder / "adapter.gguf")
    return folder


def adapters(folder: Path, *, scale: float = 1.0) -> ModelSettings:
    return replace(SETTINGS, adapters=(AdapterSettings(folder / "adapter.gguf", scale),))


def test_adapters_are_chosen_and_scaled_by_each_request(adapted: Path) -> None:
    def answers(engine: LocalEngine, *choices: tuple[AdapterChoice, ...] | None) -> list[tuple[int, ...]]:
        prompt = engine.text_tokens("The bees danced, and she wrote it down.")
        requests = [replace(greedy(prompt, 12), adapters=choice) for choice in choices]
        return [stream.result().tokens for stream in [engine.submit(each) for each in requests]]

    half = (AdapterChoice("adapter", 0.5),)
    with LocalEngine(adapted / "base.gguf", adapters(adapted)) as engine:
        usual, without, halved, zero = answers(engine, None, (), half, (AdapterChoice("adapter", 0.0),))
        with pytest.raises(EdgeError) as caught:
            answers(engine, (AdapterChoice("other"),))
        assert caught.value.message == "No adapter 'other' is loaded."
        assert caught.value.hint == "Loaded adapters: adapter."
    with LocalEngine(adapted / "base.gguf", adapters(adapted, scale=0.5)) as engine:
        assert answers(engine, None) == [halved]
    with LocalEngine(adapted / "base.gguf", SETTINGS) as engine:
        assert answers(engine, None) == [without]
    assert len({usual, without, halved}) == 3
    assert zero == without


def test_two_adapters_of_one_name_are_refused(adapted: Path, tmp_path: Path) -> None:
    other = tmp_path / "adapter.gguf"
    other.write_bytes((adapted / "adapter.gguf").read_bytes())
    both = (AdapterSettings(adapted / "adapter.gguf"), AdapterSettings(other))
    with pytest.raises(EdgeError, match="are both called 'adapter'"):
        LocalEngine(adapted / "base.gguf", replace(SETTINGS, adapters=both))


# Room


def test_context_may_hold_several_requests_as_long_as_the_model_was_trained_on(tiny_gguf: Path) -> None:
    with LocalEngine(tiny_gguf, ModelSettings(context_tokens=1024, parallel=2, threads=1)) as engine:
        assert engine.context_tokens == 512
        prompt = engine.text_tokens("x " * 250)[:250]
        streams = [engine.submit(greedy((*prompt, token), 500 - len(prompt))) for token in (5, 6)]
        assert all(stream.result().tokens for stream in streams)
    with pytest.raises(EdgeError) as caught:
        LocalEngine(tiny_gguf, ModelSettings(context_tokens=1025, parallel=2))
    assert caught.value.hint == "Ask for at most 512 for each of 2 sequences with --ctx."


def test_constraint_is_met_beside_other_requests(engine: LocalEngine) -> None:
    prompt = engine.text_tokens("Yes or no?")
    others = [engine.submit(greedy(engine.text_tokens(STORY), 30)) for _ in range(2)]
    choice = Constraint.choice(["yes", "no"])
    assert engine.submit(replace(greedy(prompt), constraint=choice)).result().text in ("yes", "no")
    for other in others:
        other.result()


@pytest.mark.parametrize("seconds", [0, -1.5])
def test_deadline_that_has_passed_is_refused(engine: LocalEngine, seconds: float) -> None:
    with pytest.raises(EdgeError, match=f"deadline_seconds is {seconds}"):
        engine.submit(replace(greedy([5]), deadline_seconds=seconds))
