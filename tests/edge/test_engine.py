"""The engine on real contexts: a tiny model with random weights, and a real one whose text can be read."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convert.pipeline import write_checkpoint
from edge.checked import InvalidReplyError
from edge.constraint import Constraint
from edge.errors import EdgeError
from edge.llama.context import Batch, Context
from edge.llama.model import Model
from edge.llama.sampler import Sampler
from edge.local_engine import LocalEngine as Engine
from edge.prompt import Message, PromptTemplate, plain_tokens
from edge.request import Completion, FinishEvent, Request, TokenEvent
from edge.settings import ModelSettings, SamplingSettings
from tests.tiny import write_tiny_checkpoint

GREEDY = SamplingSettings(temperature=0)
# one thread: other work on the machine slows it down least
SETTINGS = ModelSettings(context_tokens=256, threads=1)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["bees", "honey"]}, "minItems": 1, "maxItems": 2},
        "active": {"type": "boolean"},
    },
    "required": ["name", "age", "tags", "active"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tiny(tiny_gguf: Path) -> Iterator[Engine]:
    with Engine(tiny_gguf, replace(SETTINGS, parallel=2)) as engine:
        yield engine


def complete(engine: Engine, text: str, **request: Any) -> Completion:
    """Continue a text, greedily unless told otherwise."""
    return engine.submit(request_for(engine, text, **request)).result()


def request_for(engine: Engine, text: str, **request: Any) -> Request:
    return Request(tuple(plain_tokens(text, engine.vocab)), **{"sampling": GREEDY, "max_tokens": 12, **request})


# Opening


def test_file_that_is_no_gguf_is_refused_before_native_code_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model, but long enough to be looked at")
    with pytest.raises(EdgeError, match="GGUF") as caught:
        Engine(path)
    assert "llama.cpp cannot load" not in caught.value.message


def test_context_is_what_the_model_was_trained_on_unless_asked_for(tiny_gguf: Path) -> None:
    with Engine(tiny_gguf) as engine:
        assert engine.context_tokens == 512


def test_context_beyond_what_the_model_was_trained_on_is_refused_with_both_numbers(tiny_gguf: Path) -> None:
    with pytest.raises(EdgeError) as caught:
        Engine(tiny_gguf, ModelSettings(context_tokens=1024))
    assert caught.value.message == "A context of 1024 tokens was asked for; the model was trained on 512."
    assert caught.value.hint == "Ask for at most 512 with --ctx."


def test_sampling_follows_what_the_makers_recommend(tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint("qwen2", tmp_path)
    recommended = {"temperature": 0.25, "top_k": 20, "top_p": 0.75, "repetition_penalty": 1.5}
    (checkpoint / "generation_config.json").write_text(json.dumps(recommended))
    (path,) = write_checkpoint(checkpoint, ["F32"], tmp_path / "qwen2.gguf")
    with Engine(path, SETTINGS) as engine:
        sampling = engine.default_sampling
    assert sampling == SamplingSettings(temperature=0.25, top_k=20, top_p=0.75, repeat_penalty=1.5)


def test_sampling_is_as_usual_where_nothing_is_recommended(sliding: Engine) -> None:
    assert sliding.default_sampling == SamplingSettings()


# Requests that cannot be


def test_prompt_longer_than_the_context_is_refused_with_both_numbers(tiny: Engine) -> None:
    with pytest.raises(EdgeError) as caught:
        tiny.submit(Request((5,) * 256))
    assert caught.value.message == "The prompt has 256 tokens, the context holds 256."
    assert caught.value.hint == "Shorten the prompt or ask for a longer context with --ctx."


def test_prompt_that_leaves_room_for_one_token_gets_one(tiny: Engine) -> None:
    result = tiny.submit(Request((5,) * 255, sampling=GREEDY)).result()
    assert len(result.tokens) <= 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(()), "The prompt is empty."),
        (Request((5,), max_tokens=0), "max_tokens is 0."),
        (Request((5, 624)), "The prompt has token ids outside of the vocabulary of 624 tokens."),
        (Request((5, -1)), "The prompt has token ids outside of the vocabulary of 624 tokens."),
        (Request((5,), stop_tokens=(624,)), "stop_tokens has token ids outside of the vocabulary of 624 tokens."),
        (Request((5,), min_tokens=-1), "min_tokens is -1."),
        (Request((5,), min_tokens=9, max_tokens=8), "min_tokens is 9, max_tokens 8."),
        (Request((5,), logprobs=-1), "logprobs is -1."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_request_that_cannot_be_is_refused(tiny: Engine, request_: Request, message: str) -> None:
    with pytest.raises(EdgeError, match=re.escape(message)):
        tiny.submit(request_)


# Ways to consume


def test_events_are_tokens_with_their_bytes_and_a_finish_with_the_counts(tiny: Engine) -> None:
    request = request_for(tiny, "The bees", max_tokens=5)
    *tokens, finish = tiny.submit(request)
    assert all(isinstance(event, TokenEvent) for event in tokens)
    assert isinstance(finish, FinishEvent)
    assert [event.piece for event in tokens] == [tiny.vocab.piece(event.token) for event in tokens]
    assert finish.reason == "length"
    assert finish.usage.completion_tokens == len(tokens) == 5
    assert finish.usage.prompt_tokens == len(request.prompt_tokens)


def test_requests_run_together_in_an_event_loop(tiny: Engine) -> None:
    async def tokens(text: str) -> list[int]:
        request = request_for(tiny, text)
        return [event.token async for event in tiny.submit(request) if isinstance(event, TokenEvent)]

    async def together() -> list[list[int]]:
        return await asyncio.gather(*(tokens(text) for text in ("The bees", "The honey", "The garden")))

    alone = [list(complete(tiny, text).tokens) for text in ("The bees", "The honey", "The garden")]
    assert asyncio.run(together()) == alone


def test_more_requests_than_sequences_all_finish_with_their_own_answers(tiny: Engine) -> None:
    texts = [f"Bee number {number}" for number in range(7)]
    streams = [tiny.submit(request_for(tiny, text)) for text in texts]
    together = [stream.result().tokens for stream in streams]
    assert together == [complete(tiny, text).tokens for text in texts]
    assert len(set(together)) > 1


def test_cancelled_request_gives_its_sequence_back(tiny: Engine) -> None:
    endless = [tiny.submit(request_for(tiny, text, max_tokens=100)) for text in ("one", "two")]
    waiting = tiny.submit(request_for(tiny, "three"))
    for stream in endless:
        stream.cancel()
    assert waiting.result().tokens == complete(tiny, "three").tokens


def test_closing_ends_the_streams_and_takes_no_more_requests(tiny_gguf: Path) -> None:
    engine = Engine(tiny_gguf, SETTINGS)
    request = request_for(engine, "The bees", max_tokens=200)
    streams = [engine.submit(request) for _ in range(3)]
    engine.close()
    reasons = [stream.result().finish_reason for stream in streams]
    assert reasons[-1] == "cancelled"
    with pytest.raises(EdgeError, match=r"The engine is closed\."):
        engine.submit(request)
    engine.close()


# The KV cache


@pytest.fixture(scope="module")
def sliding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A tiny Gemma 2, whose every second layer sees 16 tokens."""
    folder = tmp_path_factory.mktemp("gemma2")
    (path,) = write_checkpoint(write_tiny_checkpoint("gemma2", folder), ["F32"], folder / "gemma2.gguf")
    with Engine(path, SETTINGS) as engine:
        yield engine


