"""Strict reading of JSON that strangers send: what is misspelt, misplaced or of the wrong type is named by its path.

Knows nothing of what the fields mean.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any

from edge.errors import EdgeError
from edge.quantities import counted

MAX_INTEGER = 2**31 - 1
"""What fits the integers of the native code that settings end up in."""
MAX_NESTING = 256
"""Objects and lists in each other: what walks through them later may do so on the stack."""
_MAX_SHOWN_CHARACTERS = 60


class BodyError(EdgeError):
    """A request that is wrong. `field` is the path of what is wrong in it, empty where it is the whole."""

    def __init__(self, message: str, *, hint: str = "", field: str = "") -> None:
        super().__init__(message, hint=hint)
        self.field = field


class Fields:
    """The members of one JSON object; null counts as not given. EdgeErrors name a member by its path from the top."""

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise BodyError(f"{path or 'The request'} is {shown(value)}.", hint="It must be a JSON object.", field=path)
        self.members: dict[str, Any] = value
        self._path = path

    def path(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def refuse_unknown(self, known: Iterable[str]) -> None:
        """EdgeError for a member that is not among those known, with the one that was probably meant."""
        known = list(known)
        unknown = next((name for name in self.members if name not in known), None)
        if unknown is None:
            return
        near = difflib.get_close_matches(unknown, known, n=1)
        listed = f"Known here: {', '.join(known)}." if len(known) <= 12 else "Leave it out: it would be ignored."
        raise BodyError(
            f"The field {self.path(shortened(unknown))} is not known.",
            hint=f"Did you mean {near[0]}?" if near else listed,
            field=self.path(unknown),
        )

    def given(self, name: str) -> bool:
        return self.members.get(name) is not None

    def require(self, name: str) -> None:
        if not self.given(name):
            raise BodyError(f"{self.path(name)} is missing.", hint="It must be given.", field=self.path(name))

    def text(self, name: str) -> str | None:
        return as_text(self.members[name], self.path(name)) if self.given(name) else None

    def integer(self, name: str, least: int, most: int = MAX_INTEGER) -> int | None:
        return as_integer(self.members[name], self.path(name), least, most) if self.given(name) else None

    def number(self, name: str, least: float | None = None, most: float | None = None) -> float | None:
        return as_number(self.members[name], self.path(name), least, most) if self.given(name) else None

    def boolean(self, name: str) -> bool | None:
        value = self.members.get(name)
        if value is None or isinstance(value, bool):
            return value
        raise refusal(self.path(name), value, "true or false")

    def items(self, name: str) -> list[tuple[str, Any]] | None:
        """The path and the value of each item of a list."""
        value = self.members.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise refusal(self.path(name), value, "a list")
        return [(f"{self.path(name)}[{index}]", item) for index, item in enumerate(value)]

    def fields(self, name: str) -> Fields | None:
        return Fields(self.members[name], self.path(name)) if self.given(name) else None

    def choice(self, name: str, options: Sequence[str]) -> str | None:
        value = self.text(name)
        if value is not None and value not in options:
            raise refusal(self.path(name), value, f"one of {', '.join(options)}")
        return value


def parse_json(text: str, name: str) -> Any:
    """The value of a JSON text. EdgeError where it is none, or would be read in different ways by different readers."""
    try:
        value = json.loads(text, object_pairs_hook=_without_repetition, parse_constant=_refuse_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is not a character
        if is_deeper(value, MAX_NESTING):
            raise RecursionError
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise BodyError(f"{name} is not valid JSON: {where}: {error.msg}.", hint="Correct it there.") from error
    except RecursionError as error:
        raise BodyError(f"{name} is nested too deeply.", hint=f"At most {MAX_NESTING} levels are read.") from error
    except UnicodeEncodeError as error:
        raise BodyError(f"{name} holds half of a surrogate pair.", hint="Write whole characters.") from error
    except ValueError as error:  # more digits than Python reads
        raise BodyError(f"{name} holds a number that is too long.", hint="Write it with fewer digits.") from error
    return value


def as_text(value: object, path: str) -> str:
    if isinstance(value, str):
        return value
    raise refusal(path, value, "a text")


def as_integer(value: object, path: str, least: int, most: int = MAX_INTEGER) -> int:
    """JSON knows one kind of numbers: 3.0, as some languages write it, is an integer too."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    bounds = f"of at least {least}" if most >= MAX_INTEGER else f"between {least} and {most}"
    raise refusal(path, value, f"an integer {bounds}")


def as_number(value: object, path: str, least: float | None = None, most: float | None = None) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and abs(value) < 1e300 and isfinite(value):  # type: ignore[arg-type]
        number = float(value)  # type: ignore[arg-type]
        if (least is None or number >= least) and (most is None or number <= most):
            return number
    bounds = f" between {least:g} and {most:g}" if least is not None and most is not None else ""
    bounds = bounds or (f" of at least {least:g}" if least is not None else "")
    raise refusal(path, value, f"a number{bounds}")


def refusal(path: str, value: object, rule: str) -> BodyError:
    return BodyError(f"{path} is {shown(value)}.", hint=f"It must be {rule}.", field=path)


def shown(value: object) -> str:
    """A value as it stands in JSON, cut where it is long."""
    if isinstance(value, dict | list):
        kind = "an object" if isinstance(value, dict) else "a list"
        return f"{kind} with {counted(len(value), 'member')}"
    if isinstance(value, int) and abs(value) >= 10**_MAX_SHOWN_CHARACTERS:
        return "an integer with very many digits"
    return shortened(json.dumps(value, ensure_ascii=False))


def shortened(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}..."


def is_deeper(value: object, levels: int) -> bool:
    """Whether objects and lists stand in each other more often than that."""
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return levels <= 0 or any(is_deeper(part, levels - 1) for part in parts)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise BodyError(f"The field {shortened(repeated)} is there twice in one object.", hint="Only one can hold.")
    return members


def _refuse_constant(constant: str) -> None:
    raise BodyError(f"{constant} is not JSON.", hint="Use a number.")
