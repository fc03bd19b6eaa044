"""A server over a real engine: what is busy is refused, what dies is replaced, what is left is freed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from edge.adapters import resolve_adapter
from edge.server.background import BackgroundServer
from edge.server.model_files import open_model, source_of
from edge.server.model_pool import ModelPool
from edge.server.server_settings import ServerSettings
from edge.settings import ModelSettings
from edge.worker import WorkerEngine
from tests.edge.server.conftest import ASK, eventually
from tests.tiny.adapters import write_tiny_adapter

LONG: dict[str, Any] = {**ASK, "max_tokens": 400, "ignore_eos": True, "stream": True}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server(tiny_gguf: Path) -> Iterator[BackgroundServer]:
    """One place, and no queue."""
    source = source_of("tiny", tiny_gguf, ModelSettings(threads=1, parallel=1, queue_limit=0))
    with BackgroundServer(ModelPool([source], open_model), ServerSettings(port=0)) as server:
        yield server


def worker_of(server: BackgroundServer) -> WorkerEngine:
    (model,) = server.app.state.answering.pool.loaded
    worker = model.engine._engine
    assert isinstance(worker, WorkerEngine)
    return worker


def is_idle(server: BackgroundServer) -> bool:
    return 'edge_sequences_busy{model="tiny"} 0.0' in httpx2.get(server.url + "/metrics").text


def test_full_queue_is_429_until_the_client_leaves(server: BackgroundServer) -> None:
    with httpx2.stream("POST", server.url + CHAT, json=LONG, timeout=60) as running:
        assert running.status_code == 200
        refused = httpx2.post(server.url + CHAT, json=ASK, timeout=60)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["message"].startswith("0 requests are waiting already, and no more than that")
    eventually(lambda: is_idle(server))
    assert httpx2.post(server.url + CHAT, json={**ASK, "max_tokens": 2}, timeout=60).status_code == 200


def test_engine_that_is_killed_ends_its_answer_and_the_next_one_works(server: BackgroundServer) -> None:
    eventually(lambda: is_idle(server))
    with httpx2.stream("POST", server.url + CHAT, json=LONG, timeout=60) as running:
        lines = running.iter_lines()
        next(lines)
        os.kill(worker_of(server).process_id, signal.SIGKILL)
        rest = list(lines)
    assert '"message":"The engine\'s process was ended by ' in "".join(rest)
    assert "[DONE]" not in rest[-1]
    again = httpx2.post(server.url + CHAT, json={**ASK, "max_tokens": 2}, timeout=60)
    if again.status_code == 503:  # what asked before the death was noticed
        again = httpx2.post(server.url + CHAT, json={**ASK, "max_tokens": 2}, timeout=60)
    assert again.status_code == 200


def test_constraint_that_explodes_is_a_bad_request(server: BackgroundServer) -> None:
    eventually(lambda: is_idle(server))
    response = httpx2.post(server.url + CHAT, json={**ASK, "regex": "(((a{1000}){1000}){1000})"}, timeout=60)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"logit_bias": {"999999999": 1}}, "logit_bias names token 999999999, and the vocabulary has "),
        ({"grammar": "start: A\nA: /a/ & /b/"}, "The constraint cannot be followed: nothing can come next."),
    ],
)
def test_what_the_engine_finds_wrong_with_a_request_it_has_begun_is_a_bad_request(
    server: BackgroundServer, asked: Any, message: str, is_streamed: bool
) -> None:
    eventually(lambda: is_idle(server))
    response = httpx2.post(server.url + CHAT, json={**ASK, **asked, "stream": is_streamed}, timeout=60)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    assert response.json()["error"]["message"].startswith(message)


def test_adapter_that_is_not_loaded_is_a_bad_request(server: BackgroundServer) -> None:
    eventually(lambda: is_idle(server))
    response = httpx2.post(server.url + CHAT, json={**ASK, "lora": [{"name": "../../etc/passwd"}]}, timeout=60)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("No adapter '../../etc/passwd' is loaded.")


def test_text_that_is_too_long_to_embed_is_a_bad_request(server: BackgroundServer) -> None:
    response = httpx2.post(server.url + "/v1/embeddings", json={"input": [[5] * 513]}, timeout=60)
    assert response.status_code == 400
    assert "The text has 513 tokens; 512 can be embedded as one." in response.json()["error"]["message"]


def test_schema_that_needs_a_check_is_checked(server: BackgroundServer) -> None:
    eventually(lambda: is_idle(server))
    schema = {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
    body = {**ASK, "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}, "seed": 1}
    response = httpx2.post(server.url + CHAT, json=body, timeout=60)
    answer = response.json()
    assert response.status_code in (200, 422), answer
    if response.status_code == 422:
        assert answer["error"]["code"] == "invalid_reply"
        assert answer["error"]["best_attempt"].startswith("[")
    else:
        assert answer["choices"][0]["message"]["content"].startswith("[")


def test_adapters_are_chosen_by_name_and_scale(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    adapter = resolve_adapter(str(write_tiny_adapter("llama3-attention", tmp_path)), tiny_gguf)
    settings = ModelSettings(threads=1, parallel=1, adapters=(adapter,))
    name = adapter.path.stem
    with BackgroundServer(ModelPool([source_of("tiny", tiny_gguf, settings)], open_model)) as server:

        def answer(**asked: Any) -> Any:
            body = {**ASK, "max_tokens": 8, "temperature": 0, "logprobs": True, "ignore_eos": True, **asked}
            response = httpx2.post(server.url + CHAT, json=body, timeout=60)
            assert response.status_code == 200, response.text
            return [token["logprob"] for token in response.json()["choices"][0]["logprobs"]["content"]]

        with_it, without, half = answer(), answer(lora=[]), answer(lora=[{"name": name, "scale": 0.5}])
        assert answer(lora=[{"name": name}]) == with_it
        assert with_it != without != half != with_it
