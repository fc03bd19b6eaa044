"""What a model may write that has functions to call: text, or calls whose arguments match their schemas.

Enforced token by token by a grammar; where a schema says more than that can, whole replies are checked as well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

from edge.checked import CheckedConstraint, CheckedStream, checked_constraint
from edge.constraint import Constraint
from edge.openai_fields import BodyError
from edge.request import Request
from edge.schema_check import parse_schema
from edge.schema_validation import Violation
from edge.stream import Stream
from edge.text_engine import TextEngine
from edge.tool_calls import CLOSING, OPENING, read_reply
from edge.tools import Tool, ToolSet

MAX_CALLS = 16
"""In one answer. A model that repeats itself would otherwise call until its tokens are used up."""
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@lru_cache(maxsize=64)
def reply_constraint(tools: ToolSet, answer: Constraint | None = None) -> Constraint:
    """The constraint of a whole reply. `answer` is that of an answer without calls, a JSON Schema if there is one."""
    if answer is not None and answer.kind != "json_schema":
        field = "regex" if answer.kind == "regex" else "grammar"
        raise BodyError(f"{field} and tools exclude each other.", hint="Use response_format.", field=field)
    more = f'("\\n{OPENING}" call){{0,{MAX_CALLS - 1}}}' if tools.is_parallel else ""
    rules = []
    if tools.mode == "required":
        rules.append(f'start: "{OPENING}" call {more}')
    elif answer is not None:
        rules += [f'start: answer | "{OPENING}" call {more}', f"answer: %json {_json(answer)}"]
    else:
        rules += [
            f"start: TEXT | before call {more}",
            f"before[lazy]: /(.|\\n)*{OPENING}/",
            f"TEXT: /(.|\\n)*/ & ~/(.|\\n)*{OPENING}(.|\\n)*/",
        ]
    callable_tools = tools.callable_tools
    named = " | ".join(f"tool_{index}" for index in range(len(callable_tools)))
    rules.append(f'call: "\\n{{\\"name\\": " ({named}) "}}\\n{CLOSING}"')
    for index, tool in enumerate(callable_tools):
        rules.append(f'tool_{index}: "\\"{tool.name}\\", \\"arguments\\": " arguments_{index}')
        rules.append(f"arguments_{index}: %json {_json(tool.arguments)}")
    return Constraint.grammar("\n".join(rules) + "\n")


class ReplyCheck:
    """Says what in a reply violates the schemas of its calls, or that of an answer without any."""

    def __init__(self, tools: Sequence[Tool], answer: Constraint | None) -> None:
        self._of_tools = {tool.name: _checked(tool.arguments) for tool in tools}
        self._of_answer = _checked(answer)

    @property
    def is_needed(self) -> bool:
        return any((self._of_answer, *self._of_tools.values()))

    def violations(self, text: str) -> list[Violation]:
        reply = read_reply(text)
        if not reply.calls:
            return self._of_answer.check.violations(text) if self._of_answer else []
        found: list[Violation] = []
        for call in reply.calls:
            checked = self._of_tools.get(call.name)
            if checked:
                found += checked.check.violations(call.arguments)
        return found


def submit_with_tools(
    request: Request, engine: TextEngine, tools: ToolSet, answer: Constraint | None
) -> Stream | CheckedStream:
    """Submit a request that is held to `reply_constraint`, with a check of the reply where a schema needs one."""
    check = ReplyCheck(tools.callable_tools, answer)
    if not check.is_needed:
        return engine.submit(request)

    def submit(attempt: Request) -> Stream:
        stream = engine.submit(attempt)
        assert isinstance(stream, Stream), "a grammar is enforced as a whole"
        return stream

    return CheckedStream(request, check, submit)


def _checked(constraint: Constraint | None) -> CheckedConstraint | None:
    return None if constraint is None else checked_constraint(constraint)


def _json(constraint: Constraint) -> str:
    """As much of a schema as can be enforced, with white space as `json.dumps` writes it."""
    checked = checked_constraint(constraint)
    schema = parse_schema(constraint.text if checked is None else checked.enforced.text)
    return json.dumps({**schema, "x-guidance": _SPACING}, ensure_ascii=False)