@pytest.mark.parametrize("name", ["tiny", "sliding"])
def test_answer_is_the_same_with_a_reused_prefix_as_without(name: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(name)
    history = plain_tokens("The bees danced, and the beekeeper wrote it down in her book. " * 3, engine.vocab)

    def answer(tokens: list[int]) -> Completion:
        return engine.submit(Request(tuple(tokens), sampling=GREEDY, max_tokens=8)).result()

    answer(plain_tokens("Something else.", engine.vocab))
    fresh = answer(history)
    repeated = answer(history)
    continued = answer([*history, *fresh.tokens, *history[:20]])
    branched = answer([*history[:30], *history[:10]])
    answer(plain_tokens("Something else.", engine.vocab))
    assert answer([*history, *fresh.tokens, *history[:20]]).tokens == continued.tokens
    answer(plain_tokens("Something else.", engine.vocab))
    assert answer([*history[:30], *history[:10]]).tokens == branched.tokens
    assert repeated.tokens == fresh.tokens
    assert repeated.usage.cached_tokens == len(history) - 1
    assert continued.usage.cached_tokens == len(history) + len(fresh.tokens) - 1


# Sampling and constraints


def test_same_seed_gives_the_same_text_and_others_give_others(tiny: Engine) -> None:
    def draw(seed: int) -> tuple[int, ...]:
        return complete(tiny, "The bees", sampling=SamplingSettings(temperature=1.0, seed=seed)).tokens

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(4)}) == 4


