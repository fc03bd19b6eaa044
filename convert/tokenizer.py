"""A checkpoint's tokenizer as a GGUF vocabulary with which llama.cpp gives the token ids of the `tokenizers` library.

Three kinds are known:

    byte-level BPE            tokenizer.json      model "gpt2": tokens and merges, a named pre-tokenizer
    BPE with byte fallback    tokenizer.json      model "llama": scores from the ranks of the merges
    SentencePiece BPE         tokenizer.model     model "llama": its pieces, scores and types

Where a checkpoint has both files, tokenizer.json is taken: transformers loads it, fine-tuning adds its tokens to it,
and newer releases of transformers save it alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from convert.byte_pair import byte_fallback_pieces, byte_level_pieces
from convert.checkpoint import Checkpoint
from convert.pretokenizers import is_byte_level
from convert.special_tokens import SpecialTokens, read_frame, read_special_tokens
from convert.tokenizer_json import read_tokenizer_json
from convert.vocabulary import Pieces, Token, TokenType, Vocabulary
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
        limitations=pieces.limitations,
    )


def _read(checkpoint: Checkpoint) -> tuple[Pieces, SpecialTokens]:
    if checkpoint.tokenizer_json is None:
        raise EdgeError(
            f"{checkpoint.directory} has neither tokenizer.json nor tokenizer.model.",
            hint="Save the tokenizer again: AutoTokenizer.from_pretrained(...).save_pretrained(...).",
        )
    file = read_tokenizer_json(checkpoint.tokenizer_json)
    if is_byte_level(file.pre_tokenizer):
        pieces = byte_level_pieces(file)
    elif file.byte_fallback:
        pieces = byte_fallback_pieces(file)
    else:
        raise EdgeError(
            f"{file.path} is neither byte-level (a ByteLevel pre-tokenizer) nor has it byte fallback.",
            hint="llama.cpp could not tokenize characters that are not in the vocabulary.",
        )
    frame = read_frame(file.post_processor)
    return pieces, read_special_tokens(checkpoint, file.token_ids(), frame, adds_bos_by_default=False)


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
