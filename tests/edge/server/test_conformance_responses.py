"""OpenAI's own client and the responses of a live server: what it parses, and what it raises."""

from __future__ import annotations

import json
import threading
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from edge.errors import EngineBusyError
from edge.server.background import BackgroundServer
from edge.tool_calls import call_text
from tests.edge.server.conftest import Serve, ServedFake, ServeLive, eventually

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Bern", "Basel"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
}
TOOLS: Any = [{"type": "function", "name": "weather", "description": "Tells it.", "parameters": SCHEMA}]
BERN = call_text("weather", {"city": "Bern", "days": 2})


class City(BaseModel):
    name: str
    people: int


def client_of(server: BackgroundServer, key: str = "none") -> OpenAI:
    return OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0)


def test_text_is_answered_with_its_instructions(serve_live: ServeLive) -> None:
    engine = ServedFake(["It is sunny."])
    answer = client_of(serve_live(engine)).responses.create(
        model="fake", input="Weather?", instructions="Be brief.", temperature=0.25, top_p=0.5, store=False
    )
    assert answer.output_text == "It is sunny."
    assert (answer.object, answer.status, answer.model, answer.error) == ("response", "completed", "fake", None)
    assert (answer.temperature, answer.top_p, answer.instructions) == (0.25, 0.5, "Be brief.")
    assert answer.store is False
    assert answer.usage and answer.usage.output_tokens == 3
    assert answer.usage.input_tokens == len(engine.requests[0].prompt_tokens)
    assert engine.prompt() == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_output_goes_back_in_as_input(serve_live: ServeLive) -> None:
    engine = ServedFake(["Sunny.", "Rain."])
    client = client_of(serve_live(engine))
    conversation: Any = [{"role": "user", "content": [{"type": "input_text", "text": "Today?"}]}]
    first = client.responses.create(model="fake", input=conversation)
    conversation += [item.model_dump(exclude_none=True) for item in first.output]
    conversation += [{"type": "message", "role": "user", "content": "Tomorrow?"}]
    assert client.responses.create(model="fake", input=conversation).output_text == "Rain."
    assert engine.prompt() == (
        "<|im_start|>user\nToday?<|im_end|>\n<|im_start|>assistant\nSunny.<|im_end|>\n"
        "<|im_start|>user\nTomorrow?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_answer_that_was_cut_off_is_incomplete(serve_live: ServeLive) -> None:
    answer = client_of(serve_live(ServedFake(["one two three"]))).responses.create(
        model="fake", input="x", max_output_tokens=2
    )
    assert answer.status == "incomplete"
    assert answer.incomplete_details and answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output_text == "one two "


def test_stream_has_the_events_in_their_order(serve_live: ServeLive) -> None:
    stream = client_of(serve_live(ServedFake(["It is sunny."]))).responses.create(
        model="fake", input="Weather?", stream=True
    )
    events: list[Any] = list(stream)
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(11))
    assert events[0].response.output == [] and events[0].response.status == "in_progress"
    assert events[2].item.content == []
    assert "".join(event.delta for event in events[4:7]) == events[7].text == "It is sunny."
    assert events[-1].response.output_text == "It is sunny."


def test_class_of_pydantic_is_filled(serve_live: ServeLive) -> None:
    engine = ServedFake(['{"name": "Bern", "people": 134000}'])
    answer = client_of(serve_live(engine)).responses.parse(model="fake", input="Which?", text_format=City)
    assert answer.output_parsed == City(name="Bern", people=134000)
    constraint = engine.requests[0].constraint
    assert constraint and constraint.kind == "json_schema" and "people" in constraint.text


def test_any_object_can_be_asked_for(serve_live: ServeLive) -> None:
    engine = ServedFake(["{}"])
    client_of(serve_live(engine)).responses.create(model="fake", input="x", text={"format": {"type": "json_object"}})
    constraint = engine.requests[0].constraint
    assert constraint and json.loads(constraint.text) == {"type": "object"}


def test_stream_helper_of_the_client_parses_what_was_streamed(serve_live: ServeLive) -> None:
    client = client_of(serve_live(ServedFake(['{"name": "Bern", "people": 134000}'])))
    with client.responses.stream(model="fake", input="Which?", text_format=City) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        answer = stream.get_final_response()
    assert json.loads(text)["people"] == 134000
    assert answer.output_parsed == City(name="Bern", people=134000)


# Tools


@pytest.mark.parametrize("is_streamed", [False, True])
def test_call_its_result_and_the_answer_make_a_round(serve_live: ServeLive, is_streamed: bool) -> None:
    engine = ServedFake([f"I look.\n{BERN}\n{BERN}", "Sunny."])
    client = client_of(serve_live(engine))
    conversation: Any = [{"role": "user", "content": "Weather?"}]
    first: Any = client.responses.create(model="fake", input=conversation, tools=TOOLS, stream=is_streamed)
    if is_streamed:
        events = list(first)
        first = events[-1].response
        deltas = [event for event in events if event.type == "response.function_call_arguments.delta"]
        done = [event for event in events if event.type == "response.function_call_arguments.done"]
        assert "".join(event.delta for event in deltas if event.output_index == 1) == done[0].arguments
    message, *calls = first.output
    assert (message.type, message.content[0].text) == ("message", "I look.")
    assert [(call.type, call.name, json.loads(call.arguments)) for call in calls] == [
        ("function_call", "weather", {"city": "Bern", "days": 2})
    ] * 2
    assert calls[0].call_id != calls[1].call_id
    conversation += [item.model_dump(exclude_none=True) for item in first.output]
    conversation += [{"type": "function_call_output", "call_id": call.call_id, "output": "sun"} for call in calls]
    second = client.responses.create(model="fake", input=conversation, tools=TOOLS)
    assert second.output_text == "Sunny."
    assert f"I look.\n{BERN}\n{BERN}<|im_end|>" in engine.prompt()
    assert engine.prompt().count('{"name": "weather", "content": "sun"}') == 2