def test_bias_keeps_a_token_out(tiny: Engine) -> None:
    unwanted = complete(tiny, "The bees").tokens[0]
    biased = replace(GREEDY, logit_bias=((unwanted, float("-inf")),))
    assert unwanted not in complete(tiny, "The bees", sampling=biased).tokens


def test_strong_penalty_keeps_tokens_from_coming_twice(tiny: Engine) -> None:
    tokens = complete(tiny, "The bees", sampling=replace(GREEDY, presence_penalty=100.0), max_tokens=20).tokens
    assert len(set(tokens)) == len(tokens)


def test_reply_conforms_to_a_schema_even_from_random_weights(tiny: Engine) -> None:
    constraint = Constraint.json_schema(PERSON)
    for seed in range(3):
        sampling = SamplingSettings(temperature=1.0, seed=seed)
        result = complete(tiny, "Person:", constraint=constraint, sampling=sampling, max_tokens=120)
        assert result.finish_reason == "stop"
        check_person(json.loads(result.text))


def check_person(person: dict[str, Any]) -> None:
    assert list(person) == ["name", "age", "tags", "active"]
    assert isinstance(person["name"], str) and len(person["name"]) <= 12
    assert type(person["age"]) is int and 0 <= person["age"] <= 120
    assert 1 <= len(person["tags"]) <= 2 and set(person["tags"]) <= {"bees", "honey"}
    assert type(person["active"]) is bool


PAIR = {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 2, "maxItems": 2, "uniqueItems": True}


def test_reply_that_is_not_valid_is_sampled_again_from_the_prompt_in_the_cache(tiny: Engine) -> None:
    prompt = tuple(plain_tokens("Two of the three numbers:", tiny.vocab))
    for seed in range(6):
        sampling = SamplingSettings(temperature=1.0, seed=seed)
        constraint = Constraint.json_schema(PAIR, attempts=40)
        result = tiny.submit(Request(prompt, sampling, max_tokens=40, constraint=constraint)).result()
        assert json.loads(result.text) in [[1, 2], [1, 3], [2, 1], [2, 3], [3, 1], [3, 2]]
        assert result.usage.cached_tokens == len(prompt) - 1 or seed == 0


def test_schema_that_no_reply_satisfies_ends_in_an_error_with_the_best_attempt(tiny: Engine) -> None:
    constraint = Constraint.json_schema({**PAIR, "items": {"enum": [1]}}, attempts=2)
    with pytest.raises(InvalidReplyError, match="None of 2 attempts satisfies the JSON Schema") as caught:
        complete(tiny, "Two numbers:", constraint=constraint, sampling=GREEDY, max_tokens=40)
    assert (caught.value.text, caught.value.violation.keyword) == ("[1, 1]", "uniqueItems")
    assert complete(tiny, "The bees").tokens


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Constraint.json_schema({"not": {"$ref": "https://example.com/s.json"}}), "nothing is fetched"),
        (Constraint.json_schema({"$ref": "https://example.com/s.json"}), "'https://example.com/s.json'"),
        (Constraint.json_schema({"uniqueItems": "yes"}), "at #/uniqueItems, 'yes' is not of type 'boolean'"),
        (Constraint.regex("(.*a){30}(x|.{1,9000}){2,9000}"), "too many expressions"),
    ],
)
def test_constraint_that_cannot_be_followed_ends_only_its_own_request(
    tiny: Engine, constraint: Constraint, message: str
) -> None:
    biased = replace(GREEDY, logit_bias=tuple((token, 1000.0) for token in tiny.vocab.tokenize("a", starts_text=False)))
    with pytest.raises(EdgeError, match=message) as caught:
        complete(tiny, "Go on:", constraint=constraint, sampling=biased, max_tokens=200)
    assert caught.value.hint
    assert complete(tiny, "The bees").tokens


def test_reply_matches_a_regular_expression_as_a_whole(tiny: Engine) -> None:
    pattern = r"(0[1-9]|1[0-2])/20[0-9]{2} (bees|honey)"
    result = complete(tiny, "When and what?", constraint=Constraint.regex(pattern), max_tokens=40)
    assert re.fullmatch(pattern, result.text)


def test_reply_follows_a_grammar(tiny: Engine) -> None:
    grammar = 'root ::= "yes, " answer\nanswer ::= "indeed" | "of course"'
    result = complete(tiny, "Really?", constraint=Constraint.grammar(grammar), max_tokens=40)
    assert result.text in ("yes, indeed", "yes, of course")


