"""The page is served as it lies in its folder, and may load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.server import page
from tests.edge.server.conftest import Serve


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in (("index.html", "<p>é"), ("main.js", "1"), ("notes.txt", "secret"), ("a.css", "p{}")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path.parent / "outside.js").write_text("secret", encoding="utf-8")
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    page._files.cache_clear()
    return tmp_path


@pytest.fixture(autouse=True)
def _forget_files() -> None:
    page._files.cache_clear()


@pytest.mark.usefixtures("folder")
def test_page_is_served_with_its_files(serve: Serve) -> None:
    client = serve()
    index = client.get("/")
    assert (index.text, index.headers["content-type"]) == ("<p>é", "text/html; charset=utf-8")
    script = client.get("/page/main.js")
    assert (script.text, script.headers["content-type"]) == ("1", "text/javascript; charset=utf-8")


@pytest.mark.usefixtures("folder")
def test_page_may_load_and_send_nothing_elsewhere(serve: Serve) -> None:
    policy = serve().get("/").headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == rules["object-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "http" not in policy
    assert "unsafe" not in policy


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("path", ["/", "/page/main.js"])
def test_page_is_kept_apart_from_others_in_old_browsers_too(serve: Serve, path: str) -> None:
    headers = serve().get(path).headers
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "name", ["notes.txt", "../outside.js", "..%2foutside.js", "%2e%2e/outside.js", "....//outside.js", "/etc/passwd"]
)
def test_nothing_else_is_served(serve: Serve, name: str) -> None:
    response = serve().get(f"http://localhost/page/{name}")
    assert response.status_code == 404
    assert "secret" not in response.text


@pytest.mark.usefixtures("folder")
def test_page_is_there_without_a_key_since_it_has_to_ask_for_one(serve: Serve) -> None:
    client = serve(api_keys=("secret",))
    assert client.get("/").status_code == 200
    assert client.get("/page/main.js").status_code == 200


def test_server_without_a_page_says_where_the_api_is(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "FOLDER", tmp_path / "none")
    response = serve().get("/")
    assert response.status_code == 404
    assert response.json()["error"]["message"].startswith("There is no such page. The API is under /v1")
