"""A server begins by saying where it is, and ends without breaking off what it answers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx2
import pytest

from edge.errors import EdgeError
from edge.server.background import BackgroundServer
from edge.server.model_pool import LoadedModel, ModelPool, ModelSource
from edge.server.run import bind, serve, url_of
from edge.server.server_settings import ServerSettings
from tests.edge.server.conftest import ASK, ServedFake, ServeLive, eventually, pool_of

CHAT = "/v1/chat/completions"


class Asking(threading.Thread):
    """A request whose answer is waited for in a thread."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.response: httpx2.Response | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.response = httpx2.post(self._url + CHAT, json=ASK, timeout=30)
        except httpx2.HTTPError as error:
            self.error = error


def test_running_answers_are_finished_and_new_requests_refused(serve_live: ServeLive) -> None:
    engine = ServedFake(["one two"], is_held=True)
    server = serve_live(engine)
    asking = Asking(server.url)
    eventually(lambda: bool(engine.streams))
    server.end()
    eventually(lambda: bool(server.app.state.doors.is_draining))
    refused = httpx2.post(server.url + CHAT, json=ASK)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "5"
    assert refused.json()["error"]["message"] == "The server is about to end. Send the request to the next one."
    assert httpx2.get(server.url + "/health").status_code == 200
    ready = httpx2.get(server.url + "/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
    engine.step(10)
    asking.join()
    assert asking.response
    assert asking.response.json()["choices"][0]["message"]["content"] == "one two"
    eventually(lambda: engine.is_closed)


@pytest.mark.parametrize("is_asked_twice", [True, False])
def test_answers_are_broken_off_when_it_is_asked_twice_or_takes_too_long(
    serve_live: ServeLive, is_asked_twice: bool
) -> None:
    engine = ServedFake(["one two"], is_held=True)
    server = serve_live(engine, drain_seconds=3600 if is_asked_twice else 0.01)
    asking = Asking(server.url)
    eventually(lambda: bool(engine.streams))
    server.end()
    if is_asked_twice:
        server.end()
    asking.join()
    assert asking.response
    assert asking.response.status_code == 503
    assert asking.response.json()["error"]["message"] == "The server ended before the answer did."
    eventually(lambda: engine.streams[0].is_cancelled)
    eventually(lambda: engine.is_closed)


def test_readiness_is_that_the_first_model_is_loaded() -> None:
    may_load = threading.Event()

    def open_model(source: ModelSource) -> LoadedModel:
        may_load.wait(10)
        return LoadedModel(source, ServedFake(), "fp")

    server = BackgroundServer(ModelPool([ModelSource("slow", Path("slow"))], open_model))
    entering = threading.Thread(target=server.__enter__)
    entering.start()
    eventually(lambda: hasattr(server, "app") and hasattr(server.app.state, "answering"))
    assert httpx2.get(server.url + "/health").status_code == 200
    waiting = httpx2.get(server.url + "/ready")
    assert (waiting.status_code, waiting.json()) == (503, {"status": "loading"})
    may_load.set()
    entering.join()
    assert httpx2.get(server.url + "/ready").json() == {"status": "ready"}
    server.__exit__(None, None, None)


def test_server_whose_model_cannot_be_loaded_does_not_begin() -> None:
    def open_model(source: ModelSource) -> LoadedModel:
        raise EdgeError("The file is broken.", hint="Get another.")

    with (
        pytest.raises(EdgeError, match="The file is broken"),
        BackgroundServer(ModelPool([ModelSource("broken", Path("broken"))], open_model)),
    ):
        pytest.fail("it began")


def test_port_that_is_taken_is_an_error_that_names_it() -> None:
    with bind(ServerSettings(port=0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(EdgeError) as refused:
            bind(ServerSettings(port=port))
    assert refused.value.message == f"127.0.0.1:{port} cannot be listened on: Address already in use."
    assert refused.value.hint == "Choose another port with --port, or 0 for one that is free."


def test_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(EdgeError, match=r"192\.0\.2\.1:0 cannot be listened on: "):
        bind(ServerSettings(host="192.0.2.1", port=0))


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")],
)
def test_url_is_one_that_leads_there_from_this_machine(host: str, shown: str) -> None:
    try:
        listener = bind(ServerSettings(host=host, port=0))
    except EdgeError:
        assert ":" in host  # a machine without IPv6
        return
    with listener:
        assert url_of(listener, host) == f"http://{shown}:{listener.getsockname()[1]}"


def test_file_descriptor_that_is_not_open_ends_the_server() -> None:
    with pytest.raises(EdgeError) as refused:
        serve(pool_of(ServedFake()), ServerSettings(port=0), lambda url: None, ready_fd=987)
    assert refused.value.message == "Nothing can be written to file descriptor 987: Bad file descriptor."


@pytest.mark.skipif(os.name != "posix", reason="passes a file descriptor")
def test_command_tells_its_parent_when_it_is_ready_and_drains_on_sigterm(tiny_gguf: Path) -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "edge.cli", "serve", f"tiny={tiny_gguf}", "--port", "0", "--threads", "1"]
    process = subprocess.Popen(
        [*command, "--ready-fd", str(writing)], pass_fds=[writing], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    os.close(writing)
    with os.fdopen(reading) as ready:
        url = ready.read().strip()  # to its end: the descriptor is closed behind the line
    try:
        body = {**ASK, "max_tokens": 4}
        response = httpx2.post(url + CHAT, json=body, timeout=60)
        assert response.json()["usage"]["completion_tokens"] <= 4
        assert response.json()["model"] == "tiny"
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.decode() == f"Ready at {url}\n"
    assert "POST /v1/chat/completions 200" in err.decode()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=1)
