"""Scores that make llama.cpp's SentencePiece tokenizer merge as a list of ranked merges does.

llama.cpp joins two neighbours whenever the joined text is a token, best token first, leftmost first. A list of merges
names the pairs and ranks them. The two agree if the list holds every pair whose joined text is a token
(`_check_closed`), and if the pairs that make one token are ranked next to each other, so that one score can stand for
them (`_check_ordered`). That is so for every vocabulary that SentencePiece trained; any other is refused.

One difference is left: where two ways to make the same token overlap ("ik"+"i" and "i"+"ki" in "ik|i|ki"), the list
takes the one of better rank and llama.cpp, like SentencePiece itself, the one further left.

Source: llm_tokenizer_spm in llama.cpp's src/llama-vocab.cpp; Word::merge_all in the tokenizers library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from edge.errors import EdgeError

Merge = tuple[str, str]


def scores_of_merges(merges: Sequence[Merge], texts: Set[str]) -> dict[str, float]:
    """The score of each token that a merge makes: the negative rank of its first merge.

    `texts` are all tokens that llama.cpp may find by their text. EdgeError when no scores reproduce the merges.
    """
    ranks = _ranks(merges)
    _check_closed(ranks, texts)
    spans = _rank_spans(ranks)
    _check_ordered(spans, ranks)
    return {text: -float(first) for text, (first, _) in spans.items()}


def _ranks(merges: Sequence[Merge]) -> dict[Merge, int]:
    ranks: dict[Merge, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge, rank)
    return ranks


def _check_closed(ranks: Mapping[Merge, int], texts: Set[str]) -> None:
    """Whether every two symbols whose joined text is a token may be merged; single characters are always symbols."""
    for text in texts:
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            is_pair = (cut == 1 or left in texts) and (cut == len(text) - 1 or right in texts)
            if is_pair and (left, right) not in ranks:
                _refuse(f"it joins {left!r} and {right!r}, which the tokenizer's merges do not")


def _rank_spans(ranks: Mapping[Merge, int]) -> dict[str, tuple[int, int]]:
    """First and last rank of the merges that make each token, in order of the first."""
    spans: dict[str, tuple[int, int]] = {}
    for (left, right), rank in ranks.items():
        first, _ = spans.get(left + right, (rank, rank))
        spans[left + right] = first, rank
    return spans


def _check_ordered(spans: Mapping[str, tuple[int, int]], ranks: Mapping[Merge, int]) -> None:
    """Whether tokens whose ranks overlap can never compete for a symbol."""
    open_spans: dict[str, int] = {}
    for text, (first, last) in spans.items():
        open_spans = {other: end for other, end in open_spans.items() if end > first}
        for other in open_spans:
            if not (set(text).isdisjoint(other) or _are_growing_runs(text, other, ranks)):
                _refuse(f"the merges that make {other!r} and {text!r} are ranked in turns")
        open_spans[text] = last


def _are_growing_runs(text: str, other: str, ranks: Mapping[Merge, int]) -> bool:
    """Whether both repeat one character that either tokenizer gathers from the left into ever longer runs.

    That is so if adding the character to a run ranks before starting another. Gemma ranks its runs of spaces so.
    """
    character = text[0]
    if {*text, *other} != {character}:
        return False
    additions = [(character * length, character) for length in range(1, max(len(text), len(other)))]
    return all(addition in ranks and ranks[addition] <= ranks[additions[0]] for addition in additions)


def _refuse(reason: str) -> None:
    raise EdgeError(
        f"llama.cpp's SentencePiece tokenizer would not give this tokenizer's token ids: {reason}.",
        hint="Only vocabularies that SentencePiece trained can be converted with byte fallback.",
    )
