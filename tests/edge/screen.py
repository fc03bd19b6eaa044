"""A terminal's screen, as far as answers make use of one: text, line ends, and the sequences that draw anew."""

from __future__ import annotations

import re

_PART = re.compile(r"\x1b\[(?P<number>[0-9;]*)(?P<command>[A-Za-z])|(?P<character>.)", re.DOTALL)


class Screen:
    """Rows of text with a cursor. What has left the screen at its top stays, and cannot be reached any more."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns = columns
        self.height = rows
        self.rows = [""]
        self.row = self.column = 0

    def write(self, text: str) -> None:
        for part in _PART.finditer(text):
            if part["character"] is None:
                self._obey(part["command"], part["number"])
            else:
                self._put(part["character"])

    def text(self) -> str:
        return "\n".join(row.rstrip() for row in self.rows)

    def _obey(self, command: str, number: str) -> None:
        if command == "A":
            top = max(0, len(self.rows) - self.height)
            self.row = max(top, self.row - int(number))
        elif command == "J":
            del self.rows[self.row + 1 :]
            self.rows[self.row] = self.rows[self.row][: self.column]
        elif command == "K":
            self.rows[self.row] = self.rows[self.row][: self.column]
        elif command != "m":
            raise AssertionError(f"The screen does not know {command!r}.")

    def _put(self, character: str) -> None:
        if character == "\n":
            self.row, self.column = self.row + 1, 0
        elif character == "\r":
            self.column = 0
        else:
            if self.column == self.columns:
                self.row, self.column = self.row + 1, 0
            self._reach_row()
            row = self.rows[self.row].ljust(self.column)
            self.rows[self.row] = row[: self.column] + character + row[self.column + 1 :]
            self.column += 1
        self._reach_row()

    def _reach_row(self) -> None:
        while self.row >= len(self.rows):
            self.rows.append("")
