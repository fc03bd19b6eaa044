"""OpenAI's endpoints: chat completions, completions and the list of models."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from edge.openai_completions import completions_body, parse_completions, plain_requests
from edge.openai_embeddings import check_dimensions, embeddings_body, parse_embeddings
from edge.openai_request import ChatBody, parse_body
from edge.openai_response import completion_body, with_tool_calls
from edge.server.answering import Answering, Answers, Asked
from edge.server.json_body import json_of
from edge.server.model_pool import ModelPool, ModelSource
from edge.server.openai_chunks import CHAT, COMPLETION, ChunkForm, ChunkWriter, Head
from edge.server.openapi_schemas import CHAT_REQUEST, COMPLETIONS_REQUEST, EMBEDDINGS_REQUEST, request_body
from edge.server.streaming import SIGN_OF_LIFE, StreamedResponse
from edge.server.tool_chunks import ToolChunkWriter
from edge.tool_requests import tools_of
from edge.tools import ToolSet

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/chat/completions", openapi_extra=request_body(CHAT_REQUEST))
async def chat_completions(request: Request) -> Response:
    """Answer a conversation."""
    body = parse_body(await json_of(request))
    answering: Answering = request.app.state.answering
    tools = await _tools(answering, body)
    answer = answering.chat(body, tools, owner=request.state.owner)
    if body.is_streamed:
        return await StreamedResponse.of(_frames(answer, CHAT, "chatcmpl", body, has_tools=tools is not None))
    async with answer as answers:
        collected = await answers.collected()
        completion = completion_body(collected, **asdict(_head(answers, "chatcmpl")))
        return JSONResponse(with_tool_calls(completion) if tools else completion)


@router.post("/v1/completions", openapi_extra=request_body(COMPLETIONS_REQUEST))
async def completions(request: Request) -> Response:
    """Continue texts as they are."""
    body = parse_completions(await json_of(request))
    answering: Answering = request.app.state.answering
    options = body.options
    answer = answering.ask(Asked(options.model, lambda engine: plain_requests(body, engine)))
    if options.is_streamed:
        return await StreamedResponse.of(_frames(answer, COMPLETION, "cmpl", options))
    async with answer as answers:
        collected = await answers.collected()
        head = asdict(_head(answers, "cmpl"))
        return JSONResponse(completions_body(collected, choices=options.choices, **head))


@router.post("/v1/embeddings", openapi_extra=request_body(EMBEDDINGS_REQUEST))
async def embeddings(request: Request) -> Response:
    """Make a vector of each text, from a chat model's last layer."""
    body = parse_embeddings(await json_of(request))
    answering: Answering = request.app.state.answering
    answering.check_inputs(len(body.inputs))
    async with answering.pool.lease(body.model) as model:
        vectors, tokens = [], 0
        for item in body.inputs:  # one after the other, so that answers get their turns, and nobody works for who left
            ids, vector = await answering.embedded(model, item)
            check_dimensions(body, vector)
            vectors.append(vector)
            tokens += len(ids)
        return JSONResponse(embeddings_body(body, vectors, tokens, model.source.name))


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """List the models that can be asked for."""
    answering: Answering = request.app.state.answering
    return {"object": "list", "data": [_model(source, answering.pool) for source in answering.pool.sources]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """Tell of one model."""
    answering: Answering = request.app.state.answering
    return _model(answering.pool.source(name), answering.pool)


async def _tools(answering: Answering, body: ChatBody) -> ToolSet | None:
    if not body.tools and body.tool_choice is None:
        return None
    return await answering.read(lambda: tools_of(body))


def _model(source: ModelSource, pool: ModelPool) -> dict[str, Any]:
    """OpenAI's object, and beside it what one request may hold, as far as the model is loaded and that is known."""
    held = next((model.engine.context_tokens for model in pool.loaded if model.source.name == source.name), None)
    model = {"id": source.name, "object": "model", "created": source.created, "owned_by": "edge"}
    return {**model, "context_tokens": held}


async def _frames(
    answer: AbstractAsyncContextManager[Answers],
    form: ChunkForm,
    prefix: str,
    body: ChatBody,
    *,
    has_tools: bool = False,
) -> AsyncGenerator[bytes, None]:
    async with answer as answers:
        head = _head(answers, prefix)
        make_writer = ToolChunkWriter if has_tools else ChunkWriter
        writer = make_writer(form, head, choices=body.choices, counts_tokens=body.includes_usage)
        async for batch in answers.batches():
            frame = writer.frames(batch) if batch else SIGN_OF_LIFE
            if frame:
                yield frame
        yield writer.end()


def _head(answers: Answers, prefix: str) -> Head:
    return Head(f"{prefix}-{uuid4().hex}", int(time.time()), answers.model.source.name, answers.model.fingerprint)
