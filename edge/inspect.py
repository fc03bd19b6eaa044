"""What `edge inspect` shows of a GGUF file. Rich is imported when something is rendered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edge.description import Description, Key, PerLayer, Shape, Tokenizer, TypeShare, describe
from edge.quantities import count_text, size_text
from edge.tables import TITLE_STYLE, cell, printable, section, table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["Description", "describe", "render", "render_keys", "render_tensors"]

_TEMPLATE_LINES = 6
_LINE_CHARACTERS = 76


def render(description: Description) -> RenderableType:
    """The overview: at most 100 columns wide, legible at 80."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    beside: list[RenderableType] = [_type_table(description.tensor_types)]
    if description.tokenizer is not None:
        beside += ["", section("Tokenizer", _tokenizer_rows(description.tokenizer))]
    facts = Table.grid(padding=(0, 6, 0, 0))
    facts.add_row(section("Shape", _shape_rows(description.shape)), Group(*beside))
    template = Text(_first_lines(description.chat_template), no_wrap=True, overflow="ellipsis")
    return Group(
        Text(_headline(description), style="bold"),
        Text(printable(description.path), style="dim"),
        "",
        facts,
        "",
        Text("Chat template", style=TITLE_STYLE),
        template,
        "",
        section("Provenance", [(key.name, _one_line(key)) for key in description.provenance]),
    )


def render_keys(description: Description) -> RenderableType:
    """Every metadata key with its type and, on one line, its value."""
    listing = table("Keys", ("Key", "left"), ("Type", "left"), ("Value", "left"))
    for key in description.keys:
        listing.add_row(cell(key.name), key.type, cell(_one_line(key)))
    return listing


def render_tensors(description: Description) -> RenderableType:
    """Every tensor; the shape has the columns first, as in the file."""
    listing = table("Tensors", ("Tensor", "left"), ("Type", "left"), ("Shape", "right"), ("Size", "right"))
    for tensor in description.tensors:
        shape = " × ".join(str(dimension) for dimension in tensor.shape)
        listing.add_row(cell(tensor.name), tensor.type, shape, size_text(tensor.n_bytes))
    return listing


def _headline(description: Description) -> str:
    facts = [
        description.name or "(no name)",
        description.architecture,
        f"{count_text(description.parameters)} parameters",
        description.quantization,
        size_text(description.file_bytes),
        f"{description.bits_per_weight:.2f} bits per weight" if description.bits_per_weight else None,
    ]
    return printable(" · ".join(fact for fact in facts if fact))


def _shape_rows(shape: Shape) -> list[tuple[str, str]]:
    cache = shape.kv_cache_bytes_per_token
    rows = [
        ("layers", _count(shape.layers)),
        ("hidden", _count(shape.hidden)),
        ("heads", _count(shape.heads)),
        ("KV heads", _count(shape.kv_heads)),
        ("head dim", _count(shape.head_dim)),
        ("FFN", _count(shape.feed_forward)),
        ("experts", f"{_count(shape.experts_used)} of {_count(shape.experts)}" if shape.experts else ""),
        ("vocabulary", _count(shape.vocabulary)),
        ("context", _count(shape.context_tokens)),
        ("sliding window", _count(shape.sliding_window)),
        ("RoPE base", f"{shape.rope_base:,g}" if shape.rope_base is not None else ""),
        ("RoPE scaling", shape.rope_scaling or ""),
        ("KV per token", f"{size_text(cache)} at f16" if cache is not None else ""),
    ]
    return [row for row in rows if row[1]]


def _count(value: PerLayer | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    distinct = sorted(set(value))
    return " to ".join(f"{bound:,}" for bound in dict.fromkeys((distinct[0], distinct[-1]))) if distinct else ""


def _tokenizer_rows(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    rows = [("model", tokenizer.model), ("pre-tokenizer", tokenizer.pre or ""), ("tokens", f"{tokenizer.tokens:,}")]
    for name, adds in (("BOS", tokenizer.adds_bos), ("EOS", tokenizer.adds_eos)):
        rows.append((f"adds {name}", {True: "yes", False: "no", None: ""}[adds]))
    width = max((len(str(token.id)) for token in tokenizer.special), default=0)
    for token in tokenizer.special:
        text = token.text if token.text is not None else "(not in the vocabulary)"
        rows.append((token.role, f"{token.id:>{width}}  {text}"))
    return [row for row in rows if row[1]]


def _first_lines(template: str | None) -> str:
    if not template:
        return "none: messages cannot be written as a prompt without one"
    lines = template.splitlines()
    shown = [printable(line) for line in lines[:_TEMPLATE_LINES]]
    rest = len(lines) - len(shown)
    return "\n".join([*shown, f"… {rest} more lines"] if rest else shown)


def _one_line(key: Key) -> str:
    text = key.value.replace("\n", "⏎")
    return text if len(text) <= _LINE_CHARACTERS or key.type.endswith("[]") else text[: _LINE_CHARACTERS - 1] + "…"


def _type_table(shares: Iterable[TypeShare]) -> Table:
    listing = table("Types", ("Type", "left"), ("Tensors", "right"), ("Size", "right"), ("Share", "right"))
    for share in shares:
        listing.add_row(share.type, f"{share.tensors:,}", size_text(share.n_bytes), f"{share.share:.1%}")
    return listing
