"""What strangers may try on a server as it comes: by its names, from web pages, without a key."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from edge.errors import EdgeError
from edge.server.app import ROUTERS
from edge.server.security import Access, make_key, read_keys
from edge.server.server_settings import ServerSettings
from tests.edge.server.conftest import ASK, Serve, ServedFake

CHAT = "/v1/chat/completions"
API = ["/v1/models", "/metrics", "/openapi.json", "/v1/models/fake"]


# The defaults


def test_server_listens_to_this_machine_only() -> None:
    assert ServerSettings().host == "127.0.0.1"
    assert ServerSettings().is_local
    assert not ServerSettings(host="0.0.0.0").is_local
    assert not ServerSettings(host="192.168.1.5").is_local
    assert not ServerSettings(host="::").is_local


def test_defaults_bound_everything_that_a_request_brings() -> None:
    settings = ServerSettings()
    assert settings.max_body_bytes <= 8 << 20
    assert settings.body_seconds <= 60
    assert settings.max_messages <= 10_000
    assert settings.max_choices <= 64
    assert settings.max_inputs <= 10_000
    assert settings.answer_seconds <= 3600
    assert settings.max_open_requests <= 4096
    assert settings.drain_seconds <= 300
    assert settings.max_sessions <= 1000
    assert settings.max_session_bytes <= 16 << 30


def test_defaults_allow_no_page_and_no_other_name_and_log_no_prompt() -> None:
    settings = ServerSettings()
    assert settings.allowed_origins == ()
    assert settings.allowed_hosts == ()
    assert settings.logs_prompts is False


# Names


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080", "LOCALHOST"]
)
def test_own_names_are_known(serve: Serve, host: str) -> None:
    assert serve().get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "0.0.0.0",
        "10.0.0.1",
        "",
    ],
)
def test_page_that_leads_its_name_to_this_address_is_refused(serve: Serve, host: str) -> None:
    response = serve().post(CHAT, json=ASK, headers={"Host": host})
    assert response.status_code == 403
    error = response.json()["error"]
    assert error["code"] == "host_not_allowed"
    assert error["message"].startswith(f"The server is not known as '{host.partition(':')[0]}'.")


def test_further_names_can_be_allowed(serve: Serve) -> None:
    client = serve(allowed_hosts=("box.lan",))
    assert client.get("/health", headers={"Host": "Box.lan:8080"}).status_code == 200
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 403


def test_server_for_all_addresses_is_reached_by_any_address_but_by_no_name(serve: Serve) -> None:
    client = serve(host="0.0.0.0", api_keys=("k",))
    assert client.get("/health", headers={"Host": "192.168.1.5:8080"}).status_code == 200
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 403


def test_host_is_checked_before_anything_is_said_about_keys(serve: Serve) -> None:
    assert serve(api_keys=("k",)).get("/v1/models", headers={"Host": "evil.example"}).status_code == 403


# Web pages


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:3000", "null", "http://localhost.evil"])
def test_pages_of_others_may_send_nothing(serve: Serve, origin: str) -> None:
    engine = ServedFake()
    response = serve(engine).post(CHAT, json=ASK, headers={"Origin": origin})
    assert response.status_code == 403
    assert response.json()["error"]["message"].startswith(f"Web pages of '{origin}' may not use this server.")
    assert "access-control-allow-origin" not in response.headers
    assert engine.requests == []


def test_browser_is_told_no_when_it_asks_for_a_foreign_page(serve: Serve) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    response = serve().options(CHAT, headers=headers)
    assert response.status_code == 403
    assert not any(name.startswith("access-control") for name in response.headers)


def test_own_page_may_send_requests(serve: Serve) -> None:
    headers = {"Origin": "http://localhost:8080", "Host": "localhost:8080"}
    assert serve().post(CHAT, json=ASK, headers=headers).status_code == 200


def test_named_page_may_send_requests_and_no_other(serve: Serve) -> None:
    client = serve(allowed_origins=("https://app.example",), api_keys=("k",))
    preflight = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    asked = client.options(CHAT, headers=preflight)
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == "https://app.example"
    assert asked.headers["access-control-allow-headers"] == "authorization, content-type"
    assert "access-control-allow-credentials" not in asked.headers
    sent = client.post(CHAT, json=ASK, headers={"Origin": "https://app.example", "Authorization": "Bearer k"})
    assert sent.headers["access-control-allow-origin"] == "https://app.example"
    refused = client.post(CHAT, json=ASK, headers={"Origin": "https://app.example"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://app.example")
    assert client.post(CHAT, json=ASK, headers={"Origin": "https://app.example.evil"}).status_code == 403


@pytest.mark.parametrize("origin", ["*", "app.example", "https://app.example/", "ftp://app.example", "https://"])
def test_what_is_no_origin_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(EdgeError, match=r"is no origin of web pages.\nWrite scheme, host and port only"):
        ServerSettings(allowed_origins=(origin,))


# Keys


@pytest.mark.parametrize("path", API)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "secret"},
        {"Authorization": "Basic secret"},
        {"Authorization": "Bearer secret2"},
        {"Authorization": "Bearer secre"},
        {"x-api-key": ""},
        {"x-api-key": "Secret"},
    ],
)
def test_nothing_is_told_without_the_key(serve: Serve, path: str, headers: dict[str, str]) -> None:
    response = serve(api_keys=("secret",)).get(path, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert "secret" not in response.text


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Bearer secret"}, {"authorization": "bearer secret"}, {"x-api-key": "secret"}],
)
def test_key_opens_in_either_header(serve: Serve, headers: dict[str, str]) -> None:
    assert serve(api_keys=("other", "secret")).get("/v1/models", headers=headers).status_code == 200


def test_key_is_asked_for_where_paths_are_not_there_too(serve: Serve) -> None:
    assert serve(api_keys=("secret",)).get("/nope").status_code == 401


def test_only_whether_the_server_lives_is_told_without_a_key(serve: Serve) -> None:
    client = serve(api_keys=("secret",))
    assert client.get("/health").status_code == 200
    assert client.get("/ready").status_code == 503


def test_every_other_route_asks_for_the_key(serve: Serve) -> None:
    client = serve(api_keys=("secret",))
    open_paths = {"/", "/health", "/ready", "/page/{name}"}
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    closed = [route for route in routes if route.path_format not in open_paths]
    assert len(closed) >= 17
    for route in closed:
        for method in route.methods:
            assert client.request(method, route.path_format.format(name="fake")).status_code == 401, route.path_format
    for path in ("/page", "/pages/main.js", "/healthy", "/ready/", "/openapi.json"):
        assert client.get(path).status_code == 401, path


@pytest.mark.parametrize("path", ["//v1/models", "/health/../v1/models", "/page/../v1/models", "/health/", "/HEALTH"])
def test_paths_that_look_open_are_not(serve: Serve, path: str) -> None:
    response = serve(api_keys=("secret",)).get(f"http://localhost{path}")
    assert response.status_code in (401, 404)
    assert "fake" not in response.text


def test_keys_are_compared_in_a_time_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr(hmac, "compare_digest", compare)
    access = Access(ServerSettings(api_keys=("a", "bb", "ccc")))
    access.check_key({b"authorization": b"Bearer a"})
    assert len(compared) == 3  # all of them, though the first one is right
    assert {len(value) for pair in compared for value in pair} == {32}  # digests, of one length whatever the key's


def test_keys_do_not_show_in_what_is_printed_of_settings() -> None:
    assert "secret" not in repr(ServerSettings(api_keys=("secret",)))


@pytest.mark.parametrize("key", ["", "ключ", "a\nb"])
def test_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(EdgeError, match="An API key is empty or holds characters that no header can carry"):
        ServerSettings(api_keys=(key,))


def test_made_keys_are_long_and_differ() -> None:
    assert len({make_key() for _ in range(50)}) == 50
    assert all(len(make_key()) >= 30 for _ in range(50))


def test_keys_are_read_from_the_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("one\n\n two \r\n", encoding="utf-8")
    assert read_keys(path) == ("one", "two")


def test_key_file_without_keys_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(EdgeError, match=r"is empty\.\nWrite a key on its first line\."):
        read_keys(path)
    with pytest.raises(EdgeError, match="cannot be read: No such file or directory"):
        read_keys(tmp_path / "none")
