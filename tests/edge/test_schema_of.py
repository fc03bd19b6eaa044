"""Types as schemas, with jsonschema as the judge of what they admit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Literal, Optional

import pytest
from jsonschema import Draft202012Validator

from edge.errors import EdgeError
from edge.schema_of import schema_of


class Colour(Enum):
    RED = "red"
    CODE = 3


@dataclass
class Tree:
    name: str
    children: list[Tree]
    colour: Colour | None = None
    weights: dict[str, float] = field(default_factory=dict)
    derived: int = field(init=False)


class Model:
    """Describes itself as Pydantic's models do."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        part = {"type": "integer"}
        return {"type": "object", "properties": {"a": {"$ref": "#/$defs/Part"}}, "$defs": {"Part": part}}


@dataclass
class Holder:
    model: Model


@pytest.mark.parametrize(
    ("kind", "valid", "invalid"),
    [
        (str, ["a"], [1, None]),
        (int, [1], ["1", 1.5, True]),
        (float, [1, 1.5], ["1"]),
        (bool, [True], [0]),
        (None, [None], [0]),
        (Any, [1, "a", []], []),
        (Literal["a", 2, None], ["a", 2, None], ["b", 3]),
        (Colour, ["red", 3], ["RED", None]),
        (Optional[int], [1, None], ["a"]),  # noqa: UP045
        (int | str, [1, "a"], [None]),
        (Annotated[int, "of something"], [1], ["a"]),
        (list[int], [[], [1]], [["a"], 1]),
        (list, [[], ["a"]], [1]),
        (Sequence[int], [[1]], [["a"]]),
        (set[int], [[1, 2]], [[1, 1], ["a"]]),
        (tuple[int, str], [[1, "a"]], [[1], [1, "a", 2], ["a", 1]]),
        (tuple[int, ...], [[], [1, 2]], [["a"]]),
        (dict[str, int], [{}, {"a": 1}], [{"a": "b"}, []]),
        (Mapping[str, int], [{"a": 1}], [{"a": "b"}]),
        (dict, [{"a": []}], [[]]),
        (Model, [{"a": 1}], [{"a": "b"}]),
        (Holder, [{"model": {"a": 1}}], [{"model": {"a": "b"}}, {}]),
    ],
)
def test_a_type_admits_its_values_and_no_others(kind: Any, valid: list[object], invalid: list[object]) -> None:
    check = Draft202012Validator(schema_of(kind))
    assert [value for value in valid if not check.is_valid(value)] == []
    assert [value for value in invalid if check.is_valid(value)] == []


def test_a_dataclass_may_hold_itself_and_asks_for_what_has_no_default() -> None:
    check = Draft202012Validator(schema_of(Tree))
    leaf = {"name": "leaf", "children": []}
    assert check.is_valid({"name": "root", "children": [leaf], "colour": "red", "weights": {"a": 0.5}})
    assert not check.is_valid({"name": "root", "children": [{"name": "leaf"}]})
    assert not check.is_valid({**leaf, "derived": 1})


def test_properties_keep_the_order_of_the_fields() -> None:
    (definition,) = schema_of(Tree)["$defs"].values()
    assert list(definition["properties"]) == ["name", "children", "colour", "weights"]


@pytest.mark.parametrize("kind", [complex, list[bytes], dict[int, str], "text", Literal[b"a"], object()])
def test_a_type_without_form_in_json_is_refused(kind: Any) -> None:
    with pytest.raises(EdgeError, match="has no form in JSON") as caught:
        schema_of(kind)
    assert caught.value.hint


def test_a_field_of_unknown_type_is_refused() -> None:
    @dataclass
    class Broken:
        part: Missing  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(EdgeError, match="fields of Broken have unknown types: name 'Missing' is not defined") as caught:
        schema_of(Broken)
    assert caught.value.hint
