"""Anthropic's own client against a live server: what it parses, and what it raises."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from pydantic import BaseModel

from edge.errors import EngineBusyError
from edge.server.background import BackgroundServer
from edge.tool_calls import call_text
from edge.worker_connection import EngineDiedError
from tests.edge.server.conftest import Serve, ServedFake, ServeLive, eventually

ASK: Any = [{"role": "user", "content": "How is the weather in Bern?"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Bern", "Basel"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
}
TOOLS: Any = [{"name": "weather", "description": "Tells it.", "input_schema": SCHEMA}]
BERN = call_text("weather", {"city": "Bern", "days": 2})


def client_of(server: BackgroundServer, key: str = "none") -> Anthropic:
    return Anthropic(base_url=server.url, api_key=key, max_retries=0)


def create(client: Anthropic, **fields: Any) -> Any:
    return client.messages.create(**{"model": "fake", "max_tokens": 100, "messages": ASK, **fields})


def test_answer_has_text_usage_and_its_end(serve_live: ServeLive) -> None:
    engine = ServedFake(["It is sunny."])
    answer = create(client_of(serve_live(engine)), system="Be brief.")
    assert [(block.type, block.text) for block in answer.content] == [("text", "It is sunny.")]
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "fake")
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert answer.usage.input_tokens == len(engine.requests[0].prompt_tokens)
    assert answer.usage.output_tokens == 3
    assert engine.prompt().startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHow is")


def test_limits_and_settings_reach_the_engine(serve_live: ServeLive) -> None:
    engine = ServedFake(["one two three"])
    answer = create(
        client_of(serve_live(engine)),
        max_tokens=2,
        stop_sequences=["x", "y"],
        metadata={"user_id": "someone"},
        system=[{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}],
        extra_body={"temperature": 0.25, "top_p": 0.5, "top_k": 7},
    )
    assert answer.stop_reason == "max_tokens"
    (request,) = engine.requests
    assert (request.max_tokens, request.stop, request.client) == (2, ("x", "y"), "someone")
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.top_k) == (0.25, 0.5, 7)
    assert "system\na\nb<|im_end|>" in engine.prompt()


def test_stream_has_the_events_in_their_order(serve_live: ServeLive) -> None:
    events = list(create(client_of(serve_live(ServedFake(["It is sunny."]))), stream=True))
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0].message.usage.input_tokens > 0
    assert "".join(event.delta.text for event in events[2:5]) == "It is sunny."
    assert events[-2].delta.stop_reason == "end_turn"
    assert events[-2].usage.output_tokens == 3


def test_stream_helper_of_the_client_collects_text_and_calls(serve_live: ServeLive) -> None:
    client = client_of(serve_live(ServedFake([f"I look.\n{BERN}\n{BERN}"])))
    with client.messages.stream(model="fake", max_tokens=100, messages=ASK, tools=TOOLS) as stream:
        text = "".join(stream.text_stream)
        message: Any = stream.get_final_message()
    assert text == "I look."
    assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
    assert [block.input for block in message.content[1:]] == [{"city": "Bern", "days": 2}] * 2
    assert message.content[1].id != message.content[2].id
    assert message.stop_reason == "tool_use"


def test_call_its_result_and_the_answer_make_a_round(serve_live: ServeLive) -> None:
    engine = ServedFake([f"I look.\n{BERN}", "Sunny."])
    client = client_of(serve_live(engine))
    first = create(client, tools=TOOLS)
    assert first.stop_reason == "tool_use"
    text, call = first.content
    assert (text.text, call.name, call.input) == ("I look.", "weather", {"city": "Bern", "days": 2})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "sun"}]}
    question = {"type": "text", "text": "And?"}
    messages = [
        *ASK,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result, question]},
    ]
    second = create(client, messages=messages, tools=TOOLS)
    assert second.content[0].text == "Sunny."
    assert BERN in engine.prompt()
    assert '{"name": "weather", "content": "sun"}\n</tool_response>' in engine.prompt()
    assert "<|im_start|>user\nAnd?<|im_end|>" in engine.prompt()


def test_result_that_is_an_error_says_so(serve_live: ServeLive) -> None:
    engine = ServedFake()
    call = {"type": "tool_use", "id": "1", "name": "weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": "no network", "is_error": True}
    messages = [*ASK, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    create(client_of(serve_live(engine)), messages=messages)
    assert '"content": "Error: no network"' in engine.prompt()


def test_class_of_pydantic_is_filled(serve_live: ServeLive) -> None:
    class City(BaseModel):
        name: str
        people: int

    engine = ServedFake(['{"name": "Bern", "people": 134000}'])
    answer = client_of(serve_live(engine)).messages.parse(
        model="fake", max_tokens=100, messages=ASK, output_format=City
    )
    assert answer.parsed_output == City(name="Bern", people=134000)
    constraint = engine.requests[0].constraint
    assert constraint and constraint.kind == "json_schema" and "people" in constraint.text


def test_tokens_of_a_prompt_are_counted(serve_live: ServeLive) -> None:
    engine = ServedFake()
    client = client_of(serve_live(engine))
    count = client.messages.count_tokens(model="fake", messages=ASK).input_tokens
    assert count == create(client).usage.input_tokens
    assert client.messages.count_tokens(model="fake", messages=ASK, tools=TOOLS).input_tokens > count


# Errors


def test_wrong_key_is_an_authentication_error(serve_live: ServeLive) -> None:
    server = serve_live(ServedFake(), api_keys=("secret",))
    with pytest.raises(anthropic.AuthenticationError) as refused:
        create(client_of(server, "wrong"))
    assert refused.value.body == {
        "type": "error",
        "error": {
            "type": "authentication_error",
            "message": "The API key is wrong. Send it as Authorization: Bearer KEY.",
        },
    }
    assert create(client_of(server, "secret")).content[0].text == "ok"


def test_unknown_model_is_a_not_found_error(serve_live: ServeLive) -> None:
    with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
        create(client_of(serve_live()), model="claude")


def test_full_queue_is_a_rate_limit_error(serve_live: ServeLive) -> None:
    server = serve_live(ServedFake([EngineBusyError("256 requests are waiting already.", hint="Wait.")]))
    with pytest.raises(anthropic.RateLimitError) as refused:
        create(client_of(server))
    assert refused.value.response.headers["retry-after"] == "1"


@pytest.mark.parametrize("is_streamed", [False, True])
def test_engine_that_died_is_an_error_of_the_server(serve_live: ServeLive, is_streamed: bool) -> None:
    server = serve_live(ServedFake([EngineDiedError("The engine's process was ended.", hint="Again.")]))
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        create(client_of(server), stream=is_streamed)


def test_engine_that_dies_in_the_middle_ends_a_stream_with_an_error(serve_live: ServeLive) -> None:
    engine = ServedFake(["one two three"], is_held=True)
    stream = None
    client = client_of(serve_live(engine))
    import threading

    stepping = threading.Thread(target=lambda: (eventually(lambda: bool(engine.streams)), engine.step(1)))
    stepping.start()
    stream = create(client, stream=True)
    stepping.join()
    events = iter(stream)
    assert next(events).type == "message_start"
    engine.fail("The engine's process was ended by SIGKILL.")
    with pytest.raises(anthropic.APIStatusError, match="ended by SIGKILL"):
        list(events)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": None}, "max_tokens is missing."),
        ({"max_tokens": 0}, "max_tokens is 0."),
        ({"temprature": 1}, "Did you mean temperature?"),
        ({"messages": []}, "messages is empty."),
        ({"messages": [{"role": "system", "content": "x"}]}, 'messages[0].role is "system".'),
        ({"messages": [*ASK, {"role": "assistant", "content": "It"}]}, "The last message is the assistant's."),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 'messages[0].content[0].type is "image".'),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text is missing."),
        ({"system": [{"type": "image"}]}, 'system[0].type is "image". Only text is read.'),
        ({"stop_sequences": [""]}, "stop_sequences[0] is empty."),
        ({"thinking": {"type": "enabled"}}, "thinking is not supported."),
        ({"container": "x"}, "container is not supported."),
        ({"output_config": {"effort": "low"}}, "output_config.effort is not supported."),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, 'tools[0].type is "bash_20250124".'),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema is missing."),
        ({"tools": [{**TOOLS[0], "input_schema": {"type": "array"}}]}, "tools[0].input_schema.type is"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "x"}}, "There are: weather."),
        ({"tool_choice": {"type": "any"}}, "tool_choice is given without tools."),
    ],
)
def test_wrong_bodies_are_told_in_the_clients_form(serve: Serve, fields: dict[str, Any], message: str) -> None:
    body = {"max_tokens": 10, "messages": ASK, **fields}
    answer = serve().post("/v1/messages", json=body)
    assert answer.status_code == 400
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert message in answer.json()["error"]["message"]


def test_page_of_a_stranger_may_not_use_it(serve: Serve) -> None:
    body = {"max_tokens": 10, "messages": ASK}
    answer = serve().post("/v1/messages", json=body, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "permission_error"


# With the model


@pytest.mark.parametrize("kind", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_random_weights_call_as_the_schema_says(roomy_server: BackgroundServer, kind: Any) -> None:
    answer = create(
        client_of(roomy_server),
        model="gemma2",
        tools=TOOLS,
        tool_choice={**kind, "disable_parallel_tool_use": True},
        max_tokens=200,
        extra_body={"seed": 3},
    )
    (call,) = answer.content
    assert answer.stop_reason == "tool_use"
    assert call.input["city"] in ("Bern", "Basel") and 1 <= call.input["days"] <= 9


def test_stop_sequence_that_ended_the_answer_is_told(roomy_server: BackgroundServer) -> None:
    client = client_of(roomy_server)
    free = create(client, model="llama3", max_tokens=20, extra_body={"temperature": 0})
    text = free.content[0].text
    stop = text[len(text) // 2 :][:3]
    for is_streamed in (False, True):
        stopped = create(
            client,
            model="llama3",
            max_tokens=20,
            stop_sequences=["never there", stop],
            stream=is_streamed,
            extra_body={"temperature": 0},
        )
        end = next(event.delta for event in stopped if event.type == "message_delta") if is_streamed else stopped
        assert (end.stop_reason, end.stop_sequence) == ("stop_sequence", stop)
