"""A model's outline: what config.json says of a file before there are weights or a tokenizer, for every family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convert.checkpoint import read_checkpoint
from convert.model_outline import ModelOutline, outline_model
from convert.pipeline import plan_checkpoint
from convert.recipes import RECIPES
from edge.errors import EdgeError
from tests.convert.conftest import TinyFolder
from tests.tiny import TINY

# their file has rows for the tokens that there are, which only the tokenizer tells
TRIMMED = {name for name, checkpoint in TINY.items() if checkpoint.padding_tokens}


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return config


def outline_of(folder: Path) -> ModelOutline:
    return outline_model(config_of(folder), read_checkpoint(folder).tensors)


@pytest.mark.parametrize("name", [name for name in TINY if name not in TRIMMED])
def test_headers_and_config_give_the_tensors_keys_and_types_of_the_real_plan(name: str, tiny: TinyFolder) -> None:
    folder = tiny(name)
    outline = outline_of(folder)
    plan = plan_checkpoint(folder, ["Q4_K_M", "Q8_0"], folder)
    assert outline.architecture == plan.architecture
    assert outline.shapes == {tensor.name: tensor.shape for tensor in plan.tensors}
    for file in plan.files:
        assert outline.types(file.recipe) == file.types
    written = outline.keys
    assert written[f"{outline.architecture}.block_count"] > 0


@pytest.mark.parametrize("name", sorted(TRIMMED))
def test_rows_for_tokens_that_do_not_exist_are_counted_without_a_tokenizer(name: str, tiny: TinyFolder) -> None:
    folder = tiny(name)
    outline = outline_of(folder)
    planned = {tensor.name: tensor.shape for tensor in plan_checkpoint(folder, ["F32"], folder).tensors}
    rows = TINY[name].padding_tokens
    (tokens, hidden), others = planned.pop("token_embd.weight"), dict(outline.shapes)
    assert others.pop("token_embd.weight") == (tokens + rows, hidden)
    assert others == planned


@pytest.mark.parametrize("name", ["llama3", "gemma2", "qwen3_moe", "lfm2", "qwen3_5"])
def test_config_alone_gives_what_the_headers_give(name: str, tiny: TinyFolder) -> None:
    assert outline_model(config_of(tiny(name))) == outline_of(tiny(name))


def test_types_that_need_an_importance_matrix_are_planned_as_if_there_was_one(tiny: TinyFolder) -> None:
    types = outline_of(tiny("llama3")).types(RECIPES["IQ3_M"])
    assert {kind.name for kind in types.values()} & {"IQ3_S", "IQ4_NL"}


@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM"])
def test_configuration_without_an_architecture_is_refused(architectures: Any) -> None:
    with pytest.raises(EdgeError) as caught:
        outline_model({"architectures": architectures})
    assert caught.value.message == f"config.json names no architecture: `architectures` is {architectures!r}."
    assert caught.value.hint == 'It must be a list such as ["LlamaForCausalLM"].'


def test_headers_of_another_model_are_refused(tiny: TinyFolder) -> None:
    with pytest.raises(EdgeError, match="The checkpoint has no tensor"):
        outline_model(config_of(tiny("llama3")), {})
