"""Added tokens, which are found in a text before anything is normalized, split or merged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.text_rules import SPACE, TextRules
from convert.vocabulary import Limitation, Token, TokenType
from edge.errors import EdgeError

_CONTROL_LOOK = re.compile(r"<([|｜]).*\1>", re.DOTALL)


@dataclass(frozen=True)
class AddedToken:
    """A token beside the trained vocabulary, or one of it that is looked for first."""

    id: int
    text: str
    is_special: bool
    strips_spaces: bool = False
    """Takes the white space beside it away."""
    is_whole_word: bool = False
    is_normalized: bool = False
    """Is looked for in normalized text, itself normalized: behind a space if the normalizer puts one in front."""

    @property
    def type(self) -> TokenType:
        """How llama.cpp has to treat it: control tokens are found in trusted text only, user-defined ones in any.

        Some checkpoints do not call the tokens that begin a chat turn special; still no user may write them.
        """
        if self.is_special or _CONTROL_LOOK.fullmatch(self.text):
            return TokenType.CONTROL
        return TokenType.USER_DEFINED


def parse_added_token(number: int, value: Mapping[str, Any]) -> AddedToken:
    """The record of a token as tokenizer.json and tokenizer_config.json describe it."""
    if number < 0:
        raise ValueError(f"the token {value['content']!r} has the id {number}")
    return AddedToken(
        id=number,
        text=str(value["content"]),
        is_special=bool(value.get("special")),
        strips_spaces=bool(value.get("lstrip") or value.get("rstrip")),
        is_whole_word=bool(value.get("single_word")),
        is_normalized=bool(value.get("normalized")),
    )


def read_added_tokens(directory: Path, tokenizer_config: Mapping[str, Any]) -> list[AddedToken]:
    """The tokens added to a tokenizer.model, from added_tokens.json and tokenizer_config.json."""
    path = directory / "added_tokens.json"
    try:
        plain = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        tokens = {int(number): AddedToken(int(number), str(text), is_special=False) for text, number in plain.items()}
        for number, value in tokenizer_config.get("added_tokens_decoder", {}).items():
            tokens[int(number)] = parse_added_token(int(number), value)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EdgeError(
            f"{directory} has added tokens that cannot be read: {error!r}.",
            hint="See added_tokens.json, and added_tokens_decoder in tokenizer_config.json.",
        ) from error
    return list(tokens.values())


def sentencepiece_token(token_type: TokenType, text: str, score: float) -> Token:
    """A token of a vocabulary that writes spaces as U+2581.

    llama.cpp compares user-defined tokens with the text as it came, and writes them as they are.
    """
    return Token(text.replace(SPACE, " ") if token_type is TokenType.USER_DEFINED else text, token_type, score)


def added_token_limitations(added_tokens: Sequence[AddedToken], rules: TextRules) -> Iterator[Limitation]:
    """Where llama.cpp treats added tokens differently."""
    if strips := [token.text for token in added_tokens if token.strips_spaces]:
        yield Limitation.of_tokens(
            f"llama.cpp keeps the white space beside {_listed(strips)}, which the tokenizer takes away", strips
        )
    if words := [token.text for token in added_tokens if token.is_whole_word]:
        yield Limitation.of_tokens(f"llama.cpp finds {_listed(words)} within words as well", words)
    if guarded := [token.text for token in added_tokens if token.type is TokenType.CONTROL and not token.is_special]:
        yield Limitation.of_tokens(
            f"what a user types never becomes {_listed(guarded)}, which the tokenizer reads in any text", guarded
        )
    spaced = [token.text for token in added_tokens if token.is_normalized]
    if spaced and rules.add_space_prefix and rules.prefix_space is None:
        yield Limitation.of_tokens(
            f"llama.cpp finds {_listed(spaced)} anywhere, the tokenizer only behind a space", spaced
        )
    if rules.prefix_space == "first":
        yield from space_behind([token.text for token in added_tokens if token.type is TokenType.USER_DEFINED])


def space_behind(user_defined: Sequence[str]) -> Iterator[Limitation]:
    """What is to be said of user-defined tokens where only the whole text gets a space in front."""
    if user_defined:
        yield Limitation.of_tokens(
            f"llama.cpp puts a space behind {_listed(user_defined)}, the tokenizer does not", user_defined
        )


def _listed(texts: Sequence[str]) -> str:
    shown = [repr(text) for text in texts[:3]]
    rest = f"{len(texts) - 3} more" if len(texts) > 3 else shown.pop()
    return f"{', '.join(shown)} and {rest}" if shown else rest
