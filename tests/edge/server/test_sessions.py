"""Sessions: what a name stands for, for whom, for how long, and that it is no path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge.server.sessions import SessionKey, Sessions
from tests.edge.server.conftest import ASK, Serve, ServedFake

CHAT = "/v1/chat/completions"
IN_TRIP = {**ASK, "session": "trip"}


@pytest.mark.parametrize("is_streamed", [False, True])
def test_session_is_gone_on_with_after_a_restart(serve: Serve, tmp_path: Path, is_streamed: bool) -> None:
    folder = tmp_path / "kept"
    body = {**IN_TRIP, "stream": is_streamed}
    first, second = ServedFake(["one"]), ServedFake(["two"])
    assert serve(first, sessions_folder=folder).post(CHAT, json=body).status_code == 200
    (file,) = folder.iterdir()
    assert (file.suffix, len(file.stem)) == (".prefix", 64)
    assert file.stat().st_mode & 0o077 == 0
    assert serve(second, sessions_folder=folder).post(CHAT, json=body).status_code == 200
    prompt = first.requests[0].prompt_tokens
    assert second.loaded_tokens[: len(prompt)] == prompt
    assert len(second.loaded_tokens) > len(prompt)


def test_name_under_another_key_is_another_session(serve: Serve, tmp_path: Path) -> None:
    engine = ServedFake(["one", "two", "three"])
    client = serve(engine, sessions_folder=tmp_path, api_keys=("a", "b"))
    for key in ("a", "b", "a"):
        client.post(CHAT, json=IN_TRIP, headers={"Authorization": f"Bearer {key}"})
    assert len(list(tmp_path.iterdir())) == 2
    assert engine.loaded_tokens == ()  # b was given nothing of a's


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


def test_damaged_file_of_a_session_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = SessionKey("", "fake", "one")
    (tmp_path / key.file_name).write_bytes(b"damaged")
    engine: Any = ServedFake()
    assert Sessions(tmp_path, most=2, most_bytes=9).resume(key, engine) == ()
    assert "A session is not resumed: " in caplog.text
