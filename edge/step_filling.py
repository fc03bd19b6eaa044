"""What goes into a decode step: next tokens of answers, chunks of prompts, and guesses.

Answers go in whole. Prompts have what room is left, and no more than slows the answers down a little; requests with
different adapters take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edge.job import Job
from edge.llama.context import Batch
from edge.prefix_cache import PrefixCache
from edge.slot import AdapterSet, Slot
from edge.step_times import StepTimes

MAX_GUESSES = 16
"""Guessed tokens in a step, of all requests together; for each, logits are computed."""
_SHORT_TOKENS = 8  # so many tokens of one request are fed in a step whatever else there is
_PREFILL_SLOWDOWN = 2.0  # a step with prompts in it may take so many times as long as one without


@dataclass(slots=True)
class Fed:
    """What of a request is in the batch: its next tokens, the last of them at `index`, and guesses at what follows,
    from `guesses_index` on."""

    slot: Slot
    tokens: list[int]
    index: int
    guesses: list[int] = field(default_factory=list)
    guesses_index: int = 0


class StepFilling:
    """Fills a batch for the requests that run. `use_adapters` lets the context compute with a set of adapters."""

    def __init__(
        self,
        batch: Batch,
        prefixes: PrefixCache,
        step_times: StepTimes,
        use_adapters: Callable[[AdapterSet], None],
    ) -> None:
        self._batch = batch
        self._prefixes = prefixes
        self._step_times = step_times
        self._use_adapters = use_adapters
        self._adapters_in_use: AdapterSet = ()
        self._free_guesses = 0

    def fill(self) -> list[Fed]:
        """Put the running requests' next tokens into the batch: answers whole, prompts where they do not disturb."""
        self._batch.clear()
        running = self._next_group()
        answering = [(slot, job) for slot, job in running if len(job.pending) <= _SHORT_TOKENS]
        if len(answering) > 1:
            answering.sort(key=lambda pair: len(pair[1].pending))  # where room is short, it is for one token of each
        prefilling = [(slot, job) for slot, job in running if len(job.pending) > _SHORT_TOKENS]
        fed = [each for slot, job in answering if (each := self._feed(slot, job, self._batch.room))]
        room = self._batch.room
        if prefilling and fed:
            room = self._step_times.largest_within(self._batch.count, _PREFILL_SLOWDOWN, room)
        prefilling.sort(key=lambda pair: len(pair[1].pending))  # what the short ones leave goes to the long ones
        for index, (slot, job) in enumerate(prefilling):
            each = self._feed(slot, job, room // (len(prefilling) - index))
            if each:
                fed.append(each)
                room -= len(each.tokens)
        if not prefilling:
            self._free_guesses = MAX_GUESSES
            for each in fed:
                self._add_guesses(each)
        return fed

    def _next_group(self) -> list[tuple[Slot, Job]]:
        """Running requests with one set of adapters; those with other sets have their turn in the next steps."""
        running = [(slot, slot.job) for slot in self._prefixes.busy if slot.job]
        if all(slot.adapters == self._adapters_in_use for slot, _ in running):
            return running
        sets = list(dict.fromkeys(slot.adapters for slot, _ in running))
        last = sets.index(self._adapters_in_use) if self._adapters_in_use in sets else -1
        chosen = sets[(last + 1) % len(sets)]
        self._use_adapters(chosen)
        self._adapters_in_use = chosen
        return [(slot, job) for slot, job in running if slot.adapters == chosen]

    def _feed(self, slot: Slot, job: Job, room: int) -> Fed | None:
        """Put a request's next tokens into the batch, up to where a checkpoint has to be made."""
        held = len(slot.held_tokens)
        if job.checkpoint_positions and job.is_prefilling:
            room = min([room, *(position - held for position in job.checkpoint_positions if position > held)])
        tokens = job.pending[:room]
        if not tokens:
            return None
        is_whole = len(tokens) == len(job.pending)
        index = self._batch.add(tokens, sequence=slot.sequence, position=held, last_logits=is_whole)
        return Fed(slot, tokens, index)

    def _add_guesses(self, fed: Fed) -> None:
        """Add guesses at what follows, where the request has some and there is room for them."""
        job = fed.slot.job
        if job is None or job.drafting is None or job.is_prefilling or len(fed.tokens) < len(job.pending):
            return  # not behind a prompt, where a checkpoint may be made of what the sequence then holds
        limit = min(self._batch.room, self._free_guesses, job.remaining_tokens - 1)
        guesses = job.drafting.draft(limit, self._batch.count) if limit > 0 else []
        self._free_guesses -= len(guesses)
        if guesses:
            position = len(fed.slot.held_tokens) + len(fed.tokens)
            fed.guesses = guesses
            fed.guesses_index = self._batch.add_all_wanted(guesses, sequence=fed.slot.sequence, position=position)
