"""Keeps the README's command reference equal to what `edge --help` and each `edge COMMAND --help` print.

python tools/command_reference.py --check     exit code 1 when they differ
python tools/command_reference.py --write     write it anew
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- command reference: begin, written by tools/command_reference.py -->"
END = "<!-- command reference: end -->"

# What makes the same text on every terminal: 80 columns, no colours, no marks of a service that shows colours anyway
_PLAIN = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb", "PYTHONUTF8": "1"}
_COLOURING = ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "CI")


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep the README's command reference equal to the help texts.")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", action="store_true", help="fail when the README differs")
    mode.add_argument("--write", action="store_true", help="write the README's reference anew")
    arguments = parser.parse_args()
    before = README.read_text(encoding="utf-8")
    after = with_reference(before, command_reference())
    if arguments.write:
        README.write_text(after, encoding="utf-8", newline="\n")
    elif after != before:
        sys.exit("README.md: the command reference differs from --help; run: python tools/command_reference.py --write")


def command_reference() -> str:
    """The help of `edge` and of each of its commands, in the order that `edge --help` lists them, as Markdown."""
    names = command_names()
    with ThreadPoolExecutor() as pool:
        texts = list(pool.map(help_text, [[], *([name] for name in names)]))
    titles = ["edge", *(f"edge {name}" for name in names)]
    sections = (f"### {title}\n\n```text\n{text}\n```" for title, text in zip(titles, texts, strict=True))
    return "\n\n".join(sections)


def command_names() -> list[str]:
    """The commands of `edge` that its help shows."""
    from typer.main import get_command

    from edge.cli import make_app

    commands = getattr(get_command(make_app()), "commands", {})
    return [name for name, command in commands.items() if not command.hidden]


def help_text(arguments: list[str]) -> str:
    """What `edge ARGUMENTS --help` prints on a plain terminal, without the blanks at the ends of lines."""
    environment = {name: value for name, value in os.environ.items() if name not in _COLOURING} | _PLAIN
    start = "import sys; sys.argv[0] = 'edge'; from edge.cli import main; main()"
    command = [sys.executable, "-c", start, *arguments, "--help"]
    program = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True)
    return "\n".join(line.rstrip() for line in program.stdout.splitlines()).strip("\n")


def with_reference(readme: str, reference: str) -> str:
    """The README with its reference replaced. An exit when it lacks the marks around it."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        sys.exit(f"README.md must have these two lines once:\n{BEGIN}\n{END}")
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{reference}\n\n{END}{after}"


if __name__ == "__main__":
    main()
