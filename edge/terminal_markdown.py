"""Markdown for a terminal, from text that is still being written: which of it is final, and how it looks.

Everything is shown: HTML is text here, and what could steer the terminal is taken out.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown
from rich.syntax import Syntax

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_CODE_INDENT = 2
_CONTROL = {code: None for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if chr(code) not in "\n\t"}
# at the end of a line that is still being written, this may become a list, a heading, a rule or a fence
_UNDECIDED = re.compile(r"[ \t>]*(?:[-=*+_#~`>|]+|\d{1,9}[.)]?)[ \t]*")

_BLANK = re.compile(r"(?:\x1b\[[0-9;]*m|\s)*")


def without_control(text: str) -> str:
    """Text without what could steer a terminal; line ends and tabs stay."""
    return text.translate(_CONTROL)


def split_blocks(text: str) -> list[str]:
    """The blocks of a text: paragraphs, lists, tables and so on. Only the last one can change with what is to come."""
    starts = [token.map[0] for token in _parser().parse(text) if token.level == 0 and token.nesting >= 0 and token.map]
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)  # splitlines knows other line ends, which Markdown does not
    ends = [*starts[1:], len(lines)]
    return ["".join(lines[start:end]) for start, end in zip([0, *starts[1:]], ends, strict=True)] if starts else [text]


def decided(text: str) -> str:
    """A text without the beginning of a last line of which it does not show yet what it will be."""
    head, line_end, line = text.rpartition("\n")
    return head + line_end if _UNDECIDED.fullmatch(line) and not _is_in_fence(head + line_end) else text


def rendered_lines(block: str, console: Console) -> list[str]:
    """The lines of the terminal that a block takes, with escape sequences that end in their line."""
    document = _Document("", hyperlinks=False)
    document.parsed = _with_line_ends(_parser().parse(block))
    with console.capture() as captured:
        console.print(document, end="")
    lines = [line.rstrip(" ") for line in captured.get().split("\n")]
    filled = [number for number, line in enumerate(lines) if not _BLANK.fullmatch(line)]
    return lines[filled[0] : filled[-1] + 1] if filled else []


def code_blocks(text: str) -> list[str]:
    """The code in a Markdown text, block by block."""
    return [token.content for token in _parser().parse(text) if token.type in ("fence", "code_block")]


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")


def _is_in_fence(text: str) -> bool:
    tokens = _parser().parse(text + "x")
    return bool(tokens) and tokens[-1].type == "fence" and "x" in tokens[-1].content[-2:]


def _with_line_ends(tokens: list[Token]) -> list[Token]:
    """The tokens with each line end of a paragraph as one: models mean them so, in verses and addresses."""
    for token in tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
    return tokens


class _LeftHeading(Heading):
    LEVEL_ALIGN = {}  # noqa: RUF012 - which is every level to the left


class _IndentedCode(CodeBlock):
    """Code in the terminal's own colours, which are readable on its background."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        yield Syntax(
            code,
            self.lexer_name,
            theme="ansi_dark",
            background_color="default",
            word_wrap=True,
            padding=(0, 0, 0, _CODE_INDENT),
        )


class _Document(Markdown):
    elements = {  # noqa: RUF012
        **Markdown.elements,
        "heading_open": _LeftHeading,
        "fence": _IndentedCode,
        "code_block": _IndentedCode,
    }
