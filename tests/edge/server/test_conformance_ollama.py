"""Ollama's own client against a live server: what it parses, and what it raises."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from ollama import Client, ResponseError
from pydantic import BaseModel

from edge.errors import EngineBusyError
from edge.server.background import BackgroundServer
from edge.tool_calls import call_text
from tests.edge.server.conftest import Serve, ServedFake, ServeLive, eventually

ASK: Any = [{"role": "user", "content": "How is the weather in Bern?"}]
BERN = call_text("weather", {"city": "Bern", "days": 2})
LAMP = call_text("lamp", {})


def weather(city: str, days: int) -> str:
    """Tell the weather.

    Args:
        city: Where.
        days: For how long.
    """
    return f"{city} {days}"


class City(BaseModel):
    name: str
    people: int


def client_of(server: BackgroundServer, **headers: str) -> Client:
    return Client(host=server.url, headers=headers)


# Chat


def test_answer_has_text_counts_and_durations(serve_live: ServeLive) -> None:
    engine = ServedFake(["It is sunny."])
    answer = client_of(serve_live(engine)).chat(model="fake", messages=ASK)
    assert answer.message.role == "assistant" and answer.message.content == "It is sunny."
    assert (answer.model, answer.done, answer.done_reason) == ("fake", True, "stop")
    assert answer.prompt_eval_count == len(engine.requests[0].prompt_tokens)
    assert answer.eval_count == 3
    assert (answer.prompt_eval_duration, answer.eval_duration) == (250_000_000, 500_000_000)
    assert answer.total_duration and answer.total_duration > 0
    assert answer.load_duration is not None and answer.created_at and answer.created_at.endswith("Z")


def test_stream_comes_in_lines_and_the_last_one_is_done(serve_live: ServeLive) -> None:
    chunks = list(client_of(serve_live(ServedFake(["It is sunny."]))).chat(model="fake", messages=ASK, stream=True))
    assert "".join(chunk.message.content or "" for chunk in chunks) == "It is sunny."
    assert [chunk.done for chunk in chunks] == [False, False, False, True]
    assert chunks[-1].eval_count == 3 and chunks[-1].done_reason == "stop"


def test_streaming_is_what_happens_without_being_told(serve: Serve) -> None:
    answer = serve(ServedFake(["one two"])).post("/api/chat", json={"model": "fake", "messages": ASK})
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["message"]["content"] for line in lines] == ["one ", "two", ""]


def test_options_reach_the_engine(serve_live: ServeLive) -> None:
    engine = ServedFake(["one two three"])
    options = {
        "temperature": 0.25,
        "top_k": 7,
        "top_p": 0.5,
        "min_p": 0.1,
        "seed": 5,
        "num_predict": 2,
        "num_ctx": 4096,
        "stop": ["x"],
        "repeat_penalty": 1.1,
        "repeat_last_n": 32,
        "num_thread": 4,
    }
    answer = client_of(serve_live(engine)).chat(model="fake", messages=ASK, options=options, keep_alive="5m")
    assert answer.done_reason == "length"
    (request,) = engine.requests
    sampling = request.sampling
    assert (request.max_tokens, request.stop) == (2, ("x",))
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.25, 7, 0.5, 0.1)
    assert (sampling.seed, sampling.repeat_penalty, sampling.repeat_last_tokens) == (5, 1.1, 32)


@pytest.mark.parametrize(("mirostat", "tau"), [(0, 0.0), (2, 5.0)])
def test_mirostat_is_switched_as_there(serve_live: ServeLive, mirostat: int, tau: float) -> None:
    engine = ServedFake()
    options = {"mirostat": mirostat, "mirostat_eta": 0.2}
    client_of(serve_live(engine)).chat(model="fake", messages=ASK, options=options)
    assert engine.requests[0].sampling.mirostat_tau == tau


def test_unlimited_prediction_is_as_much_as_there_is_room_for(serve_live: ServeLive) -> None:
    engine = ServedFake()
    client_of(serve_live(engine, max_answer_tokens=None)).chat(model="fake", messages=ASK, options={"num_predict": -1})
    assert engine.requests[0].max_tokens is None


def test_class_of_pydantic_is_filled(serve_live: ServeLive) -> None:
    engine = ServedFake(['{"name": "Bern", "people": 134000}'])
    answer = client_of(serve_live(engine)).chat(model="fake", messages=ASK, format=City.model_json_schema())
    assert City.model_validate_json(answer.message.content or "") == City(name="Bern", people=134000)
    constraint = engine.requests[0].constraint
    assert constraint and constraint.kind == "json_schema" and "people" in constraint.text


def test_logprobs_come_with_the_text(roomy_server: BackgroundServer) -> None:
    client = client_of(roomy_server)
    options = {"num_predict": 3, "seed": 1}
    answer = client.chat(model="llama3", messages=ASK, logprobs=True, top_logprobs=2, options=options)
    assert answer.logprobs and len(answer.logprobs) == answer.eval_count
    assert all(token.logprob <= 0 and token.top_logprobs and len(token.top_logprobs) == 2 for token in answer.logprobs)


def test_thinking_is_switched_through_the_template(serve_live: ServeLive) -> None:
    engine = ServedFake()
    template = "{{ '<|im_start|>' }}{% if enable_thinking is defined %}{{ enable_thinking }}{% endif %}"
    from edge.prompt import PromptTemplate

    engine.template = PromptTemplate(template, bos_text="", eos_text="", special_tokens=engine.vocab.special_tokens)
    client_of(serve_live(engine)).chat(model="fake", messages=ASK, think=False)
    assert engine.prompt().endswith("False")


# Tools


@pytest.mark.parametrize("is_streamed", [False, True])
def test_call_its_result_and_the_answer_make_a_round(serve_live: ServeLive, is_streamed: bool) -> None:
    engine = ServedFake([f"I look.\n{BERN}\n{BERN}", "Sunny."])
    client = client_of(serve_live(engine))
    told: Any = client.chat(model="fake", messages=ASK, tools=[weather], stream=is_streamed)
    chunks = list(told) if is_streamed else [told]
    assert "".join(chunk.message.content or "" for chunk in chunks) == "I look."
    calls = [call for chunk in chunks for call in chunk.message.tool_calls or ()]
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("weather", {"city": "Bern", "days": 2})
    ] * 2
    assert chunks[-1].done_reason == "stop"
    messages = [
        *ASK,
        {"role": "assistant", "content": "I look.", "tool_calls": calls},
        {"role": "tool", "tool_name": "weather", "content": weather(**calls[0].function.arguments)},
        {"role": "tool", "tool_name": "weather", "content": "rain"},
    ]
    second = client.chat(model="fake", messages=messages, tools=[weather])
    assert second.message.content == "Sunny." and not second.message.tool_calls
    assert f"{BERN}\n{BERN}" in engine.prompt()
    assert '{"name": "weather", "content": "Bern 2"}' in engine.prompt()
    assert '{"name": "weather", "content": "rain"}' in engine.prompt()


def test_results_find_their_calls_by_name(serve_live: ServeLive) -> None:
    engine = ServedFake()
    calls = [{"function": {"name": name, "arguments": {}}} for name in ("a", "b")]
    messages = [
        *ASK,
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_name": "b", "content": "of b"},
        {"role": "tool", "content": "of the other"},
        {"role": "tool", "content": "of nothing"},
    ]
    client_of(serve_live(engine)).chat(model="fake", messages=messages)
    assert '{"name": "b", "content": "of b"}' in engine.prompt()
    assert '{"name": "a", "content": "of the other"}' in engine.prompt()
    assert '{"content": "of nothing"}' in engine.prompt()


def test_random_weights_call_or_answer_but_never_wrongly(roomy_server: BackgroundServer) -> None:
    for seed in range(3):
        answer = client_of(roomy_server).chat(
            model="gemma2", messages=ASK, tools=[weather], options={"num_predict": 30, "seed": seed}
        )
        assert answer.message.content or answer.message.tool_calls


# Generate


def test_prompt_is_answered_with_its_system_text(serve_live: ServeLive) -> None:
    engine = ServedFake(["It is sunny."])
    answer = client_of(serve_live(engine)).generate(model="fake", prompt="Weather?", system="Be brief.")
    assert answer.response == "It is sunny." and answer.done_reason == "stop"
    assert engine.prompt() == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_raw_prompt_is_continued_as_it_is(serve_live: ServeLive) -> None:
    engine = ServedFake(["two three"])
    chunks = list(client_of(serve_live(engine)).generate(model="fake", prompt="one", raw=True, stream=True))
    assert "".join(chunk.response or "" for chunk in chunks) == "two three"
    assert engine.prompt() == "one"


def test_empty_prompt_only_loads_the_model(serve_live: ServeLive) -> None:
    engine = ServedFake()
    client = client_of(serve_live(engine))
    assert client.generate(model="fake").done_reason == "load"
    assert client.chat(model="fake").done_reason == "load"
    assert engine.requests == []


# Models


def test_models_are_listed_shown_and_told_to_be_loaded(roomy_server: BackgroundServer) -> None:
    client = client_of(roomy_server)
    listed = client.list().models
    assert [model.model for model in listed] == ["llama3", "gemma2"]
    assert listed[1].details and listed[1].details.family == "gemma2" and listed[1].details.format == "gguf"
    assert listed[0].size and listed[0].size > 100_000 and listed[0].modified_at
    shown = client.show("gemma2:latest")
    assert shown.modelinfo and shown.modelinfo["general.architecture"] == "gemma2"
    assert shown.modelinfo["tokenizer.ggml.tokens"] is None
    assert shown.template and shown.capabilities == ["completion", "tools"]
    client.generate(model="llama3")
    running = client.ps().models
    assert "llama3" in [model.model for model in running]
    assert running[0].context_length == 4096


def test_no_path_of_this_machine_is_told(roomy_server: BackgroundServer, roomy_models: dict[str, Any]) -> None:
    shown = client_of(roomy_server).show("llama3").model_dump_json()
    assert str(roomy_models["llama3"].parent) not in shown


def test_version_is_told(serve: Serve) -> None:
    from importlib.metadata import version

    assert serve().get("/api/version").json() == {"version": version("edge-llm")}


def test_tag_behind_a_name_is_left_out(serve_live: ServeLive) -> None:
    assert client_of(serve_live()).chat(model="fake:latest", messages=ASK).message.content == "ok"


# Errors


def test_unknown_model_is_a_response_error(serve_live: ServeLive) -> None:
    client = client_of(serve_live())
    for ask in (lambda: client.chat(model="x", messages=ASK), lambda: client.show("x")):
        with pytest.raises(ResponseError) as refused:
            ask()
        assert refused.value.status_code == 404
        assert refused.value.error == "There is no model 'x'. Here are: fake."


def test_full_queue_is_a_response_error(serve_live: ServeLive) -> None:
    server = serve_live(ServedFake([EngineBusyError("256 requests are waiting already.", hint="Wait.")]))
    with pytest.raises(ResponseError) as refused:
        client_of(server).chat(model="fake", messages=ASK)
    assert refused.value.status_code == 429


def test_missing_key_is_a_response_error_and_a_key_is_taken(serve_live: ServeLive) -> None:
    server = serve_live(ServedFake(), api_keys=("secret",))
    with pytest.raises(ResponseError) as refused:
        client_of(server).list()
    assert refused.value.status_code == 401
    assert client_of(server, authorization="Bearer secret").list().models


def test_engine_that_dies_in_the_middle_ends_a_stream_with_an_error(serve_live: ServeLive) -> None:
    engine = ServedFake(["one two three"], is_held=True)
    client = client_of(serve_live(engine))
    stepping = threading.Thread(target=lambda: (eventually(lambda: bool(engine.streams)), engine.step(1)))
    stepping.start()
    chunks = iter(client.chat(model="fake", messages=ASK, stream=True))
    assert next(chunks).message.content == "one "
    stepping.join()
    engine.fail("The engine's process was ended by SIGKILL.")
    with pytest.raises(ResponseError, match="ended by SIGKILL"):
        list(chunks)


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("chat", {"options": {"num_ctx": 8192}}, "options.num_ctx is 8192, the context holds 4096. A request cannot"),
        ("chat", {"options": {"temprature": 1}}, "Did you mean temperature?"),
        ("chat", {"options": {"temperature": -1}}, "temperature is -1"),
        ("chat", {"options": {"repeat_last_n": "x"}}, 'options.repeat_last_n is "x".'),
        ("chat", {"options": {"mirostat": 1}}, "options.mirostat is not supported."),
        ("chat", {"options": {"tfs_z": 0.5}}, "options.tfs_z is not supported."),
        ("chat", {"options": {"num_predict": 0}}, "options.num_predict is 0."),
        ("chat", {"options": {"stop": [""]}}, 'options.stop[0] is "".'),
        ("chat", {"format": "xml"}, 'format is "xml". It must be json or a JSON Schema.'),
        ("chat", {"think": "low"}, 'think is "low". It must be true or false.'),
        ("chat", {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "messages[0].images is not"),
        ("chat", {"messages": [{"role": "robot", "content": "x"}]}, 'messages[0].role is "robot".'),
        ("chat", {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ("generate", {"prompt": "x", "template": "{{ .Prompt }}"}, "none is taken from a request."),
        ("generate", {"prompt": "x", "suffix": "y"}, "suffix is not supported."),
        ("generate", {"prompt": "x", "context": [1, 2]}, "Send the conversation to /api/chat."),
        ("generate", {"prompt": 7}, "prompt is 7."),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_wrong_bodies_are_told_in_the_clients_form(
    serve: Serve, path: str, fields: dict[str, Any], message: str, is_streamed: bool
) -> None:
    body = {"model": "fake", "stream": is_streamed, **({"messages": ASK} if path == "chat" else {}), **fields}
    engine = ServedFake()
    answer = serve(engine).post(f"/api/{path}", json=body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"] and message in answer.json()["error"]


def test_page_of_a_stranger_may_not_use_it(serve: Serve) -> None:
    for path in ("chat", "generate", "show"):
        answer = serve().post(f"/api/{path}", json={"model": "fake"}, headers={"origin": "https://evil.example"})
        assert answer.status_code == 403 and "evil.example" in answer.json()["error"]
