"""How commands print their results: one JSON document, or tables for people."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def print_result(document: Any, renderables: Any, as_json: bool) -> None:
    """Print `document` as JSON, or what rich can render: one thing or a list of them."""
    if as_json:
        print(json.dumps(document, ensure_ascii=False, indent=2))
        return
    from edge.tables import show

    show(*(renderables if isinstance(renderables, list) else [renderables]))
