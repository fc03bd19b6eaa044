"""Trains the tokenizers of the tiny checkpoints on `corpus.txt` and writes each as a tokenizer.json.

Each has the structure of its family's real tokenizer (pre-tokenizer, byte fallback, prefix space, order of the special
tokens) with a few hundred tokens. Run again only to change them: golden logits depend on the vocabulary sizes.

    python -m tests.tokenizers.train
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

FOLDER = Path(__file__).parent
SPACE = "▁"  # SentencePiece writes a space as U+2581
CORPUS = (FOLDER / "corpus.txt").read_text(encoding="utf-8")
BYTE_CHARACTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]

# Source: tokenizer.json of Meta's Llama 3 and Alibaba's Qwen2 releases
LLAMA3_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_REGEX = LLAMA3_REGEX.replace(r"\p{N}{1,3}", r"\p{N}")

LLAMA3_SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
]
QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_ORDINARY = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
SMALL_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|user|>"]  # the last for llama.cpp's converter of GLM
SMOLLM2_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>", "<jupyter_code>"]
LLAMA2_SPECIAL = ["<unk>", "<s>", "</s>"]
GEMMA2_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
GEMMA2_TURNS = ["<start_of_turn>", "<end_of_turn>"]
# not special, and found in a text before anything is merged; the runs are pieces with merges as well, longest first
GEMMA2_UNUSED = ["<unused0>", "<unused1>"]
GEMMA2_NEWLINES = ["\n\n\n\n", "\n\n\n", "\n\n"]
GEMMA2_TAGS = ["<table>", "</table>"]
GEMMA2_SPACES = [SPACE * 4, SPACE * 3, SPACE * 2]

Merge = tuple[str, str]


def trained(
    pre_tokenizer: pre_tokenizers.PreTokenizer, texts: Sequence[str], characters: Sequence[str], count: int
) -> list[Merge]:
    """The first `count` merges that byte-pair encoding finds over texts of these characters, most frequent first."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=len(characters) + count,
        initial_alphabet=list(characters),
        limit_alphabet=len(characters),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    assert len(merges) == count, f"{len(merges)} merges instead of {count}"
    return [(left, right) for left, right in merges]


def numbered(*groups: Sequence[str]) -> dict[str, int]:
    """Ids of the tokens in the order given."""
    tokens = [token for group in groups for token in group]
    assert len(tokens) == len(set(tokens)), "a token is given twice"
    return {token: number for number, token in enumerate(tokens)}


def template(bos: str, bos_id: int) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, bos_id)]
    )


def byte_level(split: pre_tokenizers.PreTokenizer, use_regex: bool = False) -> pre_tokenizers.PreTokenizer:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    return pre_tokenizers.Sequence([split, level])


def byte_level_merges(pre_tokenizer: pre_tokenizers.PreTokenizer, count: int) -> list[Merge]:
    return trained(pre_tokenizer, [CORPUS], BYTE_CHARACTERS, count)


def byte_level_tokenizer(
    pre_tokenizer: pre_tokenizers.PreTokenizer,
    vocabulary: dict[str, int],
    merges: list[Merge],
    *,
    ignore_merges: bool = False,
) -> Tokenizer:
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def llama3() -> Tokenizer:
    """Byte-level BPE in which some whole words are tokens that no merge leads to."""
    pre_tokenizer = byte_level(pre_tokenizers.Split(Regex(LLAMA3_REGEX), "isolated"))
    merges = byte_level_merges(pre_tokenizer, 356)
    whole_words = ["Ġbeekeeper", "Ġcapital", "Paris", "Ġ2024"]
    vocabulary = numbered(BYTE_CHARACTERS, ["".join(merge) for merge in merges], whole_words)
    tokenizer = byte_level_tokenizer(pre_tokenizer, vocabulary, merges, ignore_merges=True)
    tokenizer.add_special_tokens(LLAMA3_SPECIAL)
    bos = template(LLAMA3_SPECIAL[0], len(vocabulary))
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos])
    return tokenizer


def qwen() -> Tokenizer:
    """Byte-level BPE with single digits; text is normalized to NFC; some added tokens are not special."""
    pre_tokenizer = byte_level(pre_tokenizers.Split(Regex(QWEN2_REGEX), "isolated"))
    merges = byte_level_merges(pre_tokenizer, 361)
    vocabulary = numbered(BYTE_CHARACTERS, ["".join(merge) for merge in merges])
    tokenizer = byte_level_tokenizer(pre_tokenizer, vocabulary, merges)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(QWEN_SPECIAL)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in QWEN_ORDINARY])
    return tokenizer


def small() -> Tokenizer:
    """Hardly more than the bytes, for families whose tokenizer is nothing new: small vocabularies make small files."""
    pre_tokenizer = byte_level(pre_tokenizers.Split(Regex(QWEN2_REGEX), "isolated"))
    merges = byte_level_merges(pre_tokenizer, 60)
    vocabulary = numbered(SMALL_SPECIAL, BYTE_CHARACTERS, ["".join(merge) for merge in merges])
    tokenizer = byte_level_tokenizer(pre_tokenizer, vocabulary, merges)
    tokenizer.add_special_tokens(SMALL_SPECIAL)
    return tokenizer


