"""Chat bodies with functions to call, of any protocol, to requests."""

from __future__ import annotations

from dataclasses import replace

from edge.openai_fields import BodyError
from edge.openai_request import ChatBody, requests_for
from edge.request import Request
from edge.text_engine import TextEngine
from edge.tool_grammar import reply_constraint
from edge.tool_prompt import Prompts, describes_tools, has_calls, prompt_messages, template_tools
from edge.tools import ToolSet, parse_tools


def tools_of(body: ChatBody) -> ToolSet | None:
    """The functions of a body that may be called, if there are any. BodyError for what is wrong with them."""
    return parse_tools(body.tools, body.tool_choice, body.parallel_tool_calls)


def chat_requests(body: ChatBody, tools: ToolSet | None, engine: TextEngine) -> list[Request]:
    """A request for each choice. EdgeError if the body asks for what cannot be done, or the template refuses it."""
    tokens = chat_prompt(body, tools, engine)
    if tools is None:
        return requests_for(body, tokens, engine)
    if body.logprobs is not None:
        hint = "Leave one of them out: calls have no logprobs."
        raise BodyError("logprobs and tools exclude each other.", hint=hint, field="logprobs")
    return requests_for(replace(body, constraint=reply_constraint(tools, body.constraint)), tokens, engine)


def chat_prompt(body: ChatBody, tools: ToolSet | None, prompts: Prompts) -> tuple[int, ...]:
    """The prompt of a body, functions, calls and results included."""
    is_native = (tools is not None or has_calls(body.messages)) and describes_tools(prompts)
    messages = prompt_messages(body.messages, tools, is_native=is_native)
    variables = dict(body.template_variables)
    if tools is not None and is_native:
        variables["tools"] = template_tools(tools.tools)
    return prompts.chat_tokens(messages, variables or None, body.known_tokens)
