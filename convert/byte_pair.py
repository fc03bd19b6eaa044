"""The two kinds of byte-pair encoding in a tokenizer.json, as tokens and merges for llama.cpp."""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path

from tokenizers.models import BPE

from convert.added_tokens import added_token_limitations, sentencepiece_token
from convert.merge_scores import scores_of_merges
from convert.pretokenizers import PreTokenizer, recognize_pre_tokenizer
from convert.text_rules import SPACE, byte_level_rules, spaced_rules
from convert.tokenizer_json import BytePairTokenizer
from convert.vocabulary import Limitation, Pieces, Token, TokenType
from edge.errors import EdgeError

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def byte_level_pieces(file: BytePairTokenizer) -> Pieces:
    """Tokens whose bytes are written as printable characters, merged within the words a pre-tokenizer finds."""
    pre_tokenizer = _choose(recognize_pre_tokenizer(file.pre_tokenizers), file)
    tokens = {number: Token(text, TokenType.NORMAL) for text, number in file.vocabulary.items()}
    for added in file.added_tokens:
        tokens[added.id] = Token(added.text, added.type)
    # a space is written as "Ġ", so a merge with a space in it never applies; llama.cpp separates the parts by one
    merges = [f"{left} {right}" for left, right in file.merges if " " not in left and " " not in right]
    limitations = [Limitation(pre_tokenizer.difference, _NOT_ASCII)] if pre_tokenizer.difference else []
    rules = byte_level_rules(file.normalizers)
    return Pieces(
        model="gpt2",
        pre=pre_tokenizer.name,
        tokens=tokens,
        merges=merges,
        rules=rules,
        limitations=(*limitations, *added_token_limitations(file.added_tokens, rules)),
    )


def byte_fallback_pieces(file: BytePairTokenizer) -> Pieces:
    """Tokens with scores, merged over the whole text as SentencePiece does; other characters fall back to bytes."""
    rules = spaced_rules(file.normalizers, file.pre_tokenizers)
    check_bytes(file.path, file.vocabulary)
    token_ids = file.token_ids()
    found_first = _found_before_merging(file)
    scores = scores_of_merges(file.merges, token_ids.keys() - found_first)
    worst = -float(len(file.merges))
    tokens = {
        number: Token(
            text, TokenType.BYTE if _BYTE_TOKEN.fullmatch(text) else TokenType.NORMAL, scores.get(text, worst)
        )
        for text, number in file.vocabulary.items()
    }
    for added in file.added_tokens:
        if added.type is TokenType.CONTROL or added.text in found_first:
            tokens[added.id] = sentencepiece_token(added.type, added.text, worst)
    unknown = file.unknown_token or ""
    if unknown in token_ids:
        tokens[token_ids[unknown]] = Token(unknown, TokenType.UNKNOWN, worst)
    return Pieces(
        model="llama",
        pre="default",
        tokens=tokens,
        merges=None,
        rules=rules,
        limitations=tuple(added_token_limitations(file.added_tokens, rules)),
    )


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


def check_bytes(path: Path, texts: Container[str]) -> None:
    """Every byte of UTF-8 must have a token, or llama.cpp throws an exception that ends the process."""
    for byte in range(256):
        as_token = f"<0x{byte:02X}>"
        if as_token not in texts and not (byte < 128 and chr(byte) in texts):
            raise EdgeError(
                f"{path} has no token for the byte {as_token}.",
                hint="llama.cpp cannot tokenize text with characters outside the vocabulary without byte fallback.",
            )


def _found_before_merging(file: BytePairTokenizer) -> set[str]:
    """Added tokens that no merge can meet, because llama.cpp finds them in a text first.

    Those with spaces that merges lead to as well, like Gemma's runs of spaces, are left to the merges: the tokenizer
    looks for them in texts with U+2581, where there are none.
    """
    made = {left + right for left, right in file.merges}
    ordinary = (token.text for token in file.added_tokens if token.type is TokenType.USER_DEFINED)
    return {text for text in ordinary if not (SPACE in text and text in made)}
