"""A model and a context without weights, for tests of the engine's loop.

The next token follows from everything that a sequence holds, so that a token fed twice, left out or left over from an
earlier request shows in the text. A position that is not the next one, or whose window is lost, fails at once.
"""

from __future__ import annotations

import itertools
import pickle
import threading
import zlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt

from edge.constraint import Constraint
from edge.errors import EdgeError
from edge.llama.context import Batch, CacheFullError
from edge.llama.sampler import PlainChoice

VOCABULARY_SIZE = 64
END = 0
_SPARE_POSITIONS = 4  # a sliding-window cache is somewhat larger than the window


class FakeVocab:
    """Tokens are single characters; the first one ends a generation."""

    size = VOCABULARY_SIZE
    end_tokens = frozenset({END})

    def piece(self, token: int) -> bytes:
        return b"" if token == END else bytes([ord("0") + token])


class FakeModel:
    """What the loop needs of a model."""

    def __init__(self, *, sliding_window: int = 0, is_recurrent: bool = False) -> None:
        self.vocab = FakeVocab()
        self.sliding_window = sliding_window
        self.is_recurrent = is_recurrent


class FakeContext:
    """Keeps the tokens of each sequence. `batches` are the tokens of each decode step, by sequence.

    With a sliding window, positions long behind the last one are lost for good, even if the sequence is cut back.
    `before_step` is called with the number of each step, and no step is made while `is_free` is not set. `can_cut` is
    False for memory like a recurrent model's, which can only be emptied as a whole.
    """

    def __init__(
        self,
        *,
        context_tokens: int = 256,
        batch_tokens: int = 32,
        sliding_window: int = 0,
        can_cut: bool = True,
        before_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.context_tokens = context_tokens
        self.batch_tokens = batch_tokens
        self.batches: list[dict[int, list[int]]] = []
        self.held: dict[int, list[int]] = {}
        self.peak_cells = 0
        self._cells: dict[int, list[int]] = {}
        self._next_cell = itertools.count()
        self.before_step = before_step
        self.is_free = threading.Event()
        self.is_free.set()
        self._sliding_window = sliding_window
        self._can_cut = can_cut
        self.can_decode_several = True
        self._first: dict[int, int] = {}
        self._logits: dict[int, npt.NDArray[np.float32]] = {}

    def decode(self, batch: Batch) -> None:
        assert self.is_free.wait(timeout=30)
        self.before_step(len(self.batches))
        native = batch.native
        used = len(set(itertools.chain(*self._cells.values()))) + native.n_tokens
        if used > self.context_tokens:
            raise CacheFullError(f"The KV cache of {self.context_tokens} tokens is full.")
        self.peak_cells = max(self.peak_cells, used)
        fed: dict[int, list[int]] = {}
        self._logits = {}
        for index in range(native.n_tokens):
            sequence, token = native.seq_id[index][0], native.token[index]
            held = self.held.setdefault(sequence, [])
            assert native.pos[index] == len(held), f"position {native.pos[index]} after {len(held)} tokens"
            self._check_window(sequence, len(held))
            held.append(token)
            self._cells.setdefault(sequence, []).append(next(self._next_cell))
            fed.setdefault(sequence, []).append(token)
            if native.logits[index]:
                self._logits[index] = np.zeros(VOCABULARY_SIZE, np.float32)
                self._logits[index][next_token(held)] = 1.0
        self.batches.append(fed)

    def decode_several(
        self, batch: Batch, choice: PlainChoice, *, steps: int, end_tokens: frozenset[int], interruption: bytearray
    ) -> tuple[int, list[int]]:
        """The likeliest tokens, whatever the choice would be; now and then the last one is left to the loop."""
        native = batch.native
        tokens: list[int] = []
        for made in range(steps):
            try:
                self.decode(batch)
            except CacheFullError:
                return made, tokens
            token = int(self._logits[0].argmax())
            if token % 5 == 0:
                return made + 1, tokens
            tokens.append(token)
            if token in end_tokens or interruption[0]:
                break
            native.token[0] = token
            native.pos[0] += 1
        return len(tokens), tokens

    def logits(self, index: int) -> npt.NDArray[np.float32]:
        return self._logits[index]

    def _check_window(self, sequence: int, position: int) -> None:
        if not self._sliding_window:
            return
        first = self._first.get(sequence, 0)
        assert first <= max(0, position - self._sliding_window + 1), f"the window of position {position} is lost"
        self._first[sequence] = max(first, position - self._sliding_window - _SPARE_POSITIONS)

    def remove(self, sequence: int, first_position: int) -> bool:
        if first_position < len(self.held.get(sequence, [])) and first_position and not self._can_cut:
            return False
        self.held[sequence] = self.held.get(sequence, [])[:first_position]
        self._cells[sequence] = self._cells.get(sequence, [])[:first_position]
        if not first_position:
            self._first[sequence] = 0
        return True

    def first_position(self, sequence: int) -> int:
        return self._first.get(sequence, 0) if self.held.get(sequence) else -1

    def copy(self, source: int, target: int, end_position: int) -> None:
        assert not self.held.get(target), "the target holds something"
        self.held[target] = self.held[source][:end_position]
        self._cells[target] = self._cells[source][:end_position]
        self._first[target] = self._first.get(source, 0)

    def save_state(self, sequence: int, *, partial: bool = False) -> bytes:
        held = self.held[sequence]
        return pickle.dumps((held[-self._sliding_window or len(held) :] if partial else held, len(held)))

    def restore_state(self, sequence: int, state: bytes | memoryview, *, partial: bool = False) -> bool:
        tokens, length = pickle.loads(bytes(state))
        if partial:
            held = self.held[sequence] = self.held[sequence][:length]
            first = length - len(tokens)
            assert held[first:] == tokens[: len(held) - first], "the state is that of another prefix"
            self._cells[sequence] = self._cells[sequence][:length]
        else:
            self.held[sequence] = list(tokens)
            self._cells[sequence] = [next(self._next_cell) for _ in tokens]
        self._first[sequence] = length - len(tokens) if partial else 0
        return True


class FakeMatcher:
    """Demands the reply to be `tokens`. Even ones among them follow by force; at `FAILING` the constraint gives up."""

    FAILING = 13
    vocabulary = SimpleNamespace(end_tokens=range(VOCABULARY_SIZE))
    """Any token may be the last one: no endings are searched for."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._left = list(tokens)

    @property
    def is_stopped(self) -> bool:
        return not self._left

    @property
    def is_accepting(self) -> bool:
        return not self._left

    def is_allowed(self, token: int) -> bool:
        return token == self._left[0]

    def allowed_tokens(self) -> npt.NDArray[np.bool_]:
        allowed = np.zeros(VOCABULARY_SIZE, np.bool_)
        allowed[self._left[0]] = True
        return allowed

    def accept(self, token: int) -> None:
        assert token == self._left.pop(0)
        if token == self.FAILING:
            raise EdgeError("The constraint cannot be followed any further.", hint="Make it shorter.")

    def forced_tokens(self) -> list[int]:
        return list(itertools.takewhile(lambda token: token % 2 == 0, self._left))


class FakeCompiler:
    """Constraints are written as token ids: `Constraint("grammar", "5 6 8")`."""

    def compile(self, constraint: Constraint) -> FakeMatcher:
        try:
            return FakeMatcher([int(word) for word in constraint.text.split()])
        except ValueError as error:
            raise EdgeError("The grammar cannot be enforced.", hint="Correct it.") from error


class FakeDrafting:
    """Guesses three tokens at a time, of which some are right. `learned` is what it was told of them."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self._tokens = list(prompt)
        self.learned: list[tuple[int, int]] = []

    def extend(self, tokens: Sequence[int]) -> None:
        self._tokens += tokens

    def draft(self, limit: int, running_tokens: int) -> list[int]:
        assert limit > 0 and running_tokens > 0
        guesses: list[int] = []
        for _ in range(min(limit, 3)):
            token = next_token([*self._tokens, *guesses])
            is_wrong = zlib.crc32(bytes([*self._tokens, len(guesses)])) % 4 == 0
            guesses.append((token + 1) % VOCABULARY_SIZE if is_wrong else token)
        return guesses

    def pass_by(self, steps: int) -> int:
        return steps // 2

    def learn(self, drafted: int, accepted: int) -> None:
        self.learned.append((drafted, accepted))


def next_token(tokens: Sequence[int]) -> int:
    """What follows these tokens; about one in sixty-four is the end."""
    return zlib.crc32(bytes(tokens)) % VOCABULARY_SIZE


def completion_of(prompt: Sequence[int], max_tokens: int) -> list[int]:
    """The tokens that a request gets, whatever else is going on."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + max_tokens:
        token = next_token(tokens)
        if token == END:
            break
        tokens.append(token)
    return tokens[len(prompt) :]
