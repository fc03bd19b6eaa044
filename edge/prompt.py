"""Messages to token ids through a model's chat template.

The text of a conversation is typed by people and produced by tools: nothing in it can become a control token. Every
look-alike is broken by a guard character before the template sees it, and only what stands unbroken in the rendered
text is read as a control token. Then the guards are dropped: a look-alike is tokenized as the plain text it is.

Knows nothing of contexts, budgets or sampling.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, Protocol, get_args

from edge.errors import EdgeError

GUARD = "\ufdd0"
"""A Unicode noncharacter, which is not for interchange: it is dropped from incoming text and used as a mark."""

Role = Literal["system", "user", "assistant", "tool"]

_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_C_WHITE_SPACE = " \t\n\v\f\r"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        # templates write the role between control tokens, so a made-up one could forge a turn
        if self.role not in get_args(Role):
            known = ", ".join(get_args(Role))
            raise EdgeError(f"A message has the role {self.role!r}.", hint=f"Known roles: {known}.")


class Vocabulary(Protocol):
    """What is needed of a model's vocabulary; `edge.llama.vocab.Vocab` is one."""

    @property
    def bos_token(self) -> int | None: ...
    @property
    def eos_token(self) -> int | None: ...
    @property
    def add_bos(self) -> bool: ...
    @property
    def special_tokens(self) -> dict[str, int]: ...
    def tokenize(self, text: str, *, parse_special: bool = ..., starts_text: bool = ...) -> list[int]: ...
    def text(self, token: int) -> str: ...
    def is_control(self, token: int) -> bool: ...


