"""OpenAI's responses: conversations answered, none of them kept."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from edge.server.answering import Answering, Answers
from edge.server.json_body import json_of
from edge.server.openapi_schemas import request_body
from edge.server.responses_answer import ResponseWriter, event_frame
from edge.server.responses_body import ResponsesBody, parse_responses
from edge.server.responses_schemas import RESPONSES_REQUEST
from edge.server.streaming import EVENT_STREAM, SIGN_OF_LIFE, StreamedResponse

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/responses", openapi_extra=request_body(RESPONSES_REQUEST))
async def responses(request: Request) -> Response:
    """Answer a text or a conversation. Nothing is stored."""
    value = await json_of(request)
    answering: Answering = request.app.state.answering
    body = await answering.read(lambda: parse_responses(value))
    owner = request.state.owner
    if body.chat.is_streamed:
        return await StreamedResponse.of(_frames(answering, body, owner), EVENT_STREAM, event_frame)
    async with answering.chat(body.chat, body.tools, prompt_field="input", owner=owner) as answers:
        writer = _writer(answers, body)
        async for batch in answers.batches():
            writer.events(event for _, event in batch)
        return JSONResponse(writer.response)


async def _frames(answering: Answering, body: ResponsesBody, owner: str) -> AsyncGenerator[bytes, None]:
    async with answering.chat(body.chat, body.tools, prompt_field="input", owner=owner) as answers:
        writer = _writer(answers, body)
        async for batch in answers.batches():
            told = b"".join(map(event_frame, writer.events(event for _, event in batch)))
            frame = told if batch else SIGN_OF_LIFE
            if frame:
                yield frame


def _writer(answers: Answers, body: ResponsesBody) -> ResponseWriter:
    return ResponseWriter(
        created=int(time.time()),
        model=answers.model.source.name,
        request=answers.requests[0],
        repeated=body.repeated,
        has_tools=body.tools is not None,
    )
