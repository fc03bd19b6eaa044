"""Sessions: what a name stands for, for whom, for how long, and that it is no path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx2
import pytest

from edge import EdgeError, ModelSettings, Server, ServerSettings
from edge.server.sessions import SessionKey, Sessions
from tests.edge.server.conftest import ASK, Serve, ServedFake

CHAT = "/v1/chat/completions"
IN_TRIP = {**ASK, "session": "trip"}


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(("path", "asked"), [(CHAT, ASK), ("/v1/responses", {"input": "Hi"})])
def test_session_is_gone_on_with_after_a_restart(
    serve: Serve, tmp_path: Path, path: str, asked: dict[str, Any], is_streamed: bool
) -> None:
    folder = tmp_path / "kept"
    body = {**asked, "session": "trip", "stream": is_streamed}
    first, second = ServedFake(["one"]), ServedFake(["two"])
    assert serve(first, sessions_folder=folder).post(path, json=body).status_code == 200
    (file,) = folder.iterdir()
    assert (file.suffix, len(file.stem)) == (".prefix", 64)
    assert (file.stat().st_mode | folder.stat().st_mode) & 0o077 == 0
    assert serve(second, sessions_folder=folder).post(path, json=body).status_code == 200
    prompt = first.requests[0].prompt_tokens
    assert second.loaded_tokens[: len(prompt)] == prompt
    assert len(second.loaded_tokens) > len(prompt)


@pytest.mark.parametrize(("path", "asked"), [(CHAT, ASK), ("/v1/responses", {"input": "Hi"})])
def test_name_under_another_key_is_another_session(
    serve: Serve, tmp_path: Path, path: str, asked: dict[str, Any]
) -> None:
    body = {**asked, "session": "trip"}
    engine = ServedFake(["one", "two", "three"])
    client = serve(engine, sessions_folder=tmp_path, api_keys=("a", "b"))
    for key in ("a", "b"):
        client.post(path, json=body, headers={"Authorization": f"Bearer {key}"})
    assert len(list(tmp_path.iterdir())) == 2
    assert engine.loaded_tokens == ()  # b was given nothing of a's
    client.post(path, json=body, headers={"Authorization": "Bearer a"})
    assert len(list(tmp_path.iterdir())) == 2
    assert engine.loaded_tokens != ()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a" * 65, "a\0b", "a\n", "C:\\x"])
def test_what_is_no_name_is_refused(serve: Serve, tmp_path: Path, name: str) -> None:
    response = serve(sessions_folder=tmp_path).post(CHAT, json={**ASK, "session": name})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "session"
    assert "It must be a name of up to 64 letters" in response.json()["error"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_sessions_beyond_the_limit_drive_the_oldest_out(tmp_path: Path) -> None:
    (tmp_path / "mine.prefix").write_bytes(b"not a session")
    engine: Any = ServedFake()
    sessions = Sessions(tmp_path, most=2, most_bytes=1 << 20)
    keys = [SessionKey("", "fake", name) for name in ("one", "two", "three")]
    for number, key in enumerate(keys, start=5):
        sessions.keep(key, (number,), engine)
    assert [sessions.resume(key, engine) for key in keys] == [(), (6,), (7,)]
    assert len(list(tmp_path.iterdir())) == 3
    Sessions(tmp_path, most=2, most_bytes=0).keep(keys[0], (5,), engine)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.prefix"]


def test_as_many_sessions_are_kept_as_is_the_default(serve: Serve, tmp_path: Path) -> None:
    engine = ServedFake(["one"] * 66)
    client = serve(engine, sessions_folder=tmp_path)
    names = [f"s{number}" for number in range(65)]
    for name in names[:64]:
        client.post(CHAT, json={**ASK, "session": name})
    first = tmp_path / SessionKey("", "fake", names[0]).file_name
    assert len(list(tmp_path.iterdir())) == ServerSettings().max_sessions == 64
    assert first.exists()
    client.post(CHAT, json={**ASK, "session": names[64]})
    assert len(list(tmp_path.iterdir())) == 64
    assert not first.exists()
    client.post(CHAT, json={**ASK, "session": names[0]})
    assert engine.loaded_tokens == ()  # it has begun anew


@pytest.mark.parametrize("is_full", [False, True])
def test_as_many_bytes_of_sessions_are_kept_as_is_the_default(serve: Serve, tmp_path: Path, is_full: bool) -> None:
    client = serve(ServedFake(["one", "two"]), sessions_folder=tmp_path)
    client.post(CHAT, json=IN_TRIP)
    (new,) = tmp_path.iterdir()
    old = tmp_path / f"{'0' * 64}.prefix"
    with old.open("wb") as file:
        file.truncate((4 << 30) - new.stat().st_size + is_full)  # without taking as much of the disk
    os.utime(old, (0, 0))
    assert ServerSettings().max_session_bytes == 4 << 30
    client.post(CHAT, json=IN_TRIP)
    assert new.exists()
    assert old.exists() is not is_full


@pytest.mark.parametrize(("name", "value", "least"), [("max_sessions", 0, 1), ("max_session_bytes", -1, 0)])
def test_limits_that_make_no_sense_are_refused(name: str, value: int, least: int) -> None:
    with pytest.raises(EdgeError, match=rf"{name} is {value}\.\n{name} must be at least {least}\."):
        ServerSettings(**{name: value})  # type: ignore[arg-type]


def test_damaged_file_of_a_session_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = SessionKey("", "fake", "one")
    (tmp_path / key.file_name).write_bytes(b"damaged")
    engine: Any = ServedFake()
    assert Sessions(tmp_path, most=2, most_bytes=9).resume(key, engine) == ()
    assert "A session is not resumed: " in caplog.text


def usage_of(server: Server, session: str, messages: list[dict[str, str]]) -> tuple[dict[str, str], int, int]:
    """The answer, the tokens of its prompt, and how many of these were not computed anew."""
    body = {"messages": messages, "session": session, "max_tokens": 12, "temperature": 0}
    headers = {"Authorization": f"Bearer {server.key}"}
    response = httpx2.post(server.url + CHAT, json=body, headers=headers, timeout=120)
    assert response.status_code == 200, response.text
    usage = response.json()["usage"]
    message = response.json()["choices"][0]["message"]
    answer = {"role": "assistant", "content": message["content"]}
    return answer, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.model
def test_after_a_restart_only_what_is_new_is_computed(demo_gguf: Path, tmp_path: Path) -> None:
    settings = ModelSettings(threads=1, context_tokens=1024)
    server_settings = ServerSettings(port=0, api_keys=("k",), sessions_folder=tmp_path)
    story = [{"role": "user", "content": "The bees left the hive at noon. " * 20 + "When did they leave?"}]
    with Server(demo_gguf, settings, server_settings) as server:
        answer, first_prompt, cached = usage_of(server, "bees", story)
        assert cached == 0
    story += [answer, {"role": "user", "content": "Who?"}]
    with Server(demo_gguf, settings, server_settings) as server:
        _, prompt, cached = usage_of(server, "bees", story)
        question = [{"role": "user", "content": "Who?"}]
        _, new_tokens, _ = usage_of(server, "other", question)
    assert cached > first_prompt  # of the answer too
    assert prompt - cached <= new_tokens


@pytest.mark.parametrize("is_kept", [False, True])
def test_session_whose_place_in_the_engine_others_took_is_taken_in_from_its_file(
    roomy_models: dict[str, Path], tmp_path: Path, is_kept: bool
) -> None:
    settings = ModelSettings(threads=1, parallel=1, context_tokens=4096)
    server_settings = ServerSettings(port=0, sessions_folder=tmp_path if is_kept else None)
    story = [{"role": "user", "content": "Bees? " * 20}]
    with Server(roomy_models["llama3"], settings, server_settings) as server:
        answer, first_prompt, _ = usage_of(server, "one", story)
        usage_of(server, "two", [{"role": "user", "content": "Wasps! " * 20}])
        story += [answer, {"role": "user", "content": "Who?"}]
        _, _, cached = usage_of(server, "one", story)
    assert (cached >= first_prompt) is is_kept
