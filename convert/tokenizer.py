"""A checkpoint's tokenizer as a GGUF vocabulary with which llama.cpp gives the token ids of the `tokenizers` library.

Three kinds are known:

    byte-level BPE            tokenizer.json      model "gpt2": tokens and merges, a named pre-tokenizer
    BPE with byte fallback    tokenizer.json      model "llama": scores from the ranks of the merges
    SentencePiece BPE         tokenizer.model     model "llama": its pieces, scores and types

Where a checkpoint has both files, tokenizer.json is taken: transformers loads it, fine-tuning adds its tokens to it,
and newer releases of transformers save it alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from convert.added_tokens import (
    AddedToken,
    added_token_limitations,
    read_added_tokens,
    sentencepiece_token,
    space_behind,
)
from convert.byte_pair import byte_fallback_pieces, byte_level_pieces, check_bytes
from convert.checkpoint import Checkpoint
from convert.pretokenizers import is_byte_level
from convert.sentencepiece_model import SentencePieceModel, read_sentencepiece_model
from convert.special_tokens import KNOWN_ENDS, SpecialTokens, read_frame, read_special_tokens
from convert.text_rules import TextRules
from convert.tokenizer_json import read_tokenizer_json
from convert.vocabulary import Limitation, Pieces, Token, TokenType, Vocabulary
from edge.errors import EdgeError

__all__ = ["Vocabulary", "read_vocabulary"]

_UNUSED_SCORE = -1e9


def read_vocabulary(checkpoint: Checkpoint, vocabulary_size: int) -> Vocabulary:
    """The vocabulary of a checkpoint with one token for each of `vocabulary_size` ids.

    Ids that the tokenizer does not use are filled with unused tokens. EdgeError when the tokenizer has ids beyond
    them, when llama.cpp cannot reproduce it, or when it is damaged.
    """
    pieces, special = _read(checkpoint)
    beyond = {token_id: token.text for token_id, token in pieces.tokens.items() if token_id >= vocabulary_size}
    if beyond:
        last = max(beyond)
        raise EdgeError(
            f"The tokenizer of {checkpoint.directory} has ids up to {last} ({beyond[last]!r}), "
            f"but the model has embeddings for {vocabulary_size} tokens only.",
            hint="The tokenizer belongs to another model, or the embeddings were not resized when tokens were added.",
        )
    tokens = [pieces.tokens.get(number) or _unused(number) for number in range(vocabulary_size)]
    _check_texts(tokens)
    return Vocabulary(
        model=pieces.model,
        pre=pieces.pre,
        tokens=[token.text for token in tokens],
        types=[int(token.type) for token in tokens],
        scores=[token.score for token in tokens] if pieces.model == "llama" else None,
        merges=pieces.merges,
        special_ids=special.ids,
        add_bos=special.add_bos,
        add_eos=special.add_eos,
        rules=pieces.rules,
        chat_template=checkpoint.chat_template,
        limitations=(*pieces.limitations, *_false_ends(tokens)),
    )


def _read(checkpoint: Checkpoint) -> tuple[Pieces, SpecialTokens]:
    if checkpoint.tokenizer_json is not None:
        return _read_tokenizer_json(checkpoint, checkpoint.tokenizer_json)
    if checkpoint.tokenizer_model is not None:
        return _read_tokenizer_model(checkpoint, checkpoint.tokenizer_model)
    raise EdgeError(
        f"{checkpoint.directory} has neither tokenizer.json nor tokenizer.model.",
        hint="Save the tokenizer again: AutoTokenizer.from_pretrained(...).save_pretrained(...).",
    )


def _read_tokenizer_json(checkpoint: Checkpoint, path: Path) -> tuple[Pieces, SpecialTokens]:
    file = read_tokenizer_json(path)
    if is_byte_level(file.pre_tokenizers):
        pieces = byte_level_pieces(file)
    elif file.byte_fallback:
        pieces = byte_fallback_pieces(file)
    else:
        raise EdgeError(
            f"{path} holds a BPE tokenizer that is neither byte-level nor has byte fallback.",
            hint="llama.cpp cannot tokenize characters that such a vocabulary lacks.",
        )
    special = read_special_tokens(checkpoint, file.token_ids(), read_frame(file.post_processors))
    return pieces, special


def _read_tokenizer_model(checkpoint: Checkpoint, path: Path) -> tuple[Pieces, SpecialTokens]:
    model = read_sentencepiece_model(path)
    pieces = _sentencepiece_pieces(path, model, read_added_tokens(checkpoint.directory, checkpoint.tokenizer_config))
    token_ids = {token.text: number for number, token in pieces.tokens.items()}
    # as transformers' tokenizer classes for such files do
    special = read_special_tokens(checkpoint, token_ids, None, default_ids=model.role_ids, adds_bos_by_default=True)
    return pieces, special


def _sentencepiece_pieces(path: Path, model: SentencePieceModel, added_tokens: Sequence[AddedToken]) -> Pieces:
    check_bytes(path, {piece.text for piece in model.pieces})
    tokens = {
        number: sentencepiece_token(piece.type, piece.text, piece.score) for number, piece in enumerate(model.pieces)
    }
    for added in added_tokens:
        known = tokens.get(added.id)
        if known is None or known.text != added.text or known.type is TokenType.NORMAL:
            tokens[added.id] = sentencepiece_token(added.type, added.text, _UNUSED_SCORE)
    rules = TextRules(add_space_prefix=model.add_dummy_prefix)
    user_defined = [token.text for token in tokens.values() if token.type is TokenType.USER_DEFINED]
    spaces = space_behind(user_defined) if model.add_dummy_prefix else ()
    return Pieces(
        model="llama",
        pre="default",
        tokens=tokens,
        merges=None,
        rules=rules,
        limitations=(*added_token_limitations(added_tokens, rules), *spaces),
    )


def _false_ends(tokens: Sequence[Token]) -> Iterator[Limitation]:
    """llama.cpp takes some texts for the end of a generation, though Gemma has a "</s>" that only ends struck text."""
    for token in tokens:
        if token.text in KNOWN_ENDS and token.type in (TokenType.NORMAL, TokenType.USER_DEFINED):
            yield Limitation(
                f"llama.cpp ends a generation at {token.text!r}, which is an ordinary token of this tokenizer"
            )


def _unused(number: int) -> Token:
    return Token(f"[PAD{number}]", TokenType.UNUSED, score=_UNUSED_SCORE)


def _check_texts(tokens: Sequence[Token]) -> None:
    """llama.cpp aborts the process when two tokens have the same text, and ends a text at its first NUL."""
    seen: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if "\0" in token.text:
            raise EdgeError(f"Token {number} has a NUL in its text {token.text!r}, which llama.cpp cannot hold.")
        if seen.setdefault(token.text, number) != number:
            raise EdgeError(
                f"Tokens {seen[token.text]} and {number} have the same text {token.text!r}.",
                hint="A text can have one id only: remove one of them from the tokenizer.",
            )
