"""What `edge convert --families` says is what the table of families and the tests have."""

from __future__ import annotations

import pytest
from rich.console import Console

from convert.families import FAMILIES, Family
from convert.families.record import BYTE_FALLBACK, BYTE_LEVEL
from convert.family_table import families_document, render_families
from tests.tiny import TINY

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@every_family
def test_family_is_proven_by_all_of_its_tiny_checkpoints(family: Family) -> None:
    checkpoints = [name for name, tiny in TINY.items() if tiny.config["architectures"][0] in family.hf_architectures]
    assert list(family.proven_by) == checkpoints


@every_family
def test_tokenizers_are_of_the_kinds_that_can_be_converted(family: Family) -> None:
    assert family.tokenizers
    assert set(family.tokenizers) <= {BYTE_LEVEL, BYTE_FALLBACK}


def test_document_has_every_family() -> None:
    families = families_document()["families"]
    assert [entry["family"] for entry in families] == [family.name for family in FAMILIES]
    mixtral = next(entry for entry in families if entry["family"] == "mixtral")
    assert mixtral == {
        "family": "mixtral",
        "gguf_architecture": "llama",
        "hf_architectures": ["MixtralForCausalLM"],
        "tokenizers": ["BPE with byte fallback"],
        "proven_by": ["mixtral"],
    }


def test_table_names_architectures_and_proofs() -> None:
    console = Console(width=200, record=True, file=None)
    with console.capture() as captured:
        console.print(render_families())
    text = captured.get()
    assert "Gemma3ForConditionalGeneration" in text
    assert "gemma3, gemma3-multimodal" in text
    assert text.splitlines()[1].split() == ["Family", "HF", "architectures", "Tokenizers", "Proven", "by"]
