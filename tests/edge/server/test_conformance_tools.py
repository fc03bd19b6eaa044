"""Functions and calls through OpenAI's own client, with a fake engine and with a real, tiny model."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from edge.server.background import BackgroundServer
from edge.tool_calls import call_text
from tests.edge.server.conftest import ServedFake, ServeLive

ASK: Any = [{"role": "user", "content": "How is the weather in Bern?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Bern", "Basel"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "units": {"type": "array", "items": {"enum": ["C", "F"]}, "maxItems": 2},
    },
    "required": ["city", "days"],
}
OTHER = {"type": "object", "properties": {"is_on": {"type": "boolean"}}, "required": ["is_on"]}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "lamp", "parameters": OTHER}},
]
BERN = call_text("weather", {"city": "Bern", "days": 2})
LAMP = call_text("lamp", {"is_on": True})


def client_of(server: BackgroundServer) -> OpenAI:
    return OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def test_call_its_result_and_the_answer_make_a_round(serve_live: ServeLive) -> None:
    engine = ServedFake([f"I look.\n{BERN}\n{LAMP}", "Sunny."])
    client = client_of(serve_live(engine))
    first = client.chat.completions.create(model="fake", messages=ASK, tools=TOOLS)
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look."
    calls: Any = choice.message.tool_calls
    assert [(call.type, call.function.name) for call in calls] == [("function", "weather"), ("function", "lamp")]
    assert json.loads(calls[0].function.arguments) == {"city": "Bern", "days": 2}
    results: Any = [{"role": "tool", "tool_call_id": call.id, "content": f"of {call.function.name}"} for call in calls]
    second = client.chat.completions.create(model="fake", messages=[*ASK, choice.message, *results], tools=TOOLS)
    assert second.choices[0].message.content == "Sunny."
    assert second.choices[0].message.tool_calls is None
    assert second.choices[0].finish_reason == "stop"
    assert BERN in engine.prompt() and '{"name": "lamp", "content": "of lamp"}' in engine.prompt()


def test_call_without_text_has_no_content(serve_live: ServeLive) -> None:
    client = client_of(serve_live(ServedFake([BERN])))
    message = client.chat.completions.create(model="fake", messages=ASK, tools=TOOLS).choices[0].message
    assert message.content is None and message.tool_calls


def test_calls_are_streamed_in_pieces(serve_live: ServeLive) -> None:
    client = client_of(serve_live(ServedFake([f"I look.\n{BERN}\n{LAMP}"])))
    chunks = list(
        client.chat.completions.create(
            model="fake", messages=ASK, tools=TOOLS, stream=True, stream_options={"include_usage": True}
        )
    )
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == "I look."
    pieces = [call for delta in deltas for call in delta.tool_calls or ()]
    begins = [piece for piece in pieces if piece.id]
    assert [(piece.index, piece.type, piece.function and piece.function.name) for piece in begins] == [
        (0, "function", "weather"),
        (1, "function", "lamp"),
    ]
    arguments = ["".join(p.function.arguments or "" for p in pieces if p.index == i and p.function) for i in (0, 1)]
    assert [json.loads(text) for text in arguments] == [{"city": "Bern", "days": 2}, {"is_on": True}]
    assert len([piece for piece in pieces if piece.index == 0]) > 2
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "tool_calls"
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens > 10


def test_stream_helper_of_the_client_collects_calls(serve_live: ServeLive) -> None:
    client = client_of(serve_live(ServedFake([BERN])))
    with client.chat.completions.stream(model="fake", messages=ASK, tools=TOOLS) as stream:
        kinds = {event.type for event in stream}
        answer = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    calls: Any = answer.choices[0].message.tool_calls
    assert calls[0].function.name == "weather"


def test_pydantic_function_of_the_client_is_parsed(serve_live: ServeLive) -> None:
    class Weather(BaseModel):
        city: str
        days: int

    tool: Any = openai.pydantic_function_tool(Weather, name="weather")
    client = client_of(serve_live(ServedFake([BERN])))
    answer = client.chat.completions.parse(model="fake", messages=ASK, tools=[tool])
    calls: Any = answer.choices[0].message.tool_calls
    assert calls[0].function.parsed_arguments == Weather(city="Bern", days=2)


def test_call_that_was_cut_off_ends_for_length(serve_live: ServeLive) -> None:
    client = client_of(serve_live(ServedFake([BERN])))
    answer = client.chat.completions.create(model="fake", messages=ASK, tools=TOOLS, max_tokens=6)
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "logprobs": True}, "logprobs"),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_wrong_tools_are_a_bad_request_error(
    serve_live: ServeLive, fields: dict[str, Any], param: str, is_streamed: bool
) -> None:
    client = client_of(serve_live())
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="fake", messages=ASK, stream=is_streamed, **fields)
    assert refused.value.param == param


# With the model


def is_valid(call: Any) -> bool:
    arguments = json.loads(call.function.arguments)
    if call.function.name == "lamp":
        return set(arguments) == {"is_on"} and isinstance(arguments["is_on"], bool)
    return (
        arguments["city"] in ("Bern", "Basel")
        and 1 <= arguments["days"] <= 9
        and set(arguments.get("units", [])) <= {"C", "F"}
        and set(arguments) <= {"city", "days", "units"}
    )


@pytest.mark.parametrize("model", ["llama3", "gemma2"])
@pytest.mark.parametrize("seed", range(3))
def test_random_weights_call_as_the_schemas_say(roomy_server: BackgroundServer, model: str, seed: int) -> None:
    answer = client_of(roomy_server).chat.completions.create(
        model=model, messages=ASK, tools=TOOLS, tool_choice="required", seed=seed, temperature=1, max_tokens=400
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls and all(map(is_valid, choice.message.tool_calls))


def test_random_weights_call_the_named_function_once(roomy_server: BackgroundServer) -> None:
    stream = client_of(roomy_server).chat.completions.create(
        model="llama3",
        messages=ASK,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "lamp"}},
        parallel_tool_calls=False,
        seed=1,
        max_tokens=200,
        stream=True,
    )
    pieces = [call for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()]
    assert [piece.function.name for piece in pieces if piece.function and piece.id] == ["lamp"]
    text = "".join(piece.function.arguments or "" for piece in pieces if piece.function)
    assert isinstance(json.loads(text)["is_on"], bool)


def test_random_weights_may_answer_in_text(roomy_server: BackgroundServer) -> None:
    answer = client_of(roomy_server).chat.completions.create(
        model="llama3", messages=ASK, tools=TOOLS, seed=1, max_tokens=20
    )
    message = answer.choices[0].message
    assert message.content and not message.tool_calls


@pytest.mark.parametrize("model", ["llama3", "gemma2"])
def test_random_weights_answer_after_a_result(roomy_server: BackgroundServer, model: str) -> None:
    first = client_of(roomy_server).chat.completions.create(
        model=model, messages=ASK, tools=TOOLS, tool_choice="required", seed=1, max_tokens=400
    )
    message = first.choices[0].message
    results: Any = [{"role": "tool", "tool_call_id": c.id, "content": "sunny"} for c in message.tool_calls or ()]
    second = client_of(roomy_server).chat.completions.create(
        model=model, messages=[*ASK, message, *results], tools=TOOLS, tool_choice="none", seed=1, max_tokens=10
    )
    assert second.choices[0].message.tool_calls is None and second.choices[0].message.content
