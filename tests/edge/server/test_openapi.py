"""The OpenAPI document describes every route, and no request made after it, or against it, is the server's fault.

EDGE_OPENAPI_EXAMPLES says how many requests each operation gets of either kind, if not as few as fit a test.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from edge import ModelSettings, SamplingSettings, Server, ServerSettings
from edge.server import ollama_body, ollama_schemas
from edge.server.app import ROUTERS, create_app
from edge.server.page import router as page_router
from tests.edge.server.conftest import ServedFake, pool_of

EXAMPLES = int(os.environ.get("EDGE_OPENAPI_EXAMPLES", "15"))
DOCUMENT = create_app(pool_of(ServedFake()), ServerSettings()).openapi()
OPERATIONS = [result.ok() for result in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()]
MODEL = "llama3"


@pytest.fixture(scope="module")
def server(roomy_models: dict[str, Path]) -> Iterator[Server]:
    settings = ModelSettings(threads=1, parallel=4, context_tokens=4096)
    with Server(roomy_models[MODEL], settings, ServerSettings(port=0, max_answer_tokens=8)) as server:
        yield server


@pytest.fixture(scope="module")
def session(server: Server) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {server.key}"
        session.trust_env = False
        yield session


def test_every_route_but_the_pages_is_described() -> None:
    routes = [route for router in ROUTERS if router is not page_router for route in router.routes]
    described = {(path, method.upper()) for path, item in DOCUMENT["paths"].items() for method in item}
    assert described == {
        (route.path_format, method) for route in routes if isinstance(route, APIRoute) for method in route.methods
    }


@pytest.mark.parametrize("title", ["ChatRequest", "CompletionsRequest", "ResponsesRequest", "MessagesRequest"])
def test_every_sampling_setting_is_described(title: str) -> None:
    asked = [operation.definition.raw.get("requestBody") for operation in OPERATIONS]
    schemas = [body["content"]["application/json"]["schema"] for body in asked if body]
    (schema,) = (schema for schema in schemas if schema["title"] == title)
    assert {setting.name for setting in fields(SamplingSettings)} <= schema["properties"].keys()


def test_every_option_of_ollama_is_described() -> None:
    assert sorted(ollama_schemas.CHAT_REQUEST["properties"]["options"]["properties"]) == ollama_body._OPTIONS


def made_plausible(value: Any) -> Any:
    """The same with a model that there is, a question at its end, and arguments that are JSON, as no schema can say."""
    if isinstance(value, list):
        return [made_plausible(item) for item in value]
    if not isinstance(value, dict):
        return value
    fixed = {"model": MODEL, "arguments": "{}"}
    plausible = {
        name: fixed[name] if name in fixed and isinstance(item, str) else made_plausible(item)
        for name, item in value.items()
    }
    if isinstance(value.get("messages"), list):
        plausible["messages"].append({"role": "user", "content": "Bees?"})
    return plausible


def is_satisfiable(operation: Any, mode: GenerationMode) -> bool:
    return mode is GenerationMode.POSITIVE or "requestBody" in operation.definition.raw


@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        pytest.param(operation, mode, id=f"{operation.label} {mode.value}")
        for operation in OPERATIONS
        for mode in GenerationMode
        if is_satisfiable(operation, mode)
    ],
)
def test_no_request_is_the_servers_fault(
    server: Server, session: requests.Session, operation: Any, mode: GenerationMode
) -> None:
    statuses = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            case.body = made_plausible(case.body)
        response = case.call(base_url=server.url, session=session, timeout=60)
        assert response.status_code < 500, (case.as_curl_command(), response.text)
        assert "Traceback" not in response.text
        statuses.add(response.status_code)

    send()
    if mode is GenerationMode.POSITIVE and operation.path != "/v1/models/{name}":
        assert 200 in statuses  # so that not only what checks requests was asked
    assert session.get(server.url + "/ready").status_code == 200