def smollm2() -> Tokenizer:
    """Byte-level BPE with GPT-2's regex after single digits; the special tokens come first."""
    pre_tokenizer = byte_level(pre_tokenizers.Digits(individual_digits=True), use_regex=True)
    merges = byte_level_merges(pre_tokenizer, 346)
    vocabulary = numbered(SMOLLM2_SPECIAL, BYTE_CHARACTERS, ["".join(merge) for merge in merges])
    tokenizer = byte_level_tokenizer(pre_tokenizer, vocabulary, merges)
    tokenizer.post_processor = None
    tokenizer.add_special_tokens(SMOLLM2_SPECIAL)
    return tokenizer


def pieces() -> tuple[list[str], list[str]]:
    """Pieces as SentencePiece numbers them: merged ones, most frequent first, and the single characters.

    Beyond ASCII only the characters that are frequent in the corpus are pieces, so that byte fallback has work to do.
    """
    ascii_characters = list(map(chr, range(0x21, 0x7F)))
    counts = Counter(character for character in CORPUS if ord(character) > 0x7F)
    frequent = sorted(counts, key=lambda character: (-counts[character], character))[:50]
    characters = [SPACE, *ascii_characters, *frequent]
    pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    merges = trained(pre_tokenizer, CORPUS.splitlines(), characters, 260)
    return list(dict.fromkeys(left + right for left, right in merges)), characters


def all_merges(ranked: Sequence[str], vocabulary: dict[str, int]) -> list[Merge]:
    """Every way to join two tokens into a ranked piece, best piece first: SentencePiece has no list of merges.

    Source: transformers, convert_slow_tokenizer.py (generate_merges).
    """
    merges = []
    for piece in ranked:
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [split for split in splits if split[0] in vocabulary and split[1] in vocabulary]
        merges += sorted(known, key=lambda split: (vocabulary[split[0]], vocabulary[split[1]]))
    return merges


def sentencepiece_tokenizer(
    vocabulary: dict[str, int], merges: list[Merge], unknown: str | None, *, prefix_space: bool
) -> Tokenizer:
    model = BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix_space else steps)
    return tokenizer


def llama2_vocabulary() -> tuple[dict[str, int], list[Merge]]:
    merged, characters = pieces()
    ranked = [SPACE * 2, SPACE * 4, *merged]
    vocabulary = numbered(LLAMA2_SPECIAL, BYTE_TOKENS, ranked, characters)
    return vocabulary, all_merges(ranked, vocabulary)


def llama2() -> Tokenizer:
    """SentencePiece-like BPE as transformers 5 saves it: the prefix space is a pre-tokenizer, there is no unknown."""
    tokenizer = sentencepiece_tokenizer(*llama2_vocabulary(), None, prefix_space=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False)
    tokenizer.add_special_tokens(LLAMA2_SPECIAL)
    tokenizer.post_processor = template("<s>", 1)
    return tokenizer


def mistral() -> Tokenizer:
    """The same vocabulary as published with Llama 2 and Mistral 7B: the prefix space is a normalizer."""
    tokenizer = sentencepiece_tokenizer(*llama2_vocabulary(), "<unk>", prefix_space=True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.add_special_tokens(LLAMA2_SPECIAL)
    tokenizer.post_processor = template("<s>", 1)
    return tokenizer


def gemma2() -> Tokenizer:
    """SentencePiece-like BPE without prefix space, with runs of newlines and spaces as tokens of their own."""
    merged, characters = pieces()
    control = [*GEMMA2_SPECIAL, *GEMMA2_UNUSED, *GEMMA2_TURNS]
    runs = [*GEMMA2_NEWLINES, "\n", *GEMMA2_TAGS]
    vocabulary = numbered(control, runs, BYTE_TOKENS, GEMMA2_SPACES, merged, characters)
    merges = all_merges([*GEMMA2_NEWLINES, *GEMMA2_SPACES, *merged], vocabulary)
    tokenizer = sentencepiece_tokenizer(vocabulary, merges, "<unk>", prefix_space=False)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.add_special_tokens([*GEMMA2_SPECIAL, *GEMMA2_TURNS])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in [*GEMMA2_UNUSED, *runs, *GEMMA2_SPACES]])
    tokenizer.post_processor = template("<bos>", 2)
    return tokenizer


TOKENIZERS = {
    "llama2": llama2,
    "mistral": mistral,
    "llama3": llama3,
    "smollm2": smollm2,
    "gemma2": gemma2,
    "qwen": qwen,
    "small": small,
}


def main() -> None:
    for name, make in TOKENIZERS.items():
        folder = FOLDER / name
        folder.mkdir(exist_ok=True)
        tokenizer = make()
        (folder / "tokenizer.json").write_text(tokenizer.to_str() + "\n", encoding="utf-8")
        print(f"{name}: {tokenizer.get_vocab_size()} tokens, {(folder / 'tokenizer.json').stat().st_size} bytes")


if __name__ == "__main__":
    main()