def test_call_without_a_message_can_be_sent_back(serve_live: ServeLive) -> None:
    engine = ServedFake()
    call = {"type": "function_call", "call_id": "1", "name": "weather", "arguments": '{"city": "Bern"}'}
    result = {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "sun"}]}
    conversation: Any = [{"role": "user", "content": "Weather?"}, call, result]
    client_of(serve_live(engine)).responses.create(model="fake", input=conversation)
    assert '<|im_start|>assistant\n<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}' in engine.prompt()


def test_random_weights_call_as_the_schema_says(roomy_server: BackgroundServer) -> None:
    answer: Any = client_of(roomy_server).responses.create(
        model="gemma2",
        input="Weather?",
        tools=TOOLS,
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        max_output_tokens=200,
        extra_body={"seed": 4},
    )
    (call,) = answer.output
    arguments = json.loads(call.arguments)
    assert arguments["city"] in ("Bern", "Basel") and 1 <= arguments["days"] <= 9


def test_logprobs_are_told_with_the_text(roomy_server: BackgroundServer) -> None:
    answer: Any = client_of(roomy_server).responses.create(
        model="llama3",
        input="x",
        max_output_tokens=3,
        top_logprobs=2,
        include=["message.output_text.logprobs"],
        extra_body={"seed": 1},
    )
    logprobs = answer.output[0].content[0].logprobs
    assert len(logprobs) == answer.usage.output_tokens
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in logprobs)


# Errors


def test_wrong_key_unknown_model_and_full_queue_are_the_clients_errors(serve_live: ServeLive) -> None:
    busy = ServedFake([EngineBusyError("256 requests are waiting already.", hint="Wait.")])
    server = serve_live(busy, api_keys=("secret",))
    with pytest.raises(openai.AuthenticationError):
        client_of(server, "wrong").responses.create(model="fake", input="x")
    with pytest.raises(openai.NotFoundError):
        client_of(server, "secret").responses.create(model="gpt-9", input="x")
    with pytest.raises(openai.RateLimitError):
        client_of(server, "secret").responses.create(model="fake", input="x")


def test_engine_that_dies_in_the_middle_ends_a_stream_with_an_error(serve_live: ServeLive) -> None:
    engine = ServedFake(["one two three"], is_held=True)
    client = client_of(serve_live(engine))
    stepping = threading.Thread(target=lambda: (eventually(lambda: bool(engine.streams)), engine.step(1)))
    stepping.start()
    events = iter(client.responses.create(model="fake", input="x", stream=True))
    assert next(events).type == "response.created"
    stepping.join()
    engine.fail("The engine's process was ended by SIGKILL.")
    with pytest.raises(openai.APIError, match="ended by SIGKILL"):
        list(events)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "Responses are not stored: send the whole"),
        ({"conversation": "c"}, "conversation", "Conversations are not stored"),
        ({"store": True}, "store", "Nothing is stored: set it to false."),
        ({"background": True}, "background", "wait for them, or stream them."),
        ({"truncation": "auto"}, "truncation", "shorten it yourself."),
        ({"reasoning": {"effort": "low"}}, "reasoning", "chat_template_kwargs"),
        ({"include": ["file_search_call.results"]}, "include[0]", "There is only message.output_text.logprobs."),
        ({"temprature": 1}, "temprature", "Did you mean temperature?"),
        ({"input": None}, "input", "input is missing."),
        ({"input": []}, "input", "input is empty."),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "Read here are message,"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", 'input[0].role is "robot".'),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]", "Only text is"),
        (
            {"input": [{"type": "function_call_output", "call_id": "9", "output": "x"}]},
            "input[0].call_id",
            "which no call before it has. Nothing is stored: send the function_call too.",
        ),
        (
            {"input": [{"type": "function_call", "call_id": "9", "name": "f", "arguments": "[]"}]},
            "input[0].arguments",
            "It must be the text of a JSON object.",
        ),
        (
            {"input": [{"type": "function_call", "call_id": "9", "name": "f", "arguments": "{"}]},
            "input[0].arguments",
            "is not valid JSON",
        ),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema", "text.format.schema is missing."),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "text.verbosity is not known."),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "Only functions can be called."),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "letters, digits"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "There are: weather."),
        ({"tools": TOOLS, "tool_choice": {"type": "mcp"}}, "tool_choice.type", "It must be none, auto, required or"),
        ({"tool_choice": "required"}, "tool_choice", "without tools"),
        ({"tools": TOOLS, "top_logprobs": 2}, "logprobs", "logprobs and tools exclude each other."),
    ],
)
def test_wrong_bodies_are_told_with_their_path(serve: Serve, fields: dict[str, Any], param: str, message: str) -> None:
    answer = serve().post("/v1/responses", json={"input": "x", **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert message in answer.json()["error"]["message"]


def test_too_many_items_are_refused(serve: Serve) -> None:
    items = [{"role": "user", "content": "x"}] * 4
    answer = serve(max_messages=3).post("/v1/responses", json={"input": items})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "input"


def test_page_of_a_stranger_may_not_use_it(serve: Serve) -> None:
    answer = serve().post("/v1/responses", json={"input": "x"}, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
