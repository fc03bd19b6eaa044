"""Weaker forms of a JSON Schema, for keywords that cannot be enforced token by token.

A relaxation admits whatever the schema admits: keywords are dropped or weakened where they stand, none is added. Which
of them were is told, so that a check of the whole instance can make up for it. Knows nothing of what compiles schemas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from edge.schema_check import OF_SCHEMAS, OF_SCHEMAS_BY_NAME, Schema, pointer_step
from edge.schema_content import CONTENT_KEYWORDS

ENFORCED_FORMATS = frozenset(
    {"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)
_NEVER_ENFORCED = frozenset(
    {"not", "uniqueItems", "contains", "minContains", "maxContains", "propertyNames", "if", "then", "else"}
    | {"dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties"}
    | {"$dynamicRef", "$recursiveRef", "$recursiveAnchor"}
    | CONTENT_KEYWORDS
)
_PROPERTY_COUNTS = frozenset({"minProperties", "maxProperties"})
# without the patterns, their properties would be taken for additional ones
_PROPERTY_PATTERNS = frozenset({"patternProperties", "additionalProperties"})
_SOMETIMES_ENFORCED = (
    _PROPERTY_COUNTS,  # only where every property is required
    _PROPERTY_PATTERNS,  # only where no name fits two patterns
    frozenset({"pattern"}),  # only without look-around and back-references
)


@dataclass(frozen=True)
class Relaxation:
    """A schema that admits whatever the original admits. `unenforced` are JSON pointers to what it says less of."""

    schema: Schema
    unenforced: tuple[str, ...]


def relaxations(schema: Schema) -> Iterator[Relaxation]:
    """From the schema with only what is never enforced left out, to the weakest form.

    `oneOf` can be enforced where alternatives exclude each other by type; elsewhere it becomes `anyOf`.
    """
    yield _relax(schema, _Weakening(_NEVER_ENFORCED, keeps_one_of=True))
    for dropped in (frozenset[str](), *_SOMETIMES_ENFORCED, frozenset[str]().union(*_SOMETIMES_ENFORCED)):
        yield _relax(schema, _Weakening(_NEVER_ENFORCED | dropped, keeps_one_of=False))


@dataclass
class _Weakening:
    dropped: frozenset[str]
    keeps_one_of: bool
    unenforced: list[str] = field(default_factory=list)

    def drops(self, node: Schema, keyword: str) -> bool:
        value = node[keyword]
        if keyword == "format":
            return isinstance(value, str) and value not in ENFORCED_FORMATS
        if keyword == "additionalProperties":
            return keyword in self.dropped and "patternProperties" in node
        return keyword in self.dropped


def _relax(schema: Schema, weakening: _Weakening) -> Relaxation:
    relaxed = _weaken(schema, "#", weakening)
    assert isinstance(relaxed, dict)
    return Relaxation(relaxed, tuple(weakening.unenforced))


def _weaken(node: object, pointer: str, weakening: _Weakening) -> object:
    """One frame for each level of the schema, which may have as many as half the stack."""
    if not isinstance(node, dict):
        return node
    weak: Schema = {}
    for keyword, value in node.items():
        at = f"{pointer}/{pointer_step(keyword)}"
        if weakening.drops(node, keyword):
            if value is not False or keyword != "uniqueItems":
                weakening.unenforced.append(at)
            continue
        if keyword in OF_SCHEMAS_BY_NAME and isinstance(value, dict):
            weak[keyword] = members = {}
            for name, part in value.items():
                members[name] = _weaken(part, f"{at}/{pointer_step(name)}", weakening)
        elif keyword in OF_SCHEMAS and isinstance(value, list):
            weak[keyword] = parts = []
            for index, part in enumerate(value):
                parts.append(_weaken(part, f"{at}/{index}", weakening))
        else:
            weak[keyword] = _weaken(value, at, weakening) if keyword in OF_SCHEMAS else value
    if "oneOf" in weak and not weakening.keeps_one_of:
        weakening.unenforced.append(f"{pointer}/oneOf")
        alternatives = {"anyOf": weak.pop("oneOf")}
        weak = {**weak, **alternatives} if "anyOf" not in weak else _with_also(weak, alternatives)
    return weak


def _with_also(node: Schema, other: Schema) -> Schema:
    """A schema that asks for another one too."""
    together = node.get("allOf", [])
    return {**node, "allOf": [*together, other]} if isinstance(together, list) else node
