"""What `/set` takes in the terminal chat: every sampling setting and max_tokens, as people write their values.

Whether a value is allowed is for the settings themselves to say.
"""

from __future__ import annotations

import json
import typing
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from edge.chat import Chat
from edge.errors import EdgeError
from edge.settings import SamplingSettings

MAX_TOKENS = "max_tokens"
DEFAULT = "default"
"""The value that takes a setting back to what the model's makers recommend."""

_TYPES: dict[str, Any] = typing.get_type_hints(SamplingSettings)


def setting_names() -> list[str]:
    return [MAX_TOKENS, *(field.name for field in fields(SamplingSettings))]


def change_setting(chat: Chat, name: str, text: str) -> str:
    """Give a setting the value that a text says; gives the line `name = value` that tells of it.

    EdgeError for an unknown name, a value of the wrong kind, and one that the setting does not take.
    """
    _refuse_unknown(name)
    if name == MAX_TOKENS:
        chat.max_tokens = _max_tokens(text)
        return f"{name} = {_shown(chat.max_tokens)}"
    if text == DEFAULT:
        chat.reset_sampling(name)
    else:
        chat.set_sampling(name, _value(name, text))
    return f"{name} = {_shown(getattr(chat.sampling, name))}"


def changed_settings(chat: Chat, defaults: SamplingSettings) -> list[str]:
    """The settings that are not what they are by default, as lines `name = value (default: value)`."""
    is_changed = {name: _value_of(chat, name) != _default_of(defaults, name) for name in setting_names()}
    return [shown_setting(chat, defaults, name) for name in setting_names() if is_changed[name]]


def shown_setting(chat: Chat, defaults: SamplingSettings, name: str) -> str:
    """A setting as the line `name = value (default: value)`. EdgeError for an unknown name."""
    _refuse_unknown(name)
    return f"{name} = {_shown(_value_of(chat, name))} (default: {_shown(_default_of(defaults, name))})"


def _refuse_unknown(name: str) -> None:
    if name not in setting_names():
        near = get_close_matches(name, setting_names(), n=1)
        raise EdgeError(
            f"There is no setting {name!r}.",
            hint=f"Did you mean {near[0]}?" if near else f"Settings: {', '.join(setting_names())}.",
        )


def _value_of(chat: Chat, name: str) -> object:
    return chat.max_tokens if name == MAX_TOKENS else getattr(chat.sampling, name)


def _default_of(defaults: SamplingSettings, name: str) -> object:
    return None if name == MAX_TOKENS else getattr(defaults, name)


def _max_tokens(text: str) -> int | None:
    if text == DEFAULT:
        return None
    tokens = _number(MAX_TOKENS, text, int)
    if tokens < 1:
        raise EdgeError(f"{MAX_TOKENS} is {tokens}.", hint=f"{MAX_TOKENS} must be at least 1, or {DEFAULT}.")
    return int(tokens)


def _value(name: str, text: str) -> object:
    if name == "logit_bias":
        return _logit_bias(text)
    if name == "dry_sequence_breakers":
        return _texts(name, text)
    return _number(name, text, float if _TYPES[name] is float else int)


def _number(name: str, text: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(text)
    except ValueError:
        expected = "a number" if kind is float else "a whole number"
        raise EdgeError(f"{name} is {text!r}.", hint=f"{name} must be {expected}, or {DEFAULT}.") from None


def _logit_bias(text: str) -> tuple[tuple[int, float], ...]:
    """`TOKEN=BIAS`, several with commas between them."""
    try:
        pairs = [item.split("=") for item in text.split(",")]
        return tuple((int(token), float(bias)) for token, bias in pairs)
    except ValueError:
        raise EdgeError(
            f"logit_bias is {text!r}.", hint="Write token ids with what is added to them, such as 1234=-5,99=2."
        ) from None


def _texts(name: str, text: str) -> tuple[str, ...]:
    try:
        texts = json.loads(text)
    except ValueError:
        texts = None
    if not isinstance(texts, list) or not all(isinstance(item, str) for item in texts):
        raise EdgeError(f"{name} is {text!r}.", hint='Write a JSON list of texts, such as ["\\n", ":"].')
    return tuple(texts)


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return ",".join(f"{token}={bias:g}" for token, bias in value)
    if isinstance(value, tuple):
        return json.dumps(list(value), ensure_ascii=False)
    return f"{value:g}" if isinstance(value, float) else str(value)
