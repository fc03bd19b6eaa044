"""The text that a model reads for its importance matrix: a person's file, or the one that comes with the project.

The project's own is several files of prose, code and many languages, and conversations, which every model gets in its
own chat template.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from edge.errors import EdgeError
from edge.llama.vocab import Vocab
from edge.prompt import Message, PromptTemplate

DEFAULT_NAME = "default"
DEFAULT_FOLDER = Path(__file__).parent / "calibration"
_DIALOGUES = "dialogues.txt"
_TURN = re.compile(r"^(system|user|assistant): ", re.MULTILINE)
_BETWEEN_DIALOGUES = "\n---\n"


@dataclass(frozen=True)
class CalibrationText:
    """Texts to read one after the other, and conversations in a model's own template."""

    name: str
    texts: tuple[str, ...]
    dialogues: tuple[tuple[Message, ...], ...] = ()

    @property
    def n_bytes(self) -> int:
        """How much text it is."""
        messages = (message.content for dialogue in self.dialogues for message in dialogue)
        return sum(len(text.encode()) for text in (*self.texts, *messages))

    def tokens(self, vocab: Vocab, chat_template: str | None) -> list[int]:
        """All of it as token ids. Conversations are left out where a model has no template."""
        tokens = [token for text in self.texts for token in vocab.tokenize(text)]
        if chat_template and self.dialogues:
            template = PromptTemplate.of_model(chat_template, vocab)
            for dialogue in self.dialogues:
                tokens += template.tokens(dialogue, vocab, add_generation_prompt=False)
        return tokens


def read_calibration_text(source: str) -> CalibrationText:
    """The project's own text for `default`, or that of a file. EdgeError if it cannot be read as UTF-8."""
    if source == DEFAULT_NAME:
        return _default_text()
    path = Path(source)
    return CalibrationText(path.name, (_read(path),))


def _default_text() -> CalibrationText:
    names = sorted(path.name for path in DEFAULT_FOLDER.glob("*.txt"))
    texts = tuple(_read(DEFAULT_FOLDER / name) for name in names if name != _DIALOGUES)
    dialogues = _read(DEFAULT_FOLDER / _DIALOGUES).split(_BETWEEN_DIALOGUES)
    return CalibrationText("edge's own text", texts, tuple(tuple(_messages(dialogue)) for dialogue in dialogues))


def _messages(dialogue: str) -> Iterator[Message]:
    _, *parts = _TURN.split(dialogue)
    for role, content in zip(parts[::2], parts[1::2], strict=True):
        yield Message(cast(Literal["system", "user", "assistant"], role), content.strip())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise EdgeError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}.",
            hint="Give a plain text, as the model will read and write.",
        ) from error
    except OSError as error:
        raise EdgeError(
            f"{path} cannot be read: {error.strerror or error}.",
            hint=f"Give a text file, or {DEFAULT_NAME} for the text that comes with edge.",
        ) from error
