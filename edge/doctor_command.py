"""The command `edge doctor`. Everything heavy is imported inside it."""

from __future__ import annotations

from typing import Annotated

import typer

from edge.results import Json, print_result


def doctor(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Model whose decoding is measured; default: the demo, if installed."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what this machine and this installation can do, and what to change."""
    from edge.demo import find_demo_gguf
    from edge.doctor import examine
    from edge.doctor_report import render
    from edge.models import cache_directory, resolve

    report = examine(cache_directory(), resolve(model) if model else find_demo_gguf())
    print_result(report.to_json(), [render(report)], as_json)
