"""Special tokens get their ids from whichever file of a checkpoint names them first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convert.special_tokens import Frame, SpecialTokens, read_frame, read_special_tokens
from edge.errors import EdgeError
from tests.tokenizer_fixtures import checkpoint

IDS = {
    "<s>": 1,
    "</s>": 2,
    "<unk>": 3,
    "<pad>": 4,
    "hello": 5,
    "<|end_of_text|>": 6,
    "<|eom_id|>": 7,
    "<|eot_id|>": 8,
    "<stop>": 9,
    "<halt>": 10,
}
LLAMA2 = {text: number for text, number in IDS.items() if number < 6}


def read(directory: Path, ids: dict[str, int] = LLAMA2, frame: Frame | None = None, **files: Any) -> SpecialTokens:
    return read_special_tokens(checkpoint(directory, **files), ids, frame)


def template(*items: str) -> dict[str, Any]:
    """A template of tokens around "$A"."""
    single = [
        {"Sequence": {"id": "A", "type_id": 0}} if item == "$A" else {"SpecialToken": {"id": item, "type_id": 0}}
        for item in items
    ]
    known = {item: {"id": item, "ids": [IDS[item]], "tokens": [item]} for item in items if item != "$A"}
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": known}


def test_tokens_are_named_by_text_in_tokenizer_config(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}, "pad_token": None}
    assert read(tmp_path, tokenizer_config=config).ids == {"bos": 1, "eos": 2, "eot": 2}


def test_special_tokens_map_names_what_tokenizer_config_does_not(tmp_path: Path) -> None:
    content = {"bos_token": "<s>", "eos_token": {"content": "<stop>"}, "pad_token": "<pad>", "unk_token": "<unk>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(content))
    special = read(tmp_path, tokenizer_config={"eos_token": "</s>"})
    assert special.ids == {"bos": 1, "eos": 2, "unk": 3, "pad": 4, "eot": 2}


def test_ids_of_the_configurations_are_the_last_resort(tmp_path: Path) -> None:
    special = read(tmp_path, generation_config={"eos_token_id": 2}, config={"bos_token_id": 1, "eos_token_id": 5})
    assert (special.ids["bos"], special.ids["eos"]) == (1, 2)


def test_names_and_ids_that_the_tokenizer_does_not_have_are_passed_over(tmp_path: Path) -> None:
    special = read(
        tmp_path,
        tokenizer_config={"bos_token": "<gone>", "eos_token": "<gone>"},
        generation_config={"eos_token_id": 99},
        config={"bos_token_id": 1, "eos_token_id": 2},
    )
    assert special.ids == {"bos": 1, "eos": 2, "eot": 2}


def test_vocabulary_without_bos_gets_its_end_instead_of_an_ordinary_token(tmp_path: Path) -> None:
    special = read(tmp_path, tokenizer_config={"eos_token": "</s>", "add_bos_token": True})
    assert special.ids["bos"] == 2
    assert not special.add_bos


def test_several_ends_are_end_of_sequence_end_of_turn_and_those_that_llama_cpp_knows(tmp_path: Path) -> None:
    special = read(
        tmp_path,
        IDS,
        tokenizer_config={"eos_token": "<|eot_id|>"},
        generation_config={"eos_token_id": [6, 7, 8]},
    )
    assert {role: special.ids[role] for role in ("eos", "eot")} == {"eos": 8, "eot": 8}
    assert "eom" not in special.ids


def test_first_end_of_a_list_is_the_end_of_the_sequence_and_a_second_ends_turns(tmp_path: Path) -> None:
    special = read(tmp_path, LLAMA2 | {"<stop>": 9}, generation_config={"eos_token_id": [2, 9]})
    assert {role: special.ids[role] for role in ("eos", "eot")} == {"eos": 2, "eot": 9}


def test_end_that_llama_cpp_does_not_know_by_its_text_gets_the_third_role(tmp_path: Path) -> None:
    special = read(tmp_path, IDS, generation_config={"eos_token_id": [2, 9]})
    assert {role: special.ids[role] for role in ("eos", "eot", "eom")} == {"eos": 2, "eot": 8, "eom": 9}


def test_more_ends_than_llama_cpp_has_roles_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="would not stop at '<halt>'"):
        read(tmp_path, IDS, generation_config={"eos_token_id": [2, 9, 10]})


def test_checkpoint_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="names no end-of-sequence token"):
        read(tmp_path, tokenizer_config={"bos_token": "<s>"})


# What is put around a text


@pytest.mark.parametrize(
    ("post_processors", "expected"),
    [
        ([], None),
        ([{"type": "ByteLevel"}], None),
        ([template("$A")], Frame()),
        ([template("<s>", "$A")], Frame((1,))),
        ([template("<s>", "$A", "</s>")], Frame((1,), (2,))),
        ([template("<s>", "$A"), {"type": "ByteLevel"}], Frame((1,))),
    ],
)
def test_frame_is_what_the_template_says(post_processors: list[Any], expected: Frame | None) -> None:
    assert read_frame(post_processors) == expected


def test_other_post_processors_are_refused() -> None:
    with pytest.raises(EdgeError, match="post-processor RobertaProcessing"):
        read_frame([template("<s>", "$A"), {"type": "RobertaProcessing"}])


@pytest.mark.parametrize("change", [{"single": 1}, {"single": [{"SpecialToken": {"id": "<gone>"}}]}, {"single": [{}]}])
def test_damaged_template_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(EdgeError, match="damaged template"):
        read_frame([template("<s>", "$A") | change])


@pytest.mark.parametrize(
    ("frame", "config", "expected"),
    [
        (Frame((1,)), {"add_bos_token": False}, (True, False)),
        (Frame(), {"add_bos_token": True, "add_eos_token": True}, (False, False)),
        (Frame((1,), (2,)), {}, (True, True)),
        (None, {"add_bos_token": True}, (True, False)),
        (None, {"add_eos_token": True}, (False, True)),
        (None, {}, (False, False)),
    ],
)
def test_template_decides_what_is_added_and_configuration_where_there_is_none(
    frame: Frame | None, config: dict[str, Any], expected: tuple[bool, bool], tmp_path: Path
) -> None:
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    special = read(tmp_path, frame=frame, tokenizer_config=names | config)
    assert (special.add_bos, special.add_eos) == expected


def test_token_that_the_template_puts_first_is_the_bos_whatever_is_configured(tmp_path: Path) -> None:
    special = read(tmp_path, frame=Frame((4,)), tokenizer_config={"bos_token": "<s>", "eos_token": "</s>"})
    assert special.ids["bos"] == 4


@pytest.mark.parametrize("frame", [Frame((1, 4)), Frame((1,), (4,)), Frame((1,), (2, 2))])
def test_frame_of_other_tokens_than_bos_and_eos_is_refused(frame: Frame, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="The tokenizer puts the tokens"):
        read(tmp_path, frame=frame, tokenizer_config={"bos_token": "<s>", "eos_token": "</s>"})


def test_damaged_special_tokens_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "special_tokens_map.json").write_text("{")
    with pytest.raises(EdgeError, match=r"special_tokens_map\.json cannot be read"):
        read(tmp_path)