def test_constraint_that_cannot_be_enforced_is_refused_and_the_engine_goes_on(tiny: Engine) -> None:
    with pytest.raises(EdgeError, match="regular expression cannot be enforced"):
        complete(tiny, "x", constraint=Constraint.regex("a(?=b)"))
    assert complete(tiny, "x").tokens


# A real model


@pytest.fixture(scope="module")
def real(demo_gguf: Path) -> Iterator[Engine]:
    with Engine(demo_gguf, replace(SETTINGS, parallel=3)) as engine:
        yield engine


# Texts that it continues without doubt: at each token the likeliest is ahead by far, so that another processor, thread
# count or batch decides alike.
NUMBERS = "one, two, three, four, five, six, seven, eight, nine, ten\none, two, three,"
LETTERS = "a b c d e f g h"
TENS = "10, 20, 30, 40, 50, 60, 70\n10, 20,"
ANSWERS = {
    NUMBERS: " four, five, six, seven, eight,",
    LETTERS: " i j k l m n o p q",
    TENS: " 30, 40, 50,",
}


@pytest.mark.model
@pytest.mark.parametrize("text", ANSWERS, ids=["numbers", "letters", "tens"])
def test_greedy_text_is_what_the_model_is_known_to_write(real: Engine, text: str) -> None:
    assert complete(real, text).text.startswith(ANSWERS[text])


@pytest.mark.model
def test_greedy_tokens_are_those_of_a_plain_loop(real: Engine, demo_gguf: Path) -> None:
    expected = []
    with Model(demo_gguf) as model, Context(model, context_tokens=256) as context:
        prompt = model.vocab.tokenize(NUMBERS)
        batch, sampler, pending = Batch(256, 1), Sampler(GREEDY, model.vocab, context_tokens=256), prompt
        for _ in range(12):
            batch.clear()
            position = len(prompt) + len(expected) - len(pending)
            index = batch.add(pending, sequence=0, position=position, last_logits=True)
            context.decode(batch)
            pending = [sampler.choose(context.logits(index))]
            expected += pending
        sampler.close()
    assert list(complete(real, NUMBERS).tokens) == expected


@pytest.mark.model
def test_requests_together_write_what_they_write_alone(real: Engine) -> None:
    alone = [complete(real, text, max_tokens=9).text for text in ANSWERS]
    streams = [real.submit(request_for(real, text, max_tokens=9)) for text in ANSWERS]
    assert [stream.result().text for stream in streams] == alone


@pytest.mark.model
@pytest.mark.parametrize("stop", [" six", "e, s", "ive, si", "six, seven,"])
def test_stop_text_over_several_tokens_ends_the_text_before_it(real: Engine, stop: str) -> None:
    result = complete(real, NUMBERS, stop=("never", stop))
    whole = ANSWERS[NUMBERS]
    assert (result.text, result.finish_reason) == (whole[: whole.index(stop)], "stop")


@pytest.mark.model
def test_text_comes_in_whole_characters_and_adds_up(real: Engine) -> None:
    request = request_for(real, "🐝🍯🐝🍯🐝🍯🐝🍯", max_tokens=16)
    events = list(real.submit(request))
    pieces = b"".join(event.piece for event in events if isinstance(event, TokenEvent))
    text = "".join(event.text for event in events)
    assert "🍯" in text
    assert text == pieces.decode(errors="replace")


@pytest.mark.model
def test_chat_prompt_of_a_real_model_is_answered_as_the_schema_demands(real: Engine) -> None:
    question = Message("user", "Invent a person who works with bees and describe them as JSON.")
    prompt = tuple(real.template.tokens([question], real.vocab))
    request = Request(prompt, sampling=GREEDY, max_tokens=120, constraint=Constraint.json_schema(PERSON))
    check_person(json.loads(real.submit(request).result().text))


def test_the_template_is_made_once_while_the_model_is_opened(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_in: list[threading.Thread] = []
    of_model = PromptTemplate.of_model

    def noting(*arguments: Any) -> PromptTemplate:
        made_in.append(threading.current_thread())
        return of_model(*arguments)

    monkeypatch.setattr(PromptTemplate, "of_model", noting)
    with Engine(tiny_gguf) as engine:
        assert engine.chat_tokens([Message("user", "Bees?")]) == engine.chat_tokens([Message("user", "Bees?")])
    (thread,) = made_in
    assert thread is not threading.current_thread()
    assert not thread.is_alive()
