"""A server in another program: five lines, ready when they are entered, gone when they are left."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from edge import EdgeError, ModelSettings, Server, ServerSettings
from edge.server import embedded
from edge.server.background import BackgroundServer
from edge.server.model_files import open_model
from edge.server.model_pool import LoadedModel, ModelPool, ModelSource
from tests.edge.server.conftest import ASK, ServedFake, eventually

CHAT = "/v1/chat/completions"
SMALL = ModelSettings(threads=1, context_tokens=256)


def ask(server: Server, **fields: Any) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {server.key}"}
    return httpx2.post(server.url + CHAT, json={**ASK, "max_tokens": 2, **fields}, headers=headers, timeout=60)


def models(server: Server) -> Any:
    return httpx2.get(f"{server.url}/v1/models", headers={"x-api-key": server.key}).json()["data"]


def test_model_is_served_to_who_has_the_key_and_to_nobody_after_the_block(tiny_gguf: Path) -> None:
    with Server(tiny_gguf, SMALL) as server:
        assert httpx2.get(server.url + "/ready").json() == {"status": "ready"}
        assert httpx2.post(server.url + CHAT, json=ASK).status_code == 401
        assert ask(server, model=server.model).json()["model"] == "llama3"
        assert [model["context_tokens"] for model in models(server)] == [256]
        host, port = server.url.removeprefix("http://").split(":")
        sockets = psutil.Process().net_connections("tcp")
        assert {each.laddr.ip for each in sockets if each.laddr.port == int(port)} == {"127.0.0.1"}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=1)


def test_settings_that_nobody_gives_are_what_fits_for_four_answers_at_once(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[LoadedModel] = []
    monkeypatch.setattr(embedded, "open_model", lambda source: opened.append(open_model(source)) or opened[0])
    with Server(str(tiny_gguf)) as server:
        assert [model["context_tokens"] for model in models(server)] == [512]  # what the model was made for
        assert ask(server).status_code == 200
    assert opened[0].source.settings.parallel == 4


def test_two_servers_run_side_by_side_and_each_can_be_entered_again(tiny_gguf: Path) -> None:
    first, second = Server(tiny_gguf, SMALL), Server(tiny_gguf, SMALL)
    assert first.key != second.key
    with first, second:
        assert first.url != second.url
        assert ask(first).status_code == ask(second).status_code == 200
    with first:
        assert ask(first).status_code == 200


def test_keys_and_origins_of_a_program_are_its_own_choice(tiny_gguf: Path) -> None:
    settings = ServerSettings(port=0, api_keys=("mine", "yours"), allowed_origins=("app://desk",))
    with Server(tiny_gguf, SMALL, settings) as server:
        assert server.key == "mine"
        headers = {"Authorization": "Bearer yours", "Origin": "app://desk"}
        assert httpx2.get(f"{server.url}/v1/models", headers=headers).status_code == 200


def test_answer_that_is_being_written_is_finished_when_the_block_is_left(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ServedFake(["one two"], is_held=True)
    monkeypatch.setattr(embedded, "open_model", lambda source: LoadedModel(source, engine, "fp"))
    answers: list[httpx2.Response] = []
    with Server(tiny_gguf, SMALL) as server:
        asking = threading.Thread(target=lambda: answers.append(ask(server)))
        asking.start()
        eventually(lambda: bool(engine.streams))
        threading.Timer(0.1, engine.step, [10]).start()
    asking.join()
    assert answers[0].json()["choices"][0]["message"]["content"] == "one two"
    assert engine.is_closed


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file or directory"), (b"no model", "is no GGUF file: it has 8 bytes")],
)
def test_file_that_is_no_model_is_said_to_be_none(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    if content:
        path.write_bytes(content)
    with pytest.raises(EdgeError, match=message), Server(path):
        pytest.fail("it began")


def test_port_that_is_taken_and_folder_that_cannot_be_made_are_errors(tiny_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(EdgeError, match=rf"127\.0\.0\.1:{port} cannot be listened on"),
            Server(tiny_gguf, SMALL, ServerSettings(port=port)),
        ):
            pytest.fail("it began")
    settings = ServerSettings(port=0, sessions_folder=tmp_path / "file/sessions")
    with (
        pytest.raises(EdgeError, match=r"Sessions cannot be kept in .*/file/sessions: Not a directory"),
        Server(tiny_gguf, SMALL, settings),
    ):
        pytest.fail("it began")


def test_defect_while_a_model_is_loaded_ends_the_wait_for_it() -> None:
    def open_broken(source: ModelSource) -> LoadedModel:
        raise ZeroDivisionError

    server = BackgroundServer(ModelPool([ModelSource("broken", Path("broken"))], open_broken))
    with pytest.raises(ZeroDivisionError), server:
        pytest.fail("it began")


def test_program_that_leaves_by_an_error_gets_its_own_error(tiny_gguf: Path) -> None:
    with pytest.raises(KeyError, match="mine"), Server(tiny_gguf, SMALL):
        raise KeyError("mine")
