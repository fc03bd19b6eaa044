"""What an app that is the `edge` command itself imports by name."""

from edge.cli import COMMANDS

hiddenimports = sorted({function.partition(":")[0] for function in COMMANDS.values()})