class PromptTemplate:
    """A chat template and the control tokens that it may write.

    Where a template has no system role, system text goes to the front of the next user message; where it insists on
    alternating roles, neighbours of the same role become one message. A blank line separates what is joined.
    """

    def __init__(self, source: str, *, bos_text: str, eos_text: str, special_tokens: Mapping[str, int]) -> None:
        self._control = ControlTokens(special_tokens)
        from edge.template_sandbox import SandboxedTemplate  # Jinja, which messages alone do not need

        self._template = SandboxedTemplate(source)
        self._names: dict[str, object] = {"bos_token": bos_text, "eos_token": eos_text}

    @classmethod
    def default(cls, *, bos_text: str, eos_text: str, special_tokens: Mapping[str, int]) -> PromptTemplate:
        """ChatML, for a vocabulary that has its control tokens; EdgeError for any other."""
        if not {"<|im_start|>", "<|im_end|>"} <= special_tokens.keys():
            raise EdgeError(
                "The model has no chat template.",
                hint="It only continues text: give it plain text to complete, or use its instruction-tuned variant.",
            )
        return cls(_CHATML, bos_text=bos_text, eos_text=eos_text, special_tokens=special_tokens)

    @classmethod
    def of_model(cls, source: str | None, vocab: Vocabulary) -> PromptTemplate:
        """The template that a model carries, or the default where it carries none."""
        bos, eos = ("" if token is None else vocab.text(token) for token in (vocab.bos_token, vocab.eos_token))
        if source is None:
            return cls.default(bos_text=bos, eos_text=eos, special_tokens=vocab.special_tokens)
        return cls(source, bos_text=bos, eos_text=eos, special_tokens=vocab.special_tokens)

    @cached_property
    def has_system_role(self) -> bool:
        """Whether the template writes system text; some refuse it, others leave it out without a word."""
        text = "Answer in rhyme."
        return text in self._attempt(Message("system", text), Message("user", "Hello"))

    @cached_property
    def allows_neighbours(self) -> bool:
        """Whether the template takes two user messages in a row."""
        texts = "First question.", "Second question."
        rendered = self._attempt(*(Message("user", text) for text in texts))
        return all(text in rendered for text in texts)

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """The conversation as the template writes it, with guards in what looks like control tokens but is none.

        `variables` are further names that the template reads (`tools`, `enable_thinking`, ...).
        """
        names = {name: self._guarded(value) for name, value in (variables or {}).items()}
        return self._write(self._arranged(messages), add_generation_prompt, names)

    def tokens(
        self,
        messages: Sequence[Message],
        vocab: Vocabulary,
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, object] | None = None,
    ) -> list[int]:
        """The token ids of a conversation, with exactly one BOS in front if the vocabulary starts texts with it."""
        tokens: list[int] = []
        strips_following = False
        for part in self._control.split(self.render(messages, add_generation_prompt, variables)):
            if isinstance(part, int):
                tokens.append(part)
                strips_following = _strips_following(part, vocab)
            elif text := part.lstrip(_C_WHITE_SPACE) if strips_following else part:
                tokens += _text_tokens(text, vocab, starts_text=not tokens)
        return _with_one_bos(tokens, vocab)

    def _arranged(self, messages: Sequence[Message]) -> list[Message]:
        """The messages in a form that the template takes."""
        arranged = list(messages)
        if any(message.role == "system" for message in arranged) and not self.has_system_role:
            arranged = fold_system_text(arranged)
        if any(a.role == b.role for a, b in pairwise(arranged)) and not self.allows_neighbours:
            arranged = merge_neighbours(arranged)
        return arranged

    def _attempt(self, *messages: Message) -> str:
        """What the template writes, or nothing if it refuses."""
        try:
            return self._write(messages, True, {})
        except EdgeError:
            return ""

    def _write(self, messages: Sequence[Message], add_generation_prompt: bool, names: Mapping[str, object]) -> str:
        guarded = [{"role": m.role, "content": self._control.guard(m.content)} for m in messages]
        fixed = {**self._names, "messages": guarded, "add_generation_prompt": add_generation_prompt}
        return self._template.write({"tools": None, "documents": None, **names, **fixed})

    def _guarded(self, value: object) -> object:
        """The value with every string in it guarded."""
        if isinstance(value, str):
            return self._control.guard(value)
        if isinstance(value, Mapping):
            return {self._guarded(key): self._guarded(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._guarded(item) for item in value]
        return value


class ControlTokens:
    """The control tokens of a vocabulary: breaks look-alikes in untrusted text, finds the real ones in rendered text.

    Control tokens of a single character are left out: a guard cannot break them, so no text becomes one.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = {text: token for text, token in ids.items() if len(text) > 1}
        self._lengths = sorted({len(text) for text in self._ids})
        first_characters = "".join({text[0] for text in self._ids})
        self._first = re.compile(f"[{re.escape(first_characters)}]" if first_characters else "(?!)")
        self._last_characters = frozenset(text[-1] for text in self._ids)

    def guard(self, text: str) -> str:
        """The text with a guard in each look-alike and at an edge that could complete one with what is beside it.

        Templates like to trim, so the edges inside surrounding white space are guarded as well.
        """
        text = text.replace(GUARD, "")
        pieces, position = [], 0
        for start in dict.fromkeys(start for start, _ in self._occurrences(text)):
            pieces.append(text[position : start + 1])
            position = start + 1
        text = GUARD.join([*pieces, text[position:]])
        trimmed = text.strip()
        if trimmed and len(trimmed) < len(text):
            before, after = text.split(trimmed, 1)
            text = before + self._with_guarded_edges(trimmed) + after
        return self._with_guarded_edges(text)

    def split(self, marked: str) -> list[int | str]:
        """Token ids and the plain text between them, without guards.

        The longest control token takes its place first. Source: tokenizer_st_partition in llama.cpp's llama-vocab.cpp
        """
        found: dict[int, str] = {}
        taken = bytearray(len(marked))
        for start, text in sorted(self._occurrences(marked), key=lambda found: (-len(found[1].encode()), found[0])):
            place = slice(start, start + len(text))
            if not any(taken[place]):
                taken[place] = b"\1" * len(text)
                found[start] = text
        parts: list[int | str] = []
        position = 0
        for start, text in sorted(found.items()):
            parts += [marked[position:start].replace(GUARD, ""), self._ids[text]]
            position = start + len(text)
        parts.append(marked[position:].replace(GUARD, ""))
        return [part for part in parts if part != ""]

    def _occurrences(self, text: str) -> Iterator[tuple[int, str]]:
        """Where control tokens are written out, from left to right, overlapping ones included."""
        for match in self._first.finditer(text):
            start = match.start()
            for length in self._lengths:
                candidate = text[start : start + length]
                if candidate in self._ids:
                    yield start, candidate

    def _with_guarded_edges(self, text: str) -> str:
        if not self._ids:
            return text
        reach = self._lengths[-1] - 1
        head, tail = text[:reach], text[-reach:]
        ends = (head[: i + 1] for i, character in enumerate(head) if character in self._last_characters)
        starts = (tail[match.start() :] for match in self._first.finditer(tail))
        before = any(known.endswith(end) for end in ends for known in self._ids)
        after = any(known.startswith(start) for start in starts for known in self._ids)
        return GUARD * before + text + GUARD * after


def plain_tokens(text: str, vocab: Vocabulary) -> list[int]:
    """The token ids of a text to be continued: BOS if the vocabulary starts texts with it, nothing special else."""
    return _with_one_bos(_text_tokens(text, vocab, starts_text=True), vocab)


def fold_system_text(messages: Sequence[Message]) -> list[Message]:
    """The messages with system text moved to the front of the next user message, or into one of its own at the end."""
    folded: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message.role == "system":
            waiting.append(message.content)
        elif message.role == "user" and waiting:
            folded.append(Message("user", "\n\n".join([*waiting, message.content])))
            waiting = []
        else:
            folded.append(message)
    return [*folded, Message("user", "\n\n".join(waiting))] if waiting else folded


def merge_neighbours(messages: Sequence[Message]) -> list[Message]:
    """The messages with neighbours of the same role joined by blank lines; results of tools stay apart."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role != "tool":
            merged[-1] = Message(message.role, f"{merged[-1].content}\n\n{message.content}")
        else:
            merged.append(message)
    return merged


def _text_tokens(text: str, vocab: Vocabulary, *, starts_text: bool) -> list[int]:
    tokens = vocab.tokenize(text, parse_special=False, starts_text=starts_text)
    # llama.cpp looks up any merged text, so an odd vocabulary could merge plain text into a control token
    control = next((token for token in set(tokens) if vocab.is_control(token)), None)
    if control is not None:
        raise EdgeError(
            f"The vocabulary merges plain text into the control token {vocab.text(control)!r}.",
            hint="Take that text out of the messages; the model's tokenizer cannot write it.",
        )
    return tokens


def _strips_following(token: int, vocab: Vocabulary) -> bool:
    """Whether llama.cpp drops white space after this control token, as it does for Phi-3."""
    return len(vocab.tokenize(vocab.text(token) + "\n", parse_special=True)) == 1


def _with_one_bos(tokens: list[int], vocab: Vocabulary) -> list[int]:
    """The tokens with one BOS if the vocabulary adds it, whether or not the template has written it."""
    bos = vocab.bos_token
    if bos is None or not vocab.add_bos:
        return tokens
    first = next((i for i, token in enumerate(tokens) if token != bos), len(tokens))
    return [bos, *tokens[first:]]
