"""The two kinds of byte-pair encoding in a tokenizer.json, as tokens and merges for llama.cpp."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tokenizers.models import BPE

from convert.merge_scores import scores_of_merges
from convert.pretokenizers import PreTokenizer, recognize_pre_tokenizer
from convert.text_rules import SPACE, byte_level_rules, spaced_rules
from convert.tokenizer_json import AddedToken, BytePairTokenizer
from convert.vocabulary import Pieces, Token, TokenType
from edge.errors import EdgeError

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_CONTROL_LOOK = re.compile(r"<([|｜]).*\1>", re.DOTALL)


def byte_level_pieces(file: BytePairTokenizer) -> Pieces:
    """Tokens whose bytes are written as printable characters, merged within the words a pre-tokenizer finds."""
    pre_tokenizer = _choose(recognize_pre_tokenizer(file.pre_tokenizer), file)
    tokens = {number: Token(text, TokenType.NORMAL) for text, number in file.vocabulary.items()}
    for added in file.added_tokens:
        tokens[added.id] = Token(added.text, added_type(added))
    # a space is written as "Ġ", so a merge with a space in it never applies; llama.cpp separates the parts by one
    merges = [f"{left} {right}" for left, right in file.merges if " " not in left and " " not in right]
    limitations = [pre_tokenizer.difference] if pre_tokenizer.difference else []
    return Pieces(
        model="gpt2",
        pre=pre_tokenizer.name,
        tokens=tokens,
        merges=merges,
        rules=byte_level_rules(file.normalizer),
        limitations=(*limitations, *added_token_limitations(file.added_tokens)),
    )


def byte_fallback_pieces(file: BytePairTokenizer) -> Pieces:
    """Tokens with scores, merged over the whole text as SentencePiece does; other characters fall back to bytes."""
    rules = spaced_rules(file.normalizer, file.pre_tokenizer)
    _check_bytes(file)
    scores = scores_of_merges(file.merges, file.token_ids().keys())
    worst = -float(len(file.merges))
    tokens = {
        number: Token(text, _piece_type(text, file.unknown_token), scores.get(text, worst))
        for text, number in file.vocabulary.items()
    }
    for added in file.added_tokens:
        if added.text != file.unknown_token:
            tokens[added.id] = _added_piece(added, scores.get(added.text), worst)
    return Pieces(
        model="llama",
        pre="default",
        tokens=tokens,
        merges=None,
        rules=rules,
        limitations=tuple(added_token_limitations(file.added_tokens)),
    )


def added_type(added: AddedToken) -> TokenType:
    """How llama.cpp has to treat an added token: control tokens are found in trusted text only, others in any.

    Some checkpoints declare the tokens that begin a chat turn as not special; no user may write them all the same.
    """
    if added.is_special or _CONTROL_LOOK.fullmatch(added.text):
        return TokenType.CONTROL
    return TokenType.USER_DEFINED


def added_token_limitations(added_tokens: list[AddedToken]) -> Iterator[str]:
    """What added tokens may ask for and llama.cpp does not do."""
    if strips := [token.text for token in added_tokens if token.strips_spaces]:
        yield f"llama.cpp keeps the white space beside {_listed(strips)}, which the tokenizer takes away"
    if words := [token.text for token in added_tokens if token.is_whole_word]:
        yield f"llama.cpp finds {_listed(words)} within words as well"


def _listed(texts: list[str]) -> str:
    shown = ", ".join(repr(text) for text in texts[:3])
    return f"{shown} and {len(texts) - 3} more" if len(texts) > 3 else shown


def _choose(rows: list[PreTokenizer], file: BytePairTokenizer) -> PreTokenizer:
    """The row that treats words which are tokens as the tokenizer does, or any if it makes no difference."""
    for row in rows:
        if row.ignores_merges == file.ignores_merges:
            return row
    unreachable = _unreachable_token(file)
    if unreachable is None:
        return rows[0]
    raise EdgeError(
        f"{file.path} sets ignore_merges to {str(file.ignores_merges).lower()}, llama.cpp's pre-tokenizer "
        f"{rows[0].name} does the opposite, and no sequence of merges leads to the token {unreachable!r}.",
        hint="llama.cpp would tokenize it differently.",
    )


def _unreachable_token(file: BytePairTokenizer) -> str | None:
    """A token whose text is not merged into that token."""
    added = {token.text for token in file.added_tokens}
    model = BPE(vocab=file.vocabulary, merges=file.merges)
    ordinary = (text for text in file.vocabulary if text not in added)
    return next((text for text in ordinary if [part.value for part in model.tokenize(text)] != [text]), None)


def _check_bytes(file: BytePairTokenizer) -> None:
    """Every byte of UTF-8 must have a token, or llama.cpp throws an exception that ends the process."""
    for byte in range(256):
        as_token = f"<0x{byte:02X}>"
        if as_token not in file.vocabulary and not (byte < 128 and chr(byte) in file.vocabulary):
            raise EdgeError(
                f"{file.path} has byte fallback but no token {as_token}.",
                hint="llama.cpp cannot tokenize text with that byte.",
            )


def _piece_type(text: str, unknown_token: str | None) -> TokenType:
    if text == unknown_token:
        return TokenType.UNKNOWN
    return TokenType.BYTE if _BYTE_TOKEN.fullmatch(text) else TokenType.NORMAL


def _added_piece(added: AddedToken, score: float | None, worst: float) -> Token:
    """An added token; a run of spaces that merges lead to as well is left to them.

    llama.cpp writes U+2581 as a space for ordinary tokens only.
    """
    kind = added_type(added)
    if kind is TokenType.USER_DEFINED and SPACE in added.text:
        if score is not None:
            return Token(added.text, TokenType.NORMAL, score)
        return Token(added.text.replace(SPACE, " "), kind, worst)
    return Token(added.text, kind, worst if score is None else score)
