"""Anthropic's endpoints: messages, and how many tokens they would be."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from edge.server.answering import Answering
from edge.server.anthropic_answer import PING, EventWriter, event_frame, message_body
from edge.server.anthropic_body import MessagesBody, parse_messages_body
from edge.server.anthropic_schemas import COUNT_REQUEST, ERROR, MESSAGES_REQUEST
from edge.server.json_body import json_of
from edge.server.openapi_schemas import request_body
from edge.server.streaming import EVENT_STREAM, StreamedResponse
from edge.tool_requests import chat_prompt

router = APIRouter(tags=["Anthropic"])


@router.post("/v1/messages", openapi_extra=request_body(MESSAGES_REQUEST, ERROR))
async def messages(request: Request) -> Response:
    """Answer a conversation, as Anthropic's API does."""
    value = await json_of(request)
    answering: Answering = request.app.state.answering
    body = await answering.read(lambda: parse_messages_body(value))
    if body.chat.is_streamed:
        return await StreamedResponse.of(_frames(answering, body), EVENT_STREAM, event_frame)
    async with answering.chat(body.chat, body.tools) as answers:
        (answer,) = await answers.collected()
        return JSONResponse(
            message_body(
                answer,
                identifier=_identifier(),
                model=answers.model.source.name,
                stop=body.chat.stop,
                has_tools=body.tools is not None,
            )
        )


@router.post("/v1/messages/count_tokens", openapi_extra=request_body(COUNT_REQUEST, ERROR))
async def count_tokens(request: Request) -> dict[str, Any]:
    """How many tokens the prompt of a conversation has."""
    value = await json_of(request)
    answering: Answering = request.app.state.answering
    body = await answering.read(lambda: parse_messages_body(value, needs_max_tokens=False))
    tokens = await answering.in_thread(body.chat.model, lambda engine: len(chat_prompt(body.chat, body.tools, engine)))
    return {"input_tokens": tokens}


async def _frames(answering: Answering, body: MessagesBody) -> AsyncGenerator[bytes, None]:
    has_tools = body.tools is not None
    async with answering.chat(body.chat, body.tools) as answers:
        prompt_tokens = len(answers.requests[0].prompt_tokens)
        name = answers.model.source.name
        writer = EventWriter(_identifier(), name, prompt_tokens, body.chat.stop, has_tools=has_tools)
        async for batch in answers.batches():
            frame = writer.frames(event for _, event in batch) if batch else PING
            if frame:
                yield frame


def _identifier() -> str:
    return f"msg_{uuid4().hex[:24]}"
