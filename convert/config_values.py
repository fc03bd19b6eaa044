"""Values out of config.json, each checked for what it has to be. An EdgeError names the key and what stands there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, TypeGuard

from edge.errors import EdgeError

LARGEST_INTEGER = 2**31 - 1  # llama.cpp counts in 32 bits, mostly signed
LARGEST_FLOAT = 3.4e38  # GGUF keys and llama.cpp hold numbers as float32


def positive_integer(config: Mapping[str, Any], name: str, *, default: int | None = None) -> int:
    """A whole number above zero. A key that is missing or null gives the default, if there is one."""
    value = _value(config, name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST_INTEGER:
        _refuse(name, value, f"A whole number from 1 to {LARGEST_INTEGER} is needed.")
    return value


def number(config: Mapping[str, Any], name: str, *, default: float | None = None) -> float:
    """A finite number that is not negative."""
    value = _value(config, name, default)
    if not is_number(value) or value < 0:
        _refuse(name, value, "A number that is not negative is needed.")
    return float(value)


def positive_number(config: Mapping[str, Any], name: str, *, default: float | None = None) -> float:
    """A finite number above zero."""
    value = _value(config, name, default)
    if not is_number(value) or value <= 0:
        _refuse(name, value, "A number above zero is needed.")
    return float(value)


def flag(config: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """True or false."""
    value = _value(config, name, default)
    if not isinstance(value, bool):
        _refuse(name, value, "true or false is needed.")
    return value


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a number that a float32 can hold: neither true nor false, NaN, infinite or huge."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_FLOAT


def _value(config: Mapping[str, Any], name: str, default: Any) -> Any:
    value = config.get(name)
    if value is None:
        value = default
    if value is None:
        raise EdgeError(f"config.json does not say {name}.", hint="The checkpoint is incomplete: download it again.")
    return value


def _refuse(name: str, value: Any, hint: str) -> NoReturn:
    raise EdgeError(f"config.json gives {name} as {value!r}.", hint=hint)
