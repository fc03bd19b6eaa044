"""What the engine bench is run with: models, threads, how often, and settings that all rows share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge.request import Request
from edge.settings import ModelSettings, SamplingSettings
from edge.text_engine import TextEngine

SLIDING_MODEL = Path("gemma") / "gemma-3-270m-q4_k_m.gguf"
"""In edge's cache, where tools/gemma_model.py puts it."""
NO_SLIDING_MODEL = "there is no Gemma: see tools/gemma_model.py, or give a file with --gemma"
PREFILL_TOKENS = 512
OPENINGS = (
    "Once upon a time there was a lighthouse",
    "The old railway station had been empty since",
    "My grandmother used to say that every garden",
    "In the middle of the desert stood a small",
    "Nobody in the village could remember when the",
    "The first thing she noticed about the letter",
    "There are three kinds of sailors in this",
    "When the snow finally melted in April, the",
)
"""Prompts of about the same length, one for each stream; their continuations have no reason to end soon."""


@dataclass(frozen=True)
class Case:
    """Models and effort. A row that needs what is None is skipped, and says so."""

    model: Path
    sliding_model: Path | None
    """One with a sliding window and a large vocabulary: Gemma 3 270M."""
    threads: int
    rounds: int
    tokens: int
    """Tokens of each stream that are timed in a round."""
    schema: str
    maskbench: Path | None = None
    """A folder of MaskBench files."""
    kills: int = 50

    def settings(
        self,
        streams: int,
        *,
        context_tokens: int | None = None,
        speculates: bool = False,
    ) -> ModelSettings:
        """For so many streams of short prompts. Without speculation, a token is a row of a decode step."""
        return ModelSettings(
            context_tokens=context_tokens or self.context_tokens(streams),
            parallel=streams,
            threads=self.threads,
            prefill_tokens=PREFILL_TOKENS,
            speculation="prompt" if speculates else "off",
        )

    def context_tokens(self, streams: int) -> int:
        """Room for each stream's opening and its tokens, in whole blocks of the KV cache."""
        return streams * (-(-(self.tokens + 64) // 256) * 256)


def model_name(path: Path) -> str:
    """As it stands in the table: the file's, without what says how it is quantized, where a dot sets that apart."""
    return path.name.split(".")[0]


def openings(engine: TextEngine, count: int) -> Sequence[tuple[int, ...]]:
    """Prompts for so many streams."""
    return [engine.text_tokens(OPENINGS[index % len(OPENINGS)]) for index in range(count)]


def free_requests(
    prompts: Sequence[tuple[int, ...]], sampling: SamplingSettings, tokens: int, round_number: int
) -> list[Request]:
    """Free text behind each prompt, up to the last token that is timed; the first one belongs to the prompt."""
    return [
        Request(
            prompt,
            replace(sampling, seed=round_number * len(prompts) + place),
            max_tokens=tokens + 1,
            ignore_eos=True,
        )
        for place, prompt in enumerate(prompts)
    ]
