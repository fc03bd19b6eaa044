"""Ollama's endpoints: chat, generate, and what models there are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from edge.openai_fields import Fields
from edge.openai_request import requests_for
from edge.request import Request as EngineRequest
from edge.server.answering import Answering, Answers, Asked
from edge.server.errors import RefusedError
from edge.server.json_body import json_of
from edge.server.model_details import ModelDetails, details_of
from edge.server.model_pool import ModelPool, ModelSource
from edge.server.ollama_answer import NDJSON, Kind, LineWriter, line, loaded_body, merged, timestamp
from edge.server.ollama_body import OllamaBody, parse_chat, parse_generate
from edge.server.ollama_schemas import CHAT_REQUEST, ERROR, GENERATE_REQUEST, SHOW_REQUEST
from edge.server.openapi_schemas import request_body
from edge.server.streaming import StreamedResponse
from edge.text_engine import TextEngine

router = APIRouter(tags=["Ollama"])

_LATEST = ":latest"


@router.post("/api/chat", openapi_extra=request_body(CHAT_REQUEST, ERROR))
async def chat(request: Request) -> Response:
    """Answer a conversation, as Ollama does: streamed unless `stream` is false."""
    return await _answer(request, "chat", parse_chat)


@router.post("/api/generate", openapi_extra=request_body(GENERATE_REQUEST, ERROR))
async def generate(request: Request) -> Response:
    """Answer a prompt, or with `raw` continue it as it is."""
    return await _answer(request, "generate", parse_generate)


@router.get("/api/tags")
async def tags(request: Request) -> dict[str, Any]:
    """List the models that can be asked for."""
    pool: ModelPool = request.app.state.answering.pool
    return {"models": [_listed(source, await _details(source)) for source in pool.sources]}


@router.get("/api/ps")
async def running(request: Request) -> dict[str, Any]:
    """List the models that are loaded."""
    pool: ModelPool = request.app.state.answering.pool
    models = []
    for model in pool.loaded:
        listed = _listed(model.source, await _details(model.source))
        context = model.engine.context_tokens
        models.append({**listed, "size": model.source.memory_bytes, "context_length": context})
    return {"models": models}


@router.post("/api/show", openapi_extra=request_body(SHOW_REQUEST, ERROR))
async def show(request: Request) -> dict[str, Any]:
    """Tell what a model's file says of it."""
    body = Fields(await json_of(request))
    body.refuse_unknown(["model", "name", "verbose"])
    body.boolean("verbose")
    pool: ModelPool = request.app.state.answering.pool
    name = _name(pool, body.text("model") or body.text("name"))
    source = pool.source(pool.default_name if name is None else name)
    details = await _details(source)
    return {
        "modelfile": "",
        "parameters": "",
        "template": details.template,
        "license": details.license,
        "details": _shape(details),
        "model_info": details.metadata or {},
        "capabilities": ["completion", "tools"],
        "modified_at": timestamp(source.created),
    }


@router.get("/api/version")
async def server_version() -> dict[str, str]:
    """The server's version, which is edge's."""
    return {"version": version("edge-llm")}


async def _answer(request: Request, kind: Kind, parse: Callable[[object], OllamaBody]) -> Response:
    started = time.perf_counter()
    answering: Answering = request.app.state.answering
    value = await json_of(request)
    body = await answering.read(lambda: parse(value))
    body = replace(body, chat=replace(body.chat, model=_name(answering.pool, body.chat.model)))
    if body.is_empty:
        async with answering.pool.lease(body.chat.model) as model:
            return JSONResponse(loaded_body(kind, model.source.name))
    if body.chat.is_streamed:
        return await StreamedResponse.of(_lines(answering, kind, body, started), NDJSON, line)
    async with _asked(answering, body) as answers:
        writer = _writer(answers, kind, body, started)
        bodies = [told async for batch in answers.batches() for told in writer.bodies(event for _, event in batch)]
        return JSONResponse(merged(bodies))


async def _lines(answering: Answering, kind: Kind, body: OllamaBody, started: float) -> AsyncGenerator[bytes, None]:
    async with _asked(answering, body) as answers:
        writer = _writer(answers, kind, body, started)
        async for batch in answers.batches():
            bodies = writer.bodies(event for _, event in batch) if batch else [writer.sign_of_life()]
            if bodies:
                yield b"".join(map(line, bodies))


def _asked(answering: Answering, body: OllamaBody) -> AbstractAsyncContextManager[Answers]:
    prompt, chat = body.raw_prompt, body.chat
    if prompt is None:
        return answering.chat(chat, body.tools)

    def requests(engine: TextEngine) -> Sequence[EngineRequest]:
        return requests_for(chat, engine.text_tokens(prompt), engine)

    return answering.ask(Asked(chat.model, requests))


def _writer(answers: Answers, kind: Kind, body: OllamaBody, started: float) -> LineWriter:
    """RefusedError if the request counts on a longer context than there is."""
    held, wanted = answers.model.engine.context_tokens, body.context_tokens or 0
    if wanted > held:
        raise RefusedError(
            f"options.num_ctx is {wanted}, the context holds {held}.",
            hint="A request cannot change it: leave it out, or start the server with a longer context: --ctx.",
            status=400,
            field="options.num_ctx",
        )
    loaded_seconds = time.perf_counter() - started
    return LineWriter(kind, answers.model.source.name, started, loaded_seconds, has_tools=body.tools is not None)


def _name(pool: ModelPool, name: str | None) -> str | None:
    """A model's name here; Ollama's clients may put a tag behind it."""
    known = {source.name for source in pool.sources}
    if name is not None and name not in known and name.removesuffix(_LATEST) in known:
        return name.removesuffix(_LATEST)
    return name


async def _details(source: ModelSource) -> ModelDetails:
    return await asyncio.to_thread(details_of, source)


def _listed(source: ModelSource, details: ModelDetails) -> dict[str, Any]:
    return {
        "name": source.name,
        "model": source.name,
        "modified_at": timestamp(source.created),
        "size": details.file_bytes,
        "details": _shape(details),
    }


def _shape(details: ModelDetails) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": details.family,
        "families": [details.family] if details.family else [],
        "parameter_size": details.parameters,
        "quantization_level": details.quantization,
    }
