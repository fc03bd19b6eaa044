"""What the context holds of earlier prompts, and how the next one continues from it.

A prompt continues from the longest prefix that any sequence holds. It takes the sequence over where that one goes on
with it, and else shares its cells, so that two conversations with the same beginning do not drive each other out.

Layers with a sliding window or a recurrent state forget on their way. Such a sequence can be cut back only as far as
its window reaches, or to a checkpoint: a copy of those layers' state that was made behind a prompt, or where prompts
were seen to part.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edge.job import Job
from edge.slot import AdapterSet, Checkpoint, Slot, common_prefix

_WORTH_KEEPING_TOKENS = 32  # a shorter prefix is computed again sooner than it is saved


class SequenceMemory(Protocol):
    """The memory of a context; `edge.llama.context.Context` is one."""

    @property
    def context_tokens(self) -> int: ...
    def remove(self, sequence: int, first_position: int) -> bool: ...
    def first_position(self, sequence: int) -> int: ...
    def copy(self, source: int, target: int, end_position: int) -> None: ...
    def save_state(self, sequence: int, *, partial: bool = ...) -> bytes: ...
    def restore_state(self, sequence: int, state: bytes | memoryview, *, partial: bool = ...) -> bool: ...


@dataclass(frozen=True)
class _Start:
    """Where a prompt can begin: behind `kept` tokens of `source`, by way of a checkpoint where one is needed."""

    source: Slot
    kept: int
    checkpoint: Checkpoint | None


class PrefixCache:
    """The sequences of a context. Everything here is called between two decode steps."""

    def __init__(
        self,
        memory: SequenceMemory,
        sequences: int,
        *,
        sliding_window: int = 0,
        is_recurrent: bool = False,
        checkpoint_bytes: int = 0,
    ) -> None:
        self.slots = [Slot(sequence) for sequence in range(sequences)]
        self.busy: list[Slot] = []
        """Those with a request, in the order in which these came."""
        self._memory = memory
        self._sliding_window = sliding_window
        self.is_recurrent = is_recurrent
        self._checkpoint_bytes = checkpoint_bytes
        self._worth_keeping_tokens = _WORTH_KEEPING_TOKENS
        self._next_cell = 0

    @property
    def idle(self) -> list[Slot]:
        return [slot for slot in self.slots if not slot.job]

    @property
    def forgets(self) -> bool:
        """Whether going back to an earlier token may need a checkpoint."""
        return bool(self._sliding_window) or self.is_recurrent

    # A request comes

    def place(self, job: Job) -> tuple[Slot, int] | None:
        """Give a request a sequence that holds as much of its prompt as possible; gives it and how many tokens that is.

        None, and nothing changed, while no sequence is idle or the room that the request may need is not there.
        """
        idle = self.idle
        start = self._best_start(job)
        if not idle or not self._has_room(job, start):
            return None
        self._plan_checkpoints(job, start.kept if start else 0)
        target = self._target(start, idle)
        kept = self._take_over(target, start) if start else self._forget(target)
        target.adapters = job.adapters
        target.job = job
        self.busy.append(target)
        self._evict()
        return target, kept

    def _plan_checkpoints(self, job: Job, kept: int) -> None:
        """Ask for checkpoints behind a prompt, and where it parts from another one that was of no more help to it."""
        if not self.forgets:
            return
        parting = max(self._common(job, slot) for slot in self.slots)
        if parting > kept:
            job.checkpoint_positions.add(parting)
        job.checkpoint_positions.add(len(job.prompt) - self.is_recurrent)
        job.checkpoint_positions = {each for each in job.checkpoint_positions if each >= self._worth_keeping_tokens}

    def is_about_to_hold(self, job: Job) -> bool:
        """Whether a prompt that is being computed will soon give this one a longer prefix than there is now.

        Where that takes a checkpoint, it is asked for.
        """
        start = self._best_start(job)
        now = start.kept if start else 0
        for slot in self.busy:
            other = slot.job
            if other is None or not other.is_prefilling or slot.adapters != job.adapters:
                continue
            shared = min(common_prefix(job.prompt, other.prompt), len(job.prompt) - 1)
            is_worth_it = shared - now >= min(self._worth_keeping_tokens, (len(job.prompt) - now) // 2)
            if is_worth_it and shared > max(now, len(slot.held_tokens)):
                self._ask_for_checkpoint(other, shared)
                return True
        return False

    def _ask_for_checkpoint(self, job: Job, position: int) -> None:
        is_near = job.checkpoint_positions & {position, position + self._reach}
        if self.forgets and position >= self._worth_keeping_tokens and not is_near:
            job.checkpoint_positions.add(position)

    @property
    def _reach(self) -> int:
        """How far in front of a checkpoint a sequence may go on: a window also shows what its last token has seen."""
        return 0 if self.is_recurrent else 1

    def _common(self, job: Job, slot: Slot) -> int:
        """How much of a prompt a slot holds, but for its last token, which is always computed, for its logits."""
        return min(slot.common_prefix(job.prompt), len(job.prompt) - 1) if slot.adapters == job.adapters else 0

    def _best_start(self, job: Job) -> _Start | None:
        """The longest prefix of a prompt that can be had; of equally long ones, that used last."""
        starts = [start for slot in self.slots if (start := self._start(job, slot)) and start.kept]
        return max(starts, key=lambda start: (start.kept, start.source.last_used), default=None)

    def _start(self, job: Job, slot: Slot) -> _Start | None:
        """How far a slot helps with a prompt."""
        common = self._common(job, slot)
        if not self.forgets or self._remembers(slot, common):
            return _Start(slot, common, None)
        known = [checkpoint for checkpoint in slot.checkpoints if checkpoint.position <= common + self._reach]
        if not known:
            return None
        checkpoint = max(known, key=lambda checkpoint: checkpoint.position)
        return _Start(slot, min(checkpoint.position, common), checkpoint)

    def _remembers(self, slot: Slot, position: int) -> bool:
        """Whether a sequence still has all that the next token behind its first `position` ones has to see."""
        if position == len(slot.held_tokens):
            return True
        oldest_seen = max(0, position - self._sliding_window + 1)
        return not self.is_recurrent and self._memory.first_position(slot.sequence) <= oldest_seen

    def _target(self, start: _Start | None, idle: list[Slot]) -> Slot:
        """The sequence that a prompt will live in: its source, if that is idle and little of it is lost thereby.

        Else the one that is empty, or unused for longest.
        """
        others = [slot for slot in idle if start is None or slot is not start.source]
        oldest = min(others, key=lambda slot: (bool(slot.held_tokens), slot.last_used), default=None)
        if start is None or start.source.job:
            assert oldest is not None
            return oldest
        lost_tokens = len(start.source.held_tokens) - start.kept
        is_cheaper = oldest is None or 2 * lost_tokens < len(oldest.held_tokens)
        return start.source if oldest is None or not lost_tokens or is_cheaper else oldest

    def _take_over(self, target: Slot, start: _Start) -> int:
        """Let a sequence hold a prefix and nothing else; gives its length, 0 if the memory could not do it."""
        checkpoint = start.checkpoint
        if target is not start.source:
            self._memory.remove(target.sequence, 0)
            self._memory.copy(start.source.sequence, target.sequence, start.kept)
            target.share(start.source, start.kept)
            if self.forgets and checkpoint is None:  # a window's cells are reused, which they must not be if shared
                checkpoint = Checkpoint(start.kept, self._memory.save_state(target.sequence, partial=True))
                target.checkpoints.append(checkpoint)
        if checkpoint:
            checkpoint.last_used = time.perf_counter()
            if not self._memory.restore_state(target.sequence, checkpoint.state, partial=True):
                return self._forget(target)
        if not self._memory.remove(target.sequence, start.kept):
            return self._forget(target)
        target.cut(start.kept)
        self._drop_checkpoints()
        return start.kept

    # Room

    def _has_room(self, job: Job, start: _Start | None) -> bool:
        """Whether the cells of everything that runs, and of all that it may still write, leave enough for a request."""
        busy = self.busy
        kept = start.source.cells[: start.kept] if start else []
        cells = set(kept).union(*(slot.cells for slot in busy))
        future = sum(slot.future_tokens for slot in busy) + job.reserved_tokens - len(kept)
        return len(cells) + future <= self._memory.context_tokens

    def _evict(self) -> None:
        """Forget idle sequences, the longest unused first, until there is room for all that runs."""
        future = sum(slot.future_tokens for slot in self.busy)
        kept = [slot for slot in self.idle if slot.held_tokens]
        for slot in sorted(kept, key=lambda slot: slot.last_used):
            cells = set[int]().union(*(other.cells for other in self.slots))
            if len(cells) + future <= self._memory.context_tokens:
                return
            self._forget(slot)

    def forget_idle(self) -> bool:
        """Empty every idle sequence; False if they were."""
        kept = [slot for slot in self.idle if slot.held_tokens]
        for slot in kept:
            self._forget(slot)
        return bool(kept)

    def _forget(self, slot: Slot) -> int:
        self._memory.remove(slot.sequence, 0)
        slot.cut(0)
        return 0

    # A request runs

    def computed(self, slot: Slot, tokens: Sequence[int]) -> None:
        """Note that tokens were fed to a sequence, and make the checkpoint that its prompt asked for behind them."""
        slot.hold(tokens, self._next_cell)
        self._next_cell += len(tokens)
        if self.forgets and slot.job and len(slot.held_tokens) in slot.job.checkpoint_positions:
            self._save(slot)

    def drop_behind(self, slot: Slot) -> None:
        """Remove from the context what a sequence was fed behind the tokens that it holds."""
        removed = self._memory.remove(slot.sequence, len(slot.held_tokens))
        assert removed, "only memory that can be cut back is fed guesses"

    def release(self, slot: Slot) -> Job:
        """Take the request out of a slot, which keeps its tokens for later prompts."""
        job = slot.job
        assert job is not None
        slot.job = None
        self.busy.remove(slot)
        slot.last_used = time.perf_counter()
        return job

    def _save(self, slot: Slot) -> None:
        """Make a checkpoint, if there is none at this place."""
        position = len(slot.held_tokens)
        if any(checkpoint.position == position for checkpoint in slot.checkpoints):
            return
        slot.checkpoints.append(Checkpoint(position, self._memory.save_state(slot.sequence, partial=True)))
        self._drop_checkpoints()

    def _drop_checkpoints(self) -> None:
        """Drop those unused for longest beyond the memory that they may take."""
        known = {checkpoint for slot in self.slots for checkpoint in slot.checkpoints}
        for dropped in _beyond(known, self._checkpoint_bytes):
            for slot in self.slots:
                slot.checkpoints = [checkpoint for checkpoint in slot.checkpoints if checkpoint is not dropped]

    # Prefixes on a disk

    def longest(self, tokens: Sequence[int], adapters: AdapterSet) -> tuple[Slot, int] | None:
        """The sequence that holds most of these tokens, and how many; None if none holds any."""
        matching = [slot for slot in self.slots if slot.adapters == adapters]
        found = max(matching, key=lambda slot: slot.common_prefix(tokens), default=None)
        count = found.common_prefix(tokens) if found else 0
        return (found, count) if found and count else None

    def adopt(self, tokens: Sequence[int], state: bytes | memoryview, adapters: AdapterSet) -> bool:
        """Put a saved state of these tokens into the idle sequence unused for longest. False if there is no room."""
        slot = min(self.idle, key=lambda slot: (bool(slot.held_tokens), slot.last_used), default=None)
        if slot is None:
            return False
        self._forget(slot)
        while not self._memory.restore_state(slot.sequence, state):
            others = [other for other in self.idle if other.held_tokens]
            if not others:
                return False
            self._forget(min(others, key=lambda other: other.last_used))
        slot.adapters = adapters
        slot.last_used = time.perf_counter()
        self.computed(slot, tokens)
        if self.forgets:
            self._save(slot)  # for other prompts that begin so, when the one that comes now has gone on
        return True


def _beyond(checkpoints: Iterable[Checkpoint], limit_bytes: int) -> list[Checkpoint]:
    """The checkpoints for which a limit has no room, the last used ones being kept first."""
    dropped, total = [], 0
    for checkpoint in sorted(checkpoints, key=lambda checkpoint: checkpoint.last_used, reverse=True):
        total += len(checkpoint.state)
        if total > limit_bytes:
            dropped.append(checkpoint)
    return dropped
