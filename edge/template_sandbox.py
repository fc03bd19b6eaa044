"""Runs the Jinja chat template of a downloaded file without trusting it.

Jinja's sandbox keeps a template from Python's internals. On top of it come bounds on what is easily made huge: the
steps of loops and macros, what `+`, `*` and `**` may build, and the text written. Knows nothing of messages or tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge.errors import EdgeError

MAX_WRITTEN_CHARACTERS = 16_000_000
MAX_STEPS = 300_000
MAX_EXPONENT = 64
_COUNT_STEP = "_edge_count_step"
_HINT = "The template comes with the model: use another conversion of the model, or plain completion."


class SandboxedTemplate:
    """A chat template, compiled once."""

    def __init__(self, source: str) -> None:
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        if _COUNT_STEP in source:
            raise EdgeError(f"The chat template uses the reserved name {_COUNT_STEP}.", hint=_HINT)
        try:
            tree = environment.parse(source)
            _count_steps(tree, environment)
            code = environment.compile(tree)
        except (jinja2.TemplateError, RecursionError, SyntaxError) as error:
            line = f" (line {error.lineno})" if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise EdgeError(f"The chat template is not valid Jinja: {_reason(error)}{line}", hint=_HINT) from error
        globals_ = environment.make_globals(None)
        self._template = environment.template_class.from_code(environment, code, globals_)

    def write(self, names: Mapping[str, object]) -> str:
        """What the template writes with these names; EdgeError if it refuses, fails or exceeds a bound."""
        pieces: list[str] = []
        characters = 0
        try:
            for piece in self._template.generate({**names, _COUNT_STEP: _step_counter()}):
                characters += len(piece)
                if characters > MAX_WRITTEN_CHARACTERS:
                    raise BoundError(f"it writes more than {MAX_WRITTEN_CHARACTERS:,} characters")
                pieces.append(piece)
        except _RefusalError as error:
            raise EdgeError(
                f"The chat template refuses this conversation: {error}",
                hint="Change the roles or the order of the messages.",
            ) from error
        except Exception as error:  # a template is a program: anything can come out of it
            raise EdgeError(f"The chat template fails: {_reason(error)}", hint=_HINT) from error
        return "".join(pieces)


class _RefusalError(jinja2.TemplateError):
    """The template called raise_exception."""


class BoundError(Exception):
    """The template asks for more than a chat template has any use for."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with operators that cannot make a huge value at once."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and abs(right) > MAX_EXPONENT:
            raise BoundError(f"it raises a number to the power of {right}")
        if operator == "+" and _length(left) + _length(right) > MAX_WRITTEN_CHARACTERS:
            raise BoundError(f"it builds a text of more than {MAX_WRITTEN_CHARACTERS:,} characters")
        if operator == "*":
            text, times = (left, right) if _length(left) else (right, left)
            if _length(text) and _length(text) * times > MAX_WRITTEN_CHARACTERS:
                raise BoundError(f"it repeats a text {times:,} times")
        return super().call_binop(context, operator, left, right)


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


class _GenerationTag(Extension):
    """Leaves only what is inside `{% generation %}`, the mark for text to train on."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _count_steps(tree: nodes.Template, environment: jinja2.Environment) -> None:
    """Puts a call of the step counter into each loop and macro."""
    bodies = [(loop.lineno, loop.body) for loop in tree.find_all(nodes.For)]
    bodies += [(macro.lineno, macro.body) for macro in tree.find_all(nodes.Macro)]
    for lineno, body in bodies:
        call = nodes.Call(nodes.Name(_COUNT_STEP, "load"), [], [], None, None)
        body.insert(0, nodes.ExprStmt(call).set_lineno(lineno))
    tree.set_environment(environment)


def _step_counter() -> Callable[[], None]:
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1
        if steps > MAX_STEPS:
            raise BoundError(f"it takes more than {MAX_STEPS:,} steps")

    return count


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _raise_exception(message: str) -> None:
    raise _RefusalError(message)


def _strftime_now(format: str) -> str:  # noqa: A002 (templates may pass it by name)
    return datetime.now().strftime(format)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON that, unlike Jinja's own filter, escapes nothing for HTML. Source: transformers' chat templates

    Unicode noncharacters stay as they are in any case: they mark text, and the marks are taken out later.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    if ensure_ascii:
        text = re.sub("[^\\x00-\\x7f\ufdd0-\ufdef]", lambda match: json.dumps(match[0])[1:-1], text)
    return text
