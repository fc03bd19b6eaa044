"""The `edge` command: each subcommand parses its arguments, calls one library function and prints the result.

Everything heavy is imported inside the commands, so that help is instant.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from edge.batch_command import batch
from edge.bench_command import bench
from edge.chat_command import chat
from edge.errors import EdgeError
from edge.file_commands import convert, inspect, verify
from edge.model_commands import bake, run
from edge.plan_command import plan
from edge.results import Json, print_result
from edge.serve_command import serve
from edge.store_commands import list_models, pull, rm

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn Hugging Face checkpoints into quantized GGUF files and run them on your own hardware.",
)

for command in (convert, verify, inspect, run, chat, serve, bake, batch, bench, plan):
    app.command()(command)
app.command()(pull)
app.command("list")(list_models)
app.command()(rm)


@app.callback(invoke_without_command=True)
def _options(show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show_version:
        from importlib.metadata import version

        print(f"edge {version('edge-llm')}")
        raise typer.Exit


@app.command()
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


def main() -> None:
    """The console script: exit code 0 done, 1 EdgeError, 2 usage, 130 interrupted."""
    from edge.terminal import report_error, warnings_as_notes

    try:
        with warnings_as_notes():
            app(standalone_mode=True)
    except EdgeError as error:
        report_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
