"""Whether a file's chat template writes what Jinja writes with the checkpoint's, and which conversations it takes.

What is tried is the sandbox in which the template will run; the oracle is Jinja as transformers sets it up.
Source: transformers, utils/chat_template_utils.py (_compile_jinja_template)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge.errors import EdgeError
from edge.template_sandbox import BoundError, SandboxedTemplate

_DATE = "01 Jan 2026"
_WRONG = "The file's template is not the checkpoint's, or it runs differently: convert again, or report it."


@dataclass(frozen=True)
class Conversation:
    """A shape of conversation: its messages, and whether an answer is asked for."""

    name: str
    messages: tuple[tuple[str, str], ...]
    asks_for_answer: bool = True

    def variables(self, bos_text: str, eos_text: str) -> dict[str, object]:
        """The names that a template may read."""
        return {
            "messages": [{"role": role, "content": content} for role, content in self.messages],
            "add_generation_prompt": self.asks_for_answer,
            "bos_token": bos_text,
            "eos_token": eos_text,
            "tools": None,
            "documents": None,
            "strftime_now": lambda format: _DATE,  # noqa: A006 (templates may pass it by name)
        }


CONVERSATIONS = (
    Conversation("a single question", (("user", "How do bees dance?"),)),
    Conversation("system text", (("system", "Answer in one line."), ("user", "How do bees dance?"))),
    Conversation("several turns", (("user", "Hello"), ("assistant", "Hello!"), ("user", "What is honey?"))),
    Conversation("an answer at the end", (("user", "Hello"), ("assistant", "Hello there!")), asks_for_answer=False),
    Conversation(
        "results of tools", (("user", "Is it warm?"), ("assistant", "I will look."), ("tool", '{"degrees": 21}'))
    ),
    Conversation(
        "empty and unusual text",
        (("user", ""), ("assistant", " {{ x }} {% y %} "), ("user", "\n<b>Grüße</b> 蜂蜜 🐝\u200d'\"\\ \n")),
    ),
)


@dataclass(frozen=True)
class TemplateFinding:
    """Conversations that a template takes, and what it does to the others, in words for a person."""

    taken: tuple[str, ...]
    limits: tuple[str, ...]


def compare_templates(stored: str, original: str, bos_text: str, eos_text: str) -> TemplateFinding:
    """Hold a file's template against the checkpoint's. EdgeError for a conversation that comes out differently."""
    if stored != original:
        place = next((i for i, (a, b) in enumerate(zip(stored, original, strict=False)) if a != b), None)
        raise EdgeError(
            f"The file's chat template differs from the checkpoint's, first at character"
            f" {min(len(stored), len(original)) if place is None else place}.",
            hint=_WRONG,
        )
    sandboxed, oracle = SandboxedTemplate(stored), _Oracle(original)
    for conversation in CONVERSATIONS:
        variables = conversation.variables(bos_text, eos_text)
        found, expected = _attempt(sandboxed, variables), oracle.write(variables)
        if found != expected:
            raise EdgeError(
                f"The chat template writes {conversation.name} as {_shown(found)}; Jinja writes {_shown(expected)}.",
                hint=_WRONG,
            )
    return try_template(stored, bos_text, eos_text)


def try_template(stored: str, bos_text: str, eos_text: str) -> TemplateFinding:
    """Which conversations a template takes. EdgeError if it is no template at all."""
    sandboxed = SandboxedTemplate(stored)
    taken, limits = [], []
    for conversation in CONVERSATIONS:
        try:
            text = sandboxed.write(conversation.variables(bos_text, eos_text))
        except EdgeError as error:
            limits.append(f"{conversation.name}: {error.message}")
            continue
        if all(content.strip() in text for _, content in conversation.messages):
            taken.append(conversation.name)
        else:
            limits.append(f"{conversation.name}: the template leaves a part of it out.")
    return TemplateFinding(tuple(taken), tuple(limits))


def _attempt(template: SandboxedTemplate, variables: Mapping[str, object]) -> str | None:
    """What the template writes; None if it refuses or fails. EdgeError if it exceeds bounds that Jinja lacks."""
    try:
        return template.write(variables)
    except EdgeError as error:
        if isinstance(error.__cause__, BoundError):
            raise
        return None


class _Oracle:
    """Jinja as transformers sets it up. Whatever it is given has run in the bounds of edge's sandbox before."""

    def __init__(self, source: str) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        # what is between these tags, which mark text to train on, is written as it is
        source = re.sub(r"(\{%[-+]?\s*)generation(\s*[-+]?%\})", r"\1if true\2", source)
        source = re.sub(r"(\{%[-+]?\s*)endgeneration(\s*[-+]?%\})", r"\1endif\2", source)
        self._template = environment.from_string(source)

    def write(self, variables: Mapping[str, object]) -> str | None:
        """What the template writes; None if it refuses or fails."""
        try:
            return self._template.render(**variables)
        except Exception:  # a template is a program: anything can come out of it
            return None


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _shown(text: str | None) -> str:
    if text is None:
        return "nothing (it refuses)"
    return repr(text if len(text) <= 80 else text[:79] + "…")
