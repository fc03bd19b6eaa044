"""Functions that a model may call: what a request says of them, checked as a whole before anything is answered.

Knows OpenAI's form of them. How calls are written and enforced is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge.checked import checked_constraint
from edge.constraint import Constraint
from edge.errors import EdgeError
from edge.openai_fields import BodyError, Fields, shown

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
# keywords beside which it is not known what "additional" properties would be
_OPEN = frozenset(
    {"additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames", "minProperties", "$ref"}
    | {"allOf", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas", "dependencies"}
)

ToolMode = Literal["auto", "required"]


@dataclass(frozen=True)
class Tool:
    """A function, with the JSON Schema of its arguments, which are an object."""

    name: str
    description: str
    arguments: Constraint

    @property
    def is_checked(self) -> bool:
        """Whether its schema says more than can be enforced, so that calls are checked when they are whole."""
        return checked_constraint(self.arguments) is not None


@dataclass(frozen=True)
class ToolSet:
    """The functions of a request and how they may be called."""

    tools: tuple[Tool, ...]
    mode: ToolMode = "auto"
    """auto: the model answers in text, or calls. required: it calls."""
    only: str | None = None
    """The one function that may be called."""
    is_parallel: bool = True
    """An answer may hold several calls."""

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        return tuple(tool for tool in self.tools if self.only in (None, tool.name))


def make_tool(name: str, description: str, schema: Mapping[str, Any] | None, *, path: str, schema_field: str) -> Tool:
    """A function whose schema can be held. BodyError with the path of what is wrong in it."""
    if not _NAME.fullmatch(name):
        raise BodyError(
            f"{path}.name is {shown(name)}.",
            hint="Names have 1 to 128 letters, digits, underscores and hyphens.",
            field=f"{path}.name",
        )
    field = f"{path}.{schema_field}"
    constraint = Constraint.json_schema(_object_schema(schema, field))
    try:
        checked_constraint(constraint)
    except EdgeError as error:
        raise BodyError(f"{field}: {error.message}", hint=error.hint, field=field) from error
    return Tool(name, description, constraint)


def make_tool_set(
    tools: Sequence[Tool],
    *,
    mode: ToolMode = "auto",
    only: str | None = None,
    is_parallel: bool = True,
    choice_field: str = "tool_choice",
) -> ToolSet:
    """Functions with names of their own. BodyError for two of the same name, or a choice that is not among them."""
    if len(tools) > MAX_TOOLS:
        raise BodyError(f"There are {len(tools)} tools.", hint=f"Give at most {MAX_TOOLS}.", field="tools")
    names = [tool.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            path = f"tools[{index}]"
            raise BodyError(f"{path} has the name {name!r}, as another has.", hint="Rename one.", field=path)
    if only is not None and only not in names:
        known = ", ".join(names[:8])
        raise BodyError(f"{choice_field} names {shown(only)}.", hint=f"There are: {known}.", field=choice_field)
    return ToolSet(tuple(tools), mode, only, is_parallel)


def parse_tools(
    tools: Sequence[Mapping[str, Any]], choice: str | Mapping[str, Any] | None, is_parallel: bool = True
) -> ToolSet | None:
    """The functions of a body in OpenAI's form; None if there are none, or none may be called."""
    parsed = [_parse_tool(Fields(tool, f"tools[{index}]")) for index, tool in enumerate(tools)]
    only = _named(Fields(choice, "tool_choice")) if isinstance(choice, Mapping) else None
    mode: ToolMode = "required" if only is not None or choice == "required" else "auto"
    if not parsed:
        if mode == "required":
            raise BodyError("tool_choice is given without tools.", hint="Give the tools too.", field="tool_choice")
        return None
    tool_set = make_tool_set(parsed, mode=mode, only=only, is_parallel=is_parallel)
    return None if choice == "none" else tool_set


def _parse_tool(tool: Fields) -> Tool:
    kind = tool.text("type")
    if kind != "function":
        path = tool.path("type")
        raise BodyError(f"{path} is {shown(kind)}.", hint="Only functions can be called.", field=path)
    tool.refuse_unknown(["type", "function"])
    tool.require("function")
    function = tool.fields("function")
    assert function is not None
    return tool_of_fields(function, "parameters")


def tool_of_fields(function: Fields, schema_field: str) -> Tool:
    """A function from an object with its name, description and schema. BodyError with the path."""
    function.refuse_unknown(["name", "description", schema_field, "strict"])
    function.require("name")
    function.boolean("strict")  # held to the schema in any case
    schema = function.fields(schema_field)
    path = function.path("name").removesuffix(".name")
    return make_tool(
        function.text("name") or "",
        function.text("description") or "",
        None if schema is None else schema.members,
        path=path,
        schema_field=schema_field,
    )


def _named(choice: Fields) -> str:
    if choice.text("type") != "function":
        path = choice.path("type")
        hint = "It must be none, auto, required or a function."
        raise BodyError(f"{path} is {shown(choice.members.get('type'))}.", hint=hint, field=path)
    choice.refuse_unknown(["type", "function"])
    choice.require("function")
    function = choice.fields("function")
    assert function is not None
    function.refuse_unknown(["name"])
    function.require("name")
    return function.text("name") or ""


def _object_schema(schema: Mapping[str, Any] | None, field: str) -> dict[str, Any]:
    """The schema of an object, closed where it only names its members: no function expects others."""
    if schema is None:
        schema = {}
    kind = schema.get("type", "object")
    if kind != "object":
        raise BodyError(f"{field}.type is {shown(kind)}.", hint="Arguments are an object.", field=f"{field}.type")
    whole = {"type": "object", "properties": {}, **schema}
    return whole if whole.keys() & _OPEN else {**whole, "additionalProperties": False}
