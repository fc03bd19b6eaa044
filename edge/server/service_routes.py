"""What looks after a server asks it: whether it lives, whether it is ready, what it has done; and texts as tokens."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from edge.openai_fields import Fields, as_integer
from edge.server.answering import Answering
from edge.server.json_body import json_of
from edge.server.openapi_schemas import DETOKENIZE_REQUEST, TOKENIZE_REQUEST, request_body

router = APIRouter(tags=["Service"])


@router.get("/health")
async def health() -> dict[str, str]:
    """Whether the server lives: it answers."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Whether requests are answered now: the first model is loaded, and the server is not about to end."""
    state = request.app.state
    if state.doors.is_draining:
        return JSONResponse({"status": "draining"}, 503)
    if not state.is_loaded.is_set():
        return JSONResponse({"status": "loading"}, 503)
    return JSONResponse({"status": "ready"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """What the server has counted and measured, for Prometheus."""
    state = request.app.state
    state.metrics.loaded_models.set(len(state.answering.pool.loaded))
    for model in state.answering.pool.loaded:
        state.metrics.note_status(model.source.name, await state.answering.status(model))
    return Response(state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.post("/tokenize", openapi_extra=request_body(TOKENIZE_REQUEST))
async def tokenize(request: Request) -> dict[str, Any]:
    """The token ids of a text, as the model reads the beginning of one."""
    body = Fields(await json_of(request))
    body.refuse_unknown(["content", "model"])
    body.require("content")
    text = body.text("content") or ""
    answering: Answering = request.app.state.answering
    tokens = await answering.in_thread(body.text("model"), lambda engine: list(engine.text_tokens(text)))
    return {"tokens": tokens}


@router.post("/detokenize", openapi_extra=request_body(DETOKENIZE_REQUEST))
async def detokenize(request: Request) -> dict[str, str]:
    """The text that tokens are."""
    body = Fields(await json_of(request))
    body.refuse_unknown(["tokens", "model"])
    body.require("tokens")
    tokens = [as_integer(item, path, 0) for path, item in body.items("tokens") or ()]
    answering: Answering = request.app.state.answering
    return {"content": await answering.in_thread(body.text("model"), lambda engine: engine.tokens_text(tokens))}
