"""Guesses at what comes next from a small model with the same vocabulary.

It has a context of its own with a sequence for each of the engine's, and runs in the thread that asks for a draft.
Knows nothing of whether its guesses turn out to be right, but how sure it was of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from edge.adapter_check import check_is_model
from edge.devices import physical_cores
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.llama.context import Batch, CacheFullError, Context
from edge.llama.model import Model
from edge.llama.vocab import Vocab
from edge.settings import ModelSettings

_CATCH_UP_TOKENS = 128
"""Tokens of the text that are computed for one draft at most, so that nobody waits long while a prompt is taken in."""
_USUAL_TOKENS = 8192
"""The context at most where the settings name none, as for the model it drafts for."""
_SMALLEST_CHANCE = 0.4
"""A draft ends where all of it is right less often than this: what follows would hardly ever count."""


@dataclass
class _Sequence:
    """What the context holds for one of the engine's sequences."""

    held_tokens: list[int] = field(default_factory=list)
    state: bytes | None = None
    """Of what cannot be cut back, after the first `state_tokens` of the tokens."""
    state_tokens: int = 0
    last_use: int = 0


class DraftModel:
    """A small model beside another one. A context manager that frees it.

    `vocab` is that of the model it drafts for; EdgeError, with what differs, if its own is another. The settings are
    that model's; adapters in them are left aside.
    """

    def __init__(
        self, path: Path, vocab: Vocab, settings: ModelSettings, *, smallest_chance: float = _SMALLEST_CHANCE
    ) -> None:
        file = read_gguf(path)
        check_is_model(file)
        with ExitStack() as opened:
            model = opened.enter_context(
                Model(
                    file.path,
                    gpu_layers=settings.gpu_layers,
                    gpu_split=settings.gpu_split,
                    repack_weights=settings.repack_weights,
                )
            )
            _check_vocabulary(path, model.vocab, vocab)
            trained = model.trained_context_tokens
            self.context = opened.enter_context(
                Context(
                    model,
                    context_tokens=settings.context_tokens or min(trained, _USUAL_TOKENS),
                    sequences=settings.parallel,
                    threads=settings.threads or physical_cores(),
                    batch_tokens=_CATCH_UP_TOKENS,
                    flash_attention=settings.flash_attention,
                )
            )
            self._opened = opened.pop_all()
        self.smallest_chance = smallest_chance
        self.longest_text_tokens = min(self.context.context_tokens, trained)
        self._sliding_window = model.sliding_window
        self._batch = Batch(self.context.batch_tokens, settings.parallel)
        self._sequences = [_Sequence() for _ in range(settings.parallel)]
        self._uses = 0
        self._cannot_be_cut = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._opened.close()

    def drafter(self, sequence: int, tokens: Sequence[int]) -> ModelDrafter:
        """What drafts for a text in one of the engine's sequences, in place of what drafted for its last one."""
        return ModelDrafter(self, sequence, tokens)

    def held_tokens(self, sequence: int) -> list[int]:
        return self._sequences[sequence].held_tokens

    def cut(self, number: int, kept: int) -> int:
        """Cut a sequence back to its first `kept` tokens, or fewer if that is not possible; gives how many are left."""
        sequence = self._sequences[number]
        self._uses += 1
        sequence.last_use = self._uses
        if kept < len(sequence.held_tokens):
            kept = self._cut_cache(number, kept)
            del sequence.held_tokens[kept:]
        if sequence.state_tokens > kept:
            sequence.state, sequence.state_tokens = None, 0
        return kept

    def _cut_cache(self, number: int, kept: int) -> int:
        lost_window = self._sliding_window and self.context.first_position(number) > max(0, kept - self._sliding_window)
        if not lost_window and self.context.remove(number, kept):
            return kept
        self._cannot_be_cut = True
        sequence = self._sequences[number]
        if sequence.state and sequence.state_tokens <= kept:
            is_restored = self.context.restore_state(number, sequence.state, partial=True)
            if is_restored and self.context.remove(number, sequence.state_tokens):
                return sequence.state_tokens
        self.context.remove(number, 0)
        return 0

    def feed(self, number: int, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Compute tokens of a sequence, as many as fit a batch; gives the logits that follow from the last."""
        sequence = self._sequences[number]
        self._batch.clear()
        last = self._batch.add(tokens, sequence=number, position=len(sequence.held_tokens), last_logits=True)
        try:
            self.context.decode(self._batch)
        except CacheFullError:
            self._forget_another(number)
            raise
        sequence.held_tokens += tokens
        return self.context.logits(last)

    def save_state(self, number: int) -> None:
        """Keep a state to return to, if the memory is of a kind that needs one."""
        sequence = self._sequences[number]
        if self._cannot_be_cut:
            sequence.state = self.context.save_state(number, partial=True)
            sequence.state_tokens = len(sequence.held_tokens)

    def _forget_another(self, number: int) -> None:
        """Make room by forgetting the sequence that was not used for the longest time."""
        others = [index for index, other in enumerate(self._sequences) if index != number and other.held_tokens]
        if others:
            oldest = min(others, key=lambda index: self._sequences[index].last_use)
            self.context.remove(oldest, 0)
            self._sequences[oldest] = _Sequence()


class ModelDrafter:
    """The drafts for one text. Greedy, and only as far as the model is sure."""

    def __init__(self, model: DraftModel, sequence: int, tokens: Sequence[int]) -> None:
        self._model = model
        self._sequence = sequence
        self._text = list(tokens)
        self._agreed_tokens = 0
        """So many tokens that are held are those of the text, as far as was looked."""
        self._has_caught_up = False
        self._chances: list[float] = []

    @property
    def chances(self) -> Sequence[float]:
        """For each token of the last draft, the probability that the model gave it."""
        return self._chances

    @property
    def is_behind(self) -> bool:
        """Whether the prompt is still being taken in, so that there are no drafts yet."""
        return not self._has_caught_up

    def extend(self, tokens: Sequence[int]) -> None:
        self._text += tokens

    def draft(self, limit: int) -> list[int]:
        """The likeliest tokens, up to `limit` or to where they are no longer likely; none while it is behind."""
        self._chances = []
        limit = min(limit, self._model.longest_text_tokens - len(self._text))
        if limit < 1 or not self._text:
            self._has_caught_up = True  # it never will
            return []
        try:
            logits = self._catch_up()
            return [] if logits is None else self._continue(logits, limit)
        except CacheFullError:
            self._chances = []
            return []

    def _catch_up(self) -> npt.NDArray[np.float32] | None:
        """Feed what is new of the text; the logits that follow from its end, or None if there is more to feed."""
        kept = self._model.cut(self._sequence, min(self._common_tokens(), len(self._text) - 1))
        fed = self._text[kept : kept + self._model.context.batch_tokens]
        logits = self._model.feed(self._sequence, fed)
        self._agreed_tokens = kept + len(fed)
        if self._agreed_tokens < len(self._text):
            return None
        self._has_caught_up = True
        self._model.save_state(self._sequence)
        return logits

    def _common_tokens(self) -> int:
        """How many of the tokens that are held are those of the text."""
        held = self._model.held_tokens(self._sequence)
        longest = min(len(held), len(self._text))
        common = min(self._agreed_tokens, longest)
        while common < longest and held[common] == self._text[common]:
            common += 1
        return common

    def _continue(self, logits: npt.NDArray[np.float32], limit: int) -> list[int]:
        """Greedy tokens as long as all of them together are likely. The last of them is not computed itself."""
        draft: list[int] = []
        chance_of_all = 1.0
        while True:
            token, chance = _likeliest(logits)
            chance_of_all *= chance
            if chance_of_all < self._model.smallest_chance:
                return draft
            draft.append(token)
            self._chances.append(chance)
            if len(draft) == limit:
                return draft
            try:
                logits = self._model.feed(self._sequence, [token])
            except CacheFullError:
                return draft


def _likeliest(logits: npt.NDArray[np.float32]) -> tuple[int, float]:
    """The token with the highest logit and its probability."""
    token = int(logits.argmax())
    return token, float(1 / np.exp(logits - logits[token]).sum())


def _check_vocabulary(path: Path, drafting: Vocab, wanted: Vocab) -> None:
    """EdgeError, with the first difference, if two vocabularies are not the same."""
    hint = "Draft with a smaller model of the same family, which has the same tokenizer."
    if drafting.size != wanted.size:
        raise EdgeError(
            f"{path} cannot draft for this model: it has a vocabulary of {drafting.size} tokens, the model one of"
            f" {wanted.size}.",
            hint=hint,
        )
    for token in range(wanted.size):
        if drafting.text(token) != wanted.text(token):
            raise EdgeError(
                f"{path} cannot draft for this model: its token {token} is {drafting.text(token)!r}, the model's"
                f" {wanted.text(token)!r}.",
                hint=hint,
            )
