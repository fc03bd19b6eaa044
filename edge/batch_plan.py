"""In which order the lines of a batch are answered, and how much context they need.

Prompts are read with the vocabulary alone, before the weights are opened.
"""

from __future__ import annotations

import contextlib
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edge.batch_input import Line, chat_body
from edge.errors import EdgeError
from edge.gguf_file import GGUFFile
from edge.known_tokens import with_known_tokens
from edge.llama.model import Model
from edge.prompt import Message, PromptTemplate
from edge.tool_prompt import Prompts
from edge.tool_requests import chat_prompt, tools_of

ASSUMED_ANSWER_TOKENS = 1024
"""Room for answers of lines without max_tokens."""
_MAX_SHARED_TOKENS = 16384  # of the KV cache, unless a single request needs more
_MIN_CONTEXT_TOKENS = 256


@dataclass(frozen=True)
class Plan:
    """Lines in an order in which neighbours begin with the same tokens, as far as possible."""

    lines: tuple[Line, ...]
    longest_tokens: int
    """Prompt and answer of the longest request."""
    requests: int
    """Answers that are asked for, all choices counted; the lines that are wrong ask for none."""

    def sequences(self, parallel: int) -> int:
        """Requests that can be in flight at once."""
        return max(1, min(parallel, self.requests))

    def context_tokens(self, parallel: int, trained_tokens: int) -> int:
        """A context for as many requests as long as the longest, within bounds of memory and of the model."""
        longest = min(max(self.longest_tokens, _MIN_CONTEXT_TOKENS), trained_tokens)
        return min(longest * self.sequences(parallel), max(longest, _MAX_SHARED_TOKENS))


def plan_batch(lines: Iterable[Line], prompts: Prompts) -> Plan:
    """Reads every prompt once. Lines that are wrong come first: they need no model."""
    keys: dict[str, bytes] = {}
    kept = list(lines)
    longest = requests = 0
    for line in kept:
        try:
            body = chat_body(line)
            tokens = chat_prompt(body, tools_of(body), prompts)
        except EdgeError:  # said when the line is answered
            keys[line.custom_id] = b""
            continue
        keys[line.custom_id] = _sortable(tokens)
        longest = max(longest, len(tokens) + (body.max_tokens or ASSUMED_ANSWER_TOKENS))
        requests += body.choices
    kept.sort(key=lambda line: keys[line.custom_id])
    return Plan(tuple(kept), longest, requests)


def trained_tokens(file: GGUFFile) -> int:
    """The context length that a model was trained on. EdgeError if its file does not say."""
    length = file.metadata.get(f"{file.architecture}.context_length")
    if not isinstance(length, int):
        raise EdgeError(f"{file.path} does not say its context length.", hint="Give one with --ctx.")
    return length


@contextlib.contextmanager
def open_prompts(file: GGUFFile) -> Iterator[Prompts]:
    """The vocabulary and the template of a model, without its weights. EdgeError if it has no template."""
    with Model(file.path, gpu_layers=0, vocabulary_only=True) as model:
        yield _VocabularyPrompts(model)


class _VocabularyPrompts:
    def __init__(self, model: Model) -> None:
        self._vocab = model.vocab
        self._template = PromptTemplate.of_model(model.chat_template, model.vocab)

    def chat_tokens(
        self,
        messages: Sequence[Message],
        variables: Mapping[str, object] | None = None,
        known_tokens: Sequence[int] = (),
    ) -> tuple[int, ...]:
        return with_known_tokens(
            self._template.tokens(messages, self._vocab, variables=variables), known_tokens, self._vocab
        )

    def tokens_text(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self._vocab.piece, tokens)).decode("utf-8", "replace")


def _sortable(tokens: Sequence[int]) -> bytes:
    """Bytes that sort as the tokens do."""
    numbers = array("I", tokens)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers.tobytes()
