"""The `edge` command: each subcommand parses its arguments, calls one library function and prints the result.

Everything heavy is imported inside the commands, so that help is instant; and of the commands only the one that is
asked for, since reading what options all of them have takes longer than many of them do.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Annotated

import typer

from edge.errors import EdgeError

COMMANDS = {
    "convert": "edge.file_commands:convert",
    "verify": "edge.file_commands:verify",
    "inspect": "edge.file_commands:inspect",
    "run": "edge.model_commands:run",
    "chat": "edge.chat_command:chat",
    "serve": "edge.serve_command:serve",
    "bake": "edge.model_commands:bake",
    "batch": "edge.batch_command:batch",
    "bench": "edge.bench_command:bench",
    "plan": "edge.plan_command:plan",
    "pull": "edge.store_commands:pull",
    "list": "edge.store_commands:list_models",
    "rm": "edge.store_commands:rm",
    "doctor": "edge.doctor_command:doctor",
}
"""Where the function of each subcommand is."""


def make_app(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The command with these subcommands."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Turn Hugging Face checkpoints into quantized GGUF files and run them on your own hardware.",
    )
    app.callback(invoke_without_command=True)(_options)
    for name in names:
        module, _, function = COMMANDS[name].partition(":")
        app.command(name)(getattr(import_module(module), function))
    return app


def _options(show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show_version:
        from importlib.metadata import version

        print(f"edge {version('edge-llm')}")
        raise typer.Exit


def main() -> None:
    """The console script: exit code 0 done, 1 EdgeError, 2 usage, 130 interrupted."""
    from edge.terminal import report_error, warnings_as_notes

    asked = [word for word in sys.argv[1:2] if word in COMMANDS]
    try:
        with warnings_as_notes():
            make_app(asked or COMMANDS)(standalone_mode=True)
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
