"""Schemas judged by instances of known validity, with a vocabulary of bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.maskbench import MaskBench, Verdict, measure, print_report
from bench.schema_order import in_schema_order
from edge.errors import EdgeError
from tests.edge.toy_vocabulary import ByteVocabulary

PAIR = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}, "required": ["b"]}


def judged(folder: Path, files: dict[str, tuple[Any, list[Any], list[Any]]]) -> MaskBench:
    for name, (schema, valid, invalid) in files.items():
        tests = [{"data": instance, "valid": True} for instance in valid]
        tests += [{"data": instance, "valid": False} for instance in invalid]
        (folder / f"{name}.json").write_text(json.dumps({"schema": schema, "tests": tests}))
    return measure(folder, ByteVocabulary())


def test_a_schema_ends_right_when_all_its_instances_do(tmp_path: Path) -> None:
    unique = {"type": "array", "uniqueItems": True}
    measured = judged(
        tmp_path,
        {
            "enforced": (PAIR, [{"a": 1, "b": 2}], [{"a": 1}, 5]),
            "checked": (unique, [[1, 2]], [[1, 1]]),
            "refused": ({"uniqeItems": True}, [[1]], []),
            "mistaken": (PAIR, [{"a": 1}], [{"b": 1}]),
        },
    )
    verdicts = {verdict.name: verdict for verdict in measured.verdicts}
    assert verdicts["enforced"] == Verdict("enforced", valid=1, invalid=2)
    assert verdicts["checked"] == Verdict("checked", valid=1, invalid=1)
    assert "unknown keyword 'uniqeItems'" in verdicts["refused"].refusal
    assert verdicts["mistaken"] == Verdict("mistaken", "", 1, 1, 1, 1)
    assert (measured.right, measured.right_share, measured.accepted_invalid) == (3, 0.75, 1)
    assert min(measured.mask.median, measured.is_allowed.median, measured.compile.mean) > 0


def test_the_report_names_what_did_not_end_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(judged(tmp_path, {"fine": (PAIR, [{"b": 1}], []), "odd": (PAIR, [{}], [{"b": 3}])}))
    printed = capsys.readouterr().out
    assert "1 of 2 schemas end right (50.0%), 0 of them refused" in printed
    assert "Valid instances accepted: 1 of 2; invalid ones: 1 of 1." in printed
    assert "properties in the order of the schema" in printed
    assert "odd: 1 valid rejected, 1 invalid accepted" in printed
    assert "mask of a token" in printed


def test_a_folder_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="no JSON files in") as caught:
        measure(tmp_path, ByteVocabulary())
    assert "folder of a MaskBench sample" in caught.value.hint


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(EdgeError, match=r"other\.json is no MaskBench file") as caught:
        measure(tmp_path, ByteVocabulary())
    assert caught.value.hint


NODE = {"properties": {"v": {}, "next": {"$ref": "#/$defs/n"}}}


@pytest.mark.parametrize(
    ("schema", "instance", "expected"),
    [
        (PAIR, {"x": 0, "a": 1, "b": 2}, '{"b": 2, "a": 1, "x": 0}'),
        ({"items": PAIR}, [{"a": 1, "b": 2}], '[{"b": 2, "a": 1}]'),
        ({"prefixItems": [{}, PAIR]}, [1, {"a": 1, "b": 2}], '[1, {"b": 2, "a": 1}]'),
        ({"additionalProperties": PAIR}, {"k": {"a": 1, "b": 2}}, '{"k": {"b": 2, "a": 1}}'),
        ({"patternProperties": {"^k": PAIR}}, {"k": {"a": 1, "b": 2}}, '{"k": {"b": 2, "a": 1}}'),
        ({"allOf": [{"properties": {"b": {}}}, PAIR]}, {"a": 1, "b": 2}, '{"b": 2, "a": 1}'),
        ({"anyOf": [{"properties": {"z": {}}}, PAIR]}, {"a": 1, "b": 2}, '{"b": 2, "a": 1}'),
        (
            {"oneOf": [{"properties": {"t": {"const": 1}, "a": {}}}, {"properties": {"a": {}, "t": {"const": 2}}}]},
            {"t": 2, "a": 0},
            '{"a": 0, "t": 2}',
        ),
        ({"properties": {"p": {}}, "required": ["q", "p"]}, {"q": 1, "p": 2}, '{"p": 2, "q": 1}'),
        (
            {"$ref": "#/$defs/n", "$defs": {"n": NODE}},
            {"next": {"next": {}, "v": 2}, "v": 1},
            '{"v": 1, "next": {"v": 2, "next": {}}}',
        ),
        ({"$ref": "#"}, {"a": 1}, '{"a": 1}'),
    ],
)
def test_properties_are_put_into_the_order_of_the_schema(schema: dict[str, Any], instance: Any, expected: str) -> None:
    assert json.dumps(in_schema_order(instance, schema, schema)) == expected
