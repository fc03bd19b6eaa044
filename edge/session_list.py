"""The sessions in a folder: which there are, which have a text in them, and which was used last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.errors import EdgeError
from edge.prefix_file import SUFFIX
from edge.session import is_session_name
from edge.session_record import SessionRecord, read_record

_SNIPPET_CHARACTERS = 60
_BEFORE_CHARACTERS = 20  # of a text that was found


@dataclass(frozen=True)
class SessionSummary:
    """A session as a list shows it; `messages` is None for one whose file is damaged."""

    name: str
    model: str
    messages: int | None
    n_bytes: int
    updated: str
    snippet: str = ""
    """How it begins, or the place where a text was found."""


def list_sessions(folder: Path, text: str = "") -> list[SessionSummary]:
    """The sessions in a folder that have a text in their name or in what was said; those used last first.

    Without a text, all of them, damaged ones too.
    """
    summaries = []
    for path in folder.glob("*.json"):
        if not is_session_name(path.stem):
            continue
        prefix = path.with_suffix(SUFFIX)
        n_bytes = path.stat().st_size + (prefix.stat().st_size if prefix.exists() else 0)
        try:
            record = read_record(path)
        except EdgeError:
            if text.casefold() in path.stem.casefold():
                summaries.append(SessionSummary(path.stem, "", None, n_bytes, ""))
            continue
        snippet = _snippet(record, text)
        if snippet is None and text.casefold() in path.stem.casefold():
            snippet = _snippet(record, "")
        if snippet is not None:
            count = len(record.conversation.messages)
            summaries.append(SessionSummary(path.stem, record.model.file_name, count, n_bytes, record.updated, snippet))
    return sorted(summaries, key=lambda summary: (summary.updated, summary.name), reverse=True)


def session_names(folder: Path) -> list[str]:
    """The names of all sessions, without a look into them."""
    return sorted(path.stem for path in folder.glob("*.json") if is_session_name(path.stem))


def last_session(folder: Path) -> str:
    """The name of the session that was used last. EdgeError if there is none."""
    names = session_names(folder)
    if not names:
        raise EdgeError(f"There are no sessions in {folder}.", hint="Begin a chat without --continue.")
    return max(names, key=lambda name: (folder / f"{name}.json").stat().st_mtime_ns)


def _snippet(record: SessionRecord, text: str) -> str | None:
    """What was said around the first place of a text, in one line; None if it is nowhere."""
    said = record.conversation
    lines = [message.content for line in said.branches.lines(said.messages) for message in line]
    for content in [*lines, said.system or ""]:
        place = content.casefold().find(text.casefold())
        if place >= 0 and (text or content):
            start = max(0, place - _BEFORE_CHARACTERS) if text else 0
            return ("…" if start else "") + one_line(content[start:], _SNIPPET_CHARACTERS)
    return None if text else ""


def one_line(text: str, characters: int) -> str:
    """A text without line ends, cut where it is longer than that."""
    line = " ".join(text[: 4 * characters].split())
    return line if len(line) <= characters else f"{line[: characters - 1]}…"
