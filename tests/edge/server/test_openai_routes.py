"""OpenAI's endpoints answer as its clients expect, and say what is wrong in its words."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from starlette.testclient import TestClient

from edge.checked import InvalidReplyError
from edge.errors import EdgeError, EngineBusyError
from edge.schema_validation import Violation
from edge.worker_connection import EngineDiedError
from tests.edge.fake_engine import FakeEngine
from tests.edge.server.conftest import ASK, Serve, ServedFake


def events_of(text: str) -> list[Any]:
    """The bodies of a stream of events, and the word at its end."""
    datas = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    return [json.loads(data) if data != "[DONE]" else data for data in datas]


def streamed(client: TestClient, path: str = "/v1/chat/completions", **body: Any) -> list[Any]:
    response = client.post(path, json={"stream": True, **body})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    return events_of(response.text)


def test_conversation_is_answered(serve: Serve) -> None:
    engine = ServedFake(["It is Paris."])
    response = serve(engine).post("/v1/chat/completions", json=ASK)
    assert response.status_code == 200
    body = response.json()
    assert body["id"].startswith("chatcmpl-")
    assert (body["object"], body["model"], body["system_fingerprint"]) == ("chat.completion", "fake", "fp_fake")
    assert body["choices"][0]["message"]["content"] == "It is Paris."
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == 3
    assert engine.prompt().endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_engine_whose_streams_have_to_be_waited_for_is_served_as_well(serve: Serve) -> None:
    body = serve(FakeEngine(["One two"])).post("/v1/chat/completions", json=ASK).json()
    assert body["choices"][0]["message"]["content"] == "One two"


def test_stream_begins_with_the_role_and_ends_with_the_reason(serve: Serve) -> None:
    first, *texts, last, done = streamed(serve(ServedFake(["It is Paris."])), **ASK)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [chunk["choices"][0]["delta"]["content"] for chunk in texts] == ["It ", "is ", "Paris."]
    assert {chunk["choices"][0]["finish_reason"] for chunk in texts} == {None}
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in (first, *texts, last)}) == 1
    assert "usage" not in last


def test_stream_counts_its_tokens_where_that_is_asked_for(serve: Serve) -> None:
    *chunks, last, _ = streamed(serve(ServedFake(["a b"])), stream_options={"include_usage": True}, **ASK)
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 2)


def test_text_that_json_has_to_escape_arrives_as_it_was(serve: Serve) -> None:
    text = 'a"b\\ \u2028é \U0001f600 </script>'
    chunks = streamed(serve(ServedFake([text])), **ASK)[1:-2]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == text


def test_choices_of_a_stream_are_told_apart_by_their_index(serve: Serve) -> None:
    chunks = streamed(serve(ServedFake(["a b", "c"])), n=2, **ASK)[:-1]
    texts = {0: "", 1: ""}
    for chunk in chunks:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == {0: "a b", 1: "c"}


def test_texts_are_continued_each_as_often_as_is_asked(serve: Serve) -> None:
    engine = ServedFake(["w", "x", "y", "z"])
    body = serve(engine).post("/v1/completions", json={"prompt": ["One", "Three"], "n": 2, "seed": 5}).json()
    assert body["object"] == "text_completion"
    assert [choice["text"] for choice in body["choices"]] == ["w", "x", "y", "z"]
    assert [engine.prompt(number) for number in range(4)] == ["One", "One", "Three", "Three"]
    assert body["usage"]["prompt_tokens"] == len("One") + len("Three")


def test_continued_text_is_streamed_without_a_role(serve: Serve) -> None:
    *chunks, last, done = streamed(serve(ServedFake(["a b"])), "/v1/completions", prompt="x")
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["a ", "b"]
    assert (last["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")


def test_settings_of_a_body_reach_the_engine(serve: Serve) -> None:
    engine = ServedFake()
    serve(engine).post("/v1/chat/completions", json={**ASK, "min_p": 0.2, "regex": "a+", "lora": [{"name": "x"}]})
    (request,) = engine.requests
    assert request.sampling.min_p == 0.2
    assert request.constraint and request.constraint.kind == "regex"
    assert request.adapters and request.adapters[0].name == "x"


def test_models_are_listed_and_told_one_by_one(serve: Serve) -> None:
    client = serve(ServedFake(), ServedFake(), names=("first", "org/second"))
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["first", "org/second"]
    assert client.get("/v1/models/org/second").json()["id"] == "org/second"
    assert client.get("/v1/models/third").status_code == 404


def test_model_tells_its_context_once_it_is_loaded(serve: Serve) -> None:
    client = serve(ServedFake(context_tokens=2048), ServedFake(), names=("first", "second"))
    client.post("/v1/chat/completions", json=ASK)
    assert client.get("/v1/models/first").json()["context_tokens"] == 2048
    assert client.get("/v1/models/second").json()["context_tokens"] is None


def test_model_is_chosen_by_its_name(serve: Serve) -> None:
    client = serve(ServedFake(["one"]), ServedFake(["two"]), names=("first", "second"))
    body = client.post("/v1/chat/completions", json={**ASK, "model": "second"}).json()
    assert (body["model"], body["choices"][0]["message"]["content"]) == ("second", "two")


def test_unknown_model_is_refused_with_those_that_there_are(serve: Serve) -> None:
    response = serve().post("/v1/chat/completions", json={**ASK, "model": "gpt-9"})
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["message"] == "There is no model 'gpt-9'. Here are: fake."
    assert (error["code"], error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (EngineBusyError("256 requests are waiting already.", hint="Wait."), 429, "queue_full"),
        (EngineDiedError("The engine's process was ended by SIGSEGV.", hint="Again."), 503, "engine_gone"),
        (EdgeError("max_tokens is 0.", hint="Ask for more."), 400, None),
        (
            InvalidReplyError("None was valid.", hint="Ask.", text="{}", violation=Violation("", "", "")),
            422,
            "invalid_reply",
        ),
    ],
)
def test_what_the_engine_refuses_is_a_status_of_its_own(
    serve: Serve, answer: EdgeError, status: int, code: str | None, is_streamed: bool
) -> None:
    response = serve(ServedFake([answer])).post("/v1/chat/completions", json={**ASK, "stream": is_streamed})
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.json()["error"]["message"] == f"{answer.message} {answer.hint}"
    assert ("retry-after" in response.headers) == (status in (429, 503))


def test_invalid_reply_comes_with_its_best_attempt(serve: Serve) -> None:
    error = InvalidReplyError("None was valid.", hint="Ask.", text='{"a": 1}', violation=Violation("", "", ""))
    response = serve(ServedFake([error])).post("/v1/chat/completions", json=ASK)
    assert response.json()["error"]["best_attempt"] == '{"a": 1}'


def test_prompt_that_is_too_long_is_refused_with_both_numbers(serve: Serve) -> None:
    response = serve(ServedFake(context_tokens=16)).post("/v1/chat/completions", json=ASK)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["message"] == (
        "The prompt has 21 tokens, the context holds 16. Shorten the prompt, or start the server with a longer "
        "context: --ctx."
    )
    assert error["code"] == "context_length_exceeded"


def test_wrong_field_is_named(serve: Serve) -> None:
    response = serve().post("/v1/chat/completions", json={**ASK, "temprature": 1})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["type"]) == (400, "temprature", "invalid_request_error")
    assert "Did you mean temperature?" in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"messages": NaN}', b"\xff", b'{"a": 1, "a": 2}', b"9" * 9999])
def test_body_that_is_no_json_object_is_refused(serve: Serve, body: bytes) -> None:
    response = serve().post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("GET", "/v1/completions", 405)])
def test_paths_that_are_not_there_are_said_in_the_same_form(serve: Serve, method: str, path: str, status: int) -> None:
    response = serve().request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["message"].endswith("The API is described at /openapi.json.")


def test_texts_become_vectors(serve: Serve) -> None:
    body = serve().post("/v1/embeddings", json={"input": ["abc", "defg"]}).json()
    assert [item["embedding"] for item in body["data"]] == [[0.6, 0.5], [0.8, 0.5]]
    assert body["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


def test_vectors_are_packed_where_a_client_asks_for_it(serve: Serve) -> None:
    body = serve().post("/v1/embeddings", json={"input": "abc", "encoding_format": "base64"}).json()
    packed = base64.b64decode(body["data"][0]["embedding"])
    assert struct.unpack("<2f", packed) == pytest.approx((0.6, 0.5))


def test_vectors_of_another_length_are_refused(serve: Serve) -> None:
    response = serve().post("/v1/embeddings", json={"input": "abc", "dimensions": 3})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "dimensions is 3; this model's vectors have 2. Leave it out."


def test_text_becomes_tokens_and_text_again(serve: Serve) -> None:
    client = serve()
    tokens = client.post("/tokenize", json={"content": "héllo"}).json()["tokens"]
    assert len(tokens) == 5
    assert client.post("/detokenize", json={"tokens": tokens}).json() == {"content": "héllo"}


def test_tokens_that_there_are_not_are_refused(serve: Serve) -> None:
    refused = serve().post("/detokenize", json={"tokens": [2**31 - 1]})
    assert (refused.status_code, refused.json()["error"]["message"]) == (
        400,
        "There is no token 2147483647. Give others.",
    )


def test_document_describes_every_endpoint(serve: Serve) -> None:
    paths = serve().get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/health", "/tokenize"} <= set(
        paths
    )
    schema = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"messages", "min_p", "response_format", "lora"} <= set(schema["properties"])
