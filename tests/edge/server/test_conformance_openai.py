"""OpenAI's own client against a live server: what it parses, and what it raises."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

from edge.errors import EngineBusyError
from edge.server.background import BackgroundServer
from edge.server.model_files import open_model, source_of
from edge.server.model_pool import ModelPool
from edge.server.server_settings import ServerSettings
from edge.settings import ModelSettings
from edge.worker_connection import EngineDiedError
from tests.edge.server.conftest import ServedFake, ServeLive, eventually

HI = [{"role": "user", "content": "Hi"}]


def client_of(server: BackgroundServer, key: str = "none") -> OpenAI:
    return OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def tiny_client(tiny_gguf: Path) -> Iterator[OpenAI]:
    """A client of a server with a real, tiny model in a process of its own."""
    source = source_of("tiny", tiny_gguf, ModelSettings(threads=1, parallel=4))
    with BackgroundServer(ModelPool([source], open_model), ServerSettings(port=0, api_keys=("secret",))) as server:
        yield client_of(server, "secret")


@contextlib.contextmanager
def once_asked(engine: ServedFake, act: Callable[[], None]) -> Iterator[None]:
    """While the block asks, a thread acts as soon as the engine has the request."""

    def wait_and_act() -> None:
        eventually(lambda: bool(engine.streams))
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    yield
    thread.join()


class City(BaseModel):
    """Bounded, since a model of random weights ends no text by itself."""

    name: str = Field(max_length=20)
    people: int = Field(ge=0, le=10_000_000)


# With the model


def test_real_model_answers_and_streams_the_same(tiny_client: OpenAI) -> None:
    whole = tiny_client.chat.completions.create(model="tiny", messages=HI, max_tokens=12, temperature=0)  # type: ignore[arg-type]
    assert whole.usage and 1 <= whole.usage.completion_tokens <= 12
    pieces, usage = [], None
    for chunk in tiny_client.chat.completions.create(
        model="tiny",
        messages=HI,  # type: ignore[arg-type]
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        usage = chunk.usage or usage
        pieces += [choice.delta.content or "" for choice in chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert usage and usage.completion_tokens == whole.usage.completion_tokens


def test_real_model_fills_a_pydantic_class(tiny_client: OpenAI) -> None:
    answer = tiny_client.chat.completions.parse(
        model="tiny",
        messages=HI,  # type: ignore[arg-type]
        response_format=City,
        max_tokens=200,
        seed=1,
    )
    assert isinstance(answer.choices[0].message.parsed, City)


def test_real_model_is_held_to_any_object(tiny_client: OpenAI) -> None:
    answer = tiny_client.chat.completions.create(
        model="tiny",
        messages=HI,  # type: ignore[arg-type]
        response_format={"type": "json_object"},
        max_tokens=100,
        seed=2,
    )
    assert (answer.choices[0].message.content or "").startswith("{")


def test_real_model_tells_logprobs_of_each_choice(tiny_client: OpenAI) -> None:
    answer = tiny_client.chat.completions.create(
        model="tiny",
        messages=HI,  # type: ignore[arg-type]
        max_tokens=4,
        n=2,
        seed=3,
        logprobs=True,
        top_logprobs=3,
        extra_body={"ignore_eos": True},
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert choice.logprobs and choice.logprobs.content
        assert [len(token.top_logprobs) for token in choice.logprobs.content] == [3] * 4
        assert all(token.logprob <= 0 for token in choice.logprobs.content)


def test_real_model_continues_texts(tiny_client: OpenAI) -> None:
    answer = tiny_client.completions.create(
        model="tiny", prompt=["a", "b"], max_tokens=3, logprobs=2, temperature=0, extra_body={"ignore_eos": True}
    )
    assert len(answer.choices) == 2
    logprobs = answer.choices[0].logprobs
    assert logprobs and logprobs.tokens and len(logprobs.tokens) == 3
    assert logprobs.text_offset and logprobs.text_offset[0] == 0


def test_real_model_embeds(tiny_client: OpenAI) -> None:
    answer = tiny_client.embeddings.create(model="tiny", input=["one", "two"])
    first, second = (item.embedding for item in answer.data)
    assert len(first) == len(second)
    assert sum(value * value for value in first) == pytest.approx(1, rel=1e-5)


def test_real_model_stops_where_it_is_told(tiny_client: OpenAI) -> None:
    free = tiny_client.completions.create(model="tiny", prompt="a", max_tokens=20, temperature=0)
    text = free.choices[0].text
    stop = text[len(text) // 2 :][:2]
    stopped = tiny_client.completions.create(model="tiny", prompt="a", max_tokens=20, temperature=0, stop=stop)
    assert stopped.choices[0].text == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_real_context_that_is_too_small_is_told_with_both_numbers(tiny_client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        tiny_client.completions.create(model="tiny", prompt="bees " * 2000, max_tokens=1)
    assert refused.value.code == "context_length_exceeded"
    assert "the context holds 512." in str(refused.value)


def test_models_are_listed(tiny_client: OpenAI) -> None:
    assert [model.id for model in tiny_client.models.list()] == ["tiny"]
    assert tiny_client.models.retrieve("tiny").owned_by == "edge"


# Errors


def test_wrong_key_is_an_authentication_error(serve_live: ServeLive) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        client_of(serve_live(api_keys=("secret",)), "wrong").models.list()
    assert refused.value.code == "invalid_api_key"


def test_unknown_field_is_a_bad_request_error_that_names_it(serve_live: ServeLive) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client_of(serve_live()).chat.completions.create(
            model="fake",
            messages=HI,  # type: ignore[arg-type]
            extra_body={"temprature": 1},
        )
    assert refused.value.param == "temprature"


def test_unknown_model_is_a_not_found_error(serve_live: ServeLive) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client_of(serve_live()).chat.completions.create(model="gpt-9", messages=HI)  # type: ignore[arg-type]
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize("is_streamed", [False, True])
def test_full_queue_is_a_rate_limit_error_with_a_time_to_wait(serve_live: ServeLive, is_streamed: bool) -> None:
    server = serve_live(ServedFake([EngineBusyError("256 requests are waiting already.", hint="Wait.")]))
    with pytest.raises(openai.RateLimitError) as refused:
        client_of(server).chat.completions.create(model="fake", messages=HI, stream=is_streamed)  # type: ignore[call-overload]
    assert refused.value.response.headers["retry-after"] == "1"


def test_client_that_may_retry_gets_its_answer_when_the_queue_has_room(serve_live: ServeLive) -> None:
    server = serve_live(ServedFake([EngineBusyError("Full.", hint="Wait."), "now"]))
    client = OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=2)
    answer = client.chat.completions.create(model="fake", messages=HI)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == "now"


def test_engine_that_died_is_an_internal_server_error_and_the_next_request_works(serve_live: ServeLive) -> None:
    server = serve_live(ServedFake([EngineDiedError("The engine's process was ended.", hint="Again."), "alive"]))
    client = client_of(server)
    with pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(model="fake", messages=HI)  # type: ignore[arg-type]
    assert refused.value.status_code == 503
    assert client.chat.completions.create(model="fake", messages=HI).choices[0].message.content == "alive"  # type: ignore[arg-type]


def test_engine_that_dies_in_the_middle_ends_a_stream_with_an_error(serve_live: ServeLive) -> None:
    engine = ServedFake(["one two three"], is_held=True)
    client = client_of(serve_live(engine))
    with once_asked(engine, lambda: engine.step(1)):
        stream = client.chat.completions.create(model="fake", messages=HI, stream=True)  # type: ignore[call-overload]
    chunks = iter(stream)
    assert next(chunks).choices[0].delta.role == "assistant"
    assert next(chunks).choices[0].delta.content == "one "
    engine.fail("The engine's process was ended by SIGKILL.")
    with pytest.raises(openai.APIError, match="ended by SIGKILL"):
        next(chunks)


def test_engine_that_dies_before_the_first_token_is_told_by_the_status(serve_live: ServeLive) -> None:
    engine = ServedFake(["one two"], is_held=True)
    client = client_of(serve_live(engine))
    with (
        once_asked(engine, lambda: engine.fail("It died.")),
        pytest.raises(openai.InternalServerError, match="It died"),
    ):
        client.chat.completions.create(model="fake", messages=HI, stream=True)  # type: ignore[call-overload]


def test_answer_that_was_cut_off_is_not_parsed(serve_live: ServeLive) -> None:
    server = serve_live(ServedFake(['{"name": "Bern", "people": 1}']))
    with pytest.raises(openai.LengthFinishReasonError):
        client_of(server).chat.completions.parse(
            model="fake",
            messages=HI,  # type: ignore[arg-type]
            response_format=City,
            max_tokens=1,
        )


def test_stream_helper_of_the_client_reads_chunks(serve_live: ServeLive) -> None:
    server = serve_live(ServedFake(['{"name": "Bern", "people": 134000}']))
    with client_of(server).chat.completions.stream(
        model="fake",
        messages=HI,  # type: ignore[arg-type]
        response_format=City,
    ) as stream:
        kinds = {event.type for event in stream}
        answer = stream.get_final_completion()
    assert {"content.delta", "content.done", "chunk"} <= kinds
    assert answer.choices[0].message.parsed == City(name="Bern", people=134000)
