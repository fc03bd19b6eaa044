"""The application: routes over the models of a pool, behind the gate."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import version

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from edge.errors import EdgeError
from edge.server import anthropic_routes, ollama_routes, openai_routes, page, responses_routes, service_routes
from edge.server.answering import Answering
from edge.server.errors import Problem, body_of, problem_of
from edge.server.gate import Doors, Gate
from edge.server.metrics import Metrics
from edge.server.model_pool import ModelPool
from edge.server.server_settings import ServerSettings
from edge.server.sessions import Sessions

ROUTERS: Sequence[APIRouter] = (
    openai_routes.router,
    responses_routes.router,
    anthropic_routes.router,
    ollama_routes.router,
    service_routes.router,
    page.router,
)

_WORDS = {404: "There is nothing at this path.", 405: "This path is not for this method."}


def create_app(pool: ModelPool, settings: ServerSettings) -> FastAPI:
    """The application. Its models are loaded by requests, the first one by `load_first`; they are closed with it.

    Its state has `answering`, `metrics`, `doors` and `is_loaded` while it runs. EdgeError if sessions cannot be kept.
    """
    doors, metrics = Doors(), Metrics()
    sessions = Sessions(settings.sessions_folder, most=settings.max_sessions, most_bytes=settings.max_session_bytes)

    @contextlib.asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        app.state.answering = Answering(pool, settings, metrics, sessions)
        closing_idle = asyncio.create_task(pool.keep_closing_idle())
        try:
            yield
        finally:
            closing_idle.cancel()
            app.state.answering.close()
            await pool.close()

    app = FastAPI(
        title="edge",
        version=version("edge-llm"),
        summary="Language models on hardware you own, behind the protocols that programs know.",
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "auto_configure": False,
        },  # nobody is told a thing
        lifespan=running,
    )
    app.state.metrics, app.state.doors, app.state.is_loaded = metrics, doors, asyncio.Event()
    app.state.settings = settings
    app.add_middleware(Gate, settings=settings, metrics=metrics, doors=doors)
    app.add_exception_handler(EdgeError, _edge_error)
    app.add_exception_handler(HTTPException, _http_error)
    for router in ROUTERS:
        app.include_router(router)
    return app


async def load_first(app: FastAPI, pool: ModelPool) -> None:
    """Load the model that requests are answered with which name none. EdgeError if it cannot be."""
    async with pool.lease(None):
        app.state.is_loaded.set()


async def _edge_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EdgeError)
    return _response(request, problem_of(error))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = _WORDS.get(error.status_code, str(error.detail))
    return _response(request, Problem(error.status_code, f"{message} The API is described at /openapi.json."))


def _response(request: Request, problem: Problem) -> JSONResponse:
    return JSONResponse(body_of(problem, request.url.path), problem.status, problem.headers)
