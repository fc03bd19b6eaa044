"""Whether a file's vocabulary gives the token ids of its checkpoint's tokenizer, on texts made to show differences.

The oracle is the library that the tokenizer was made with: `tokenizers` for tokenizer.json, SentencePiece for
tokenizer.model. Ids are compared twice: of plain text, and of trusted text, in which control tokens are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from convert.hard_text import HARD_TEXT
from convert.text_rules import SPACE
from convert.vocabulary import Limitation

_SHOWN_TOKENS = 200
_SHOWN_CHARACTERS = 40


class Tokenization(Protocol):
    """Text to token ids without anything in front; `edge.llama.vocab.Vocab` is one."""

    def tokenize(self, text: str, *, parse_special: bool = ...) -> list[int]: ...


class Oracle(Protocol):
    """What the ids should be."""

    reads_control_tokens: bool
    """Whether it can read control tokens in a text."""

    def can_read(self, text: str) -> bool:
        """Whether it knows all that there is in a text."""
        ...

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]: ...


class TokenizersOracle:
    """The `tokenizers` library with a tokenizer.json."""

    reads_control_tokens = True

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(path))

    def can_read(self, text: str) -> bool:
        return True

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        self._tokenizer.encode_special_tokens = not parse_special
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


class SentencePieceOracle:
    """The SentencePiece library with a tokenizer.model; of the `user_defined` tokens, it knows those of the model."""

    reads_control_tokens = False

    def __init__(self, path: Path, user_defined: Iterable[str] = ()) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor(model_file=str(path))
        unknown = self._processor.unk_id()
        pieces = {text: text.replace(" ", SPACE) for text in user_defined}
        self._added = [text for text, piece in pieces.items() if self._processor.piece_to_id(piece) == unknown]

    def can_read(self, text: str) -> bool:
        return not any(added in text for added in self._added)

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        assert not parse_special
        return list(self._processor.encode(text))


@dataclass(frozen=True)
class TokenDifference:
    """A text whose ids differ; `limitation` says why, where that was to be expected."""

    name: str
    text: str
    expected: tuple[int, ...]
    found: tuple[int, ...]
    limitation: str | None = None

    @property
    def place(self) -> int:
        """The first id that differs."""
        pairs = zip(self.expected, self.found, strict=False)
        shorter = min(len(self.expected), len(self.found))
        return next((index for index, (a, b) in enumerate(pairs) if a != b), shorter)


@dataclass(frozen=True)
class TokenComparison:
    """How many texts were compared, and those that differ."""

    texts: int
    differences: tuple[TokenDifference, ...]

    @property
    def unexplained(self) -> tuple[TokenDifference, ...]:
        return tuple(difference for difference in self.differences if difference.limitation is None)


def compare_tokens(
    oracle: Oracle, vocab: Tokenization, texts: Mapping[str, str], limitations: Sequence[Limitation]
) -> TokenComparison:
    """Compare the ids of every text, plain and, if the oracle can, with control tokens read."""
    count, differences = 0, list[TokenDifference]()
    for parse_special in (False, True) if oracle.reads_control_tokens else (False,):
        for name, text in texts.items():
            if not oracle.can_read(text):
                continue
            count += 1
            expected = oracle.tokenize(text, parse_special=parse_special)
            found = vocab.tokenize(text, parse_special=parse_special)
            if expected != found:
                reason = _explanation(oracle, vocab, text, limitations, parse_special)
                differences.append(TokenDifference(name, text, tuple(expected), tuple(found), reason))
    return TokenComparison(count, tuple(differences))


def _explanation(
    oracle: Oracle, vocab: Tokenization, text: str, limitations: Sequence[Limitation], parse_special: bool
) -> str | None:
    """The limitations that account for a difference: without what they touch in the text, the ids are the same."""
    touching = [limit for limit in limitations if limit.touched and limit.touched.search(text)]
    for limit in touching:
        assert limit.touched is not None
        text = limit.touched.sub("x", text)
    same = oracle.tokenize(text, parse_special=parse_special) == vocab.tokenize(text, parse_special=parse_special)
    return "; ".join(limit.words for limit in touching) if touching and same else None


def proof_texts(special: Iterable[str]) -> dict[str, str]:
    """The hard texts, and texts with the tokenizer's own special tokens at a start, within words and side by side."""
    return HARD_TEXT | dict(_texts_around(list(special)[:_SHOWN_TOKENS]))


def _texts_around(special: Sequence[str]) -> Iterator[tuple[str, str]]:
    for token in special:
        yield f"around {token}", f"{token}Hi{token}there, {token} bees {token}\n{token}{token}"


def shown_text(text: str) -> str:
    """The text on one line, not longer than a message allows."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…")
