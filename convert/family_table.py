"""The table of families as `edge convert --families` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convert.families import FAMILIES
from edge.tables import cell, table

if TYPE_CHECKING:
    from rich.table import Table


def families_document() -> dict[str, Any]:
    return {
        "families": [
            {
                "family": family.name,
                "gguf_architecture": family.gguf_name,
                "hf_architectures": list(family.hf_architectures),
                "tokenizers": list(family.tokenizers),
                "proven_by": list(family.proven_by),
            }
            for family in FAMILIES
        ]
    }


def render_families() -> Table:
    """Proven by: checkpoints of the tests, on which llama.cpp computes the logits that transformers computes."""
    columns = ("Family", "HF architectures", "Tokenizers", "Proven by")
    families = table("Families", *((name, "left") for name in columns))
    for family in FAMILIES:
        families.add_row(
            cell(family.name),
            cell("\n".join(family.hf_architectures)),
            cell("\n".join(family.tokenizers)),
            cell(", ".join(family.proven_by)),
        )
    return families
