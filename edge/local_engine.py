"""A model opened in this process, and the loop that answers requests with it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from edge.adapter_check import check_adapter, check_is_model
from edge.checked import CheckedStream, submit_checked
from edge.devices import physical_cores
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.known_tokens import with_known_tokens
from edge.llama.adapter import Adapter, use_adapters
from edge.llama.context import Context
from edge.llama.model import Model
from edge.llama.vocab import Vocab
from edge.loop import Loop
from edge.prompt import Message, PromptTemplate, plain_tokens
from edge.request import Request
from edge.settings import ModelSettings, SamplingSettings
from edge.stream import Stream

DEFAULT_CONTEXT_TOKENS = 8192


class LocalEngine:
    """A loaded model that answers requests. A context manager; closing it ends what is still running.

    `submit` may be called from any thread.
    """

    def __init__(self, path: Path, settings: ModelSettings | None = None) -> None:
        settings = settings or ModelSettings()
        file = read_gguf(path)  # native code only sees files that are sound
        path = file.path  # of a split model, the first part
        check_is_model(file)
        for wanted in settings.adapters:
            check_adapter(read_gguf(wanted.path), file)
        with ExitStack() as opened:
            self._model = opened.enter_context(Model(path, gpu_layers=settings.gpu_layers))
            adapters = [
                (opened.enter_context(Adapter(self._model, wanted.path)), wanted.scale) for wanted in settings.adapters
            ]
            self._context = opened.enter_context(_make_context(self._model, settings))
            use_adapters(self._context, adapters)
            self._opened = opened.pop_all()
        self.path = path
        self.vocab: Vocab = self._model.vocab
        self.context_tokens = self._context.context_tokens
        self._loop = Loop(self._model, self._context, settings.parallel)
        self._thread = threading.Thread(target=self._loop.run, name="edge-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def template(self) -> PromptTemplate:
        """The model's chat template. EdgeError if it has none."""
        return PromptTemplate.of_model(self._model.chat_template, self.vocab)

    def chat_tokens(
        self,
        messages: Sequence[Message],
        variables: Mapping[str, object] | None = None,
        known_tokens: Sequence[int] = (),
    ) -> tuple[int, ...]:
        """The prompt of a conversation, up to where the answer begins. EdgeError if the template refuses it.

        `variables` are further names that the template reads (`tools`, `enable_thinking`, ...). Where the text begins
        like that of `known_tokens`, an earlier prompt and its answer, it is written in just these tokens.
        """
        return with_known_tokens(
            self.template.tokens(messages, self.vocab, variables=variables), known_tokens, self.vocab
        )

    def text_tokens(self, text: str) -> tuple[int, ...]:
        """A text to be continued as it is, as the model reads the beginning of one."""
        return tuple(plain_tokens(text, self.vocab))

    @property
    def steps(self) -> int:
        """Decode steps finished so far."""
        return self._loop.steps

    @property
    def is_busy(self) -> bool:
        """Whether there is a request that has not ended."""
        return self._loop.is_busy

    @property
    def model(self) -> Model:
        """What is loaded, for its metadata."""
        return self._model

    @cached_property
    def default_sampling(self) -> SamplingSettings:
        """What the model's makers recommend, where the file says so, and else the defaults."""
        defaults = SamplingSettings()

        def stored(name: str, default: float) -> float:
            value = self._model.metadata(f"general.sampling.{name}")
            return default if value is None else float(value)

        return replace(
            defaults,
            temperature=stored("temp", defaults.temperature),
            top_k=int(stored("top_k", defaults.top_k)),
            top_p=stored("top_p", defaults.top_p),
            min_p=stored("min_p", defaults.min_p),
            repeat_penalty=stored("penalty_repeat", defaults.repeat_penalty),
        )

    def submit(self, request: Request) -> Stream | CheckedStream:
        """Queue a request and give its stream at once. EdgeError if the prompt can never fit.

        Where a JSON Schema says more than can be enforced, the stream gives only a reply that was checked.
        """
        prompt_tokens = len(request.prompt_tokens)
        if not prompt_tokens:
            raise EdgeError("The prompt is empty.", hint="Give at least one token.")
        if prompt_tokens >= self.context_tokens:
            raise EdgeError(
                f"The prompt has {prompt_tokens} tokens, the context holds {self.context_tokens}.",
                hint="Shorten the prompt or ask for a longer context with --ctx.",
            )
        if not all(0 <= token < self.vocab.size for token in request.prompt_tokens):
            raise EdgeError(
                f"The prompt has token ids outside of the vocabulary of {self.vocab.size} tokens.",
                hint="Make the tokens with the vocabulary of the same model.",
            )
        if request.max_tokens is not None and request.max_tokens < 1:
            raise EdgeError(f"max_tokens is {request.max_tokens}.", hint="Ask for at least 1 token.")
        return submit_checked(request, self._loop.submit)

    def close(self) -> None:
        """End running requests as cancelled and free the model. Safe to call twice."""
        if self._thread.is_alive():
            self._loop.stop()
            self._thread.join()
        self._opened.close()


def _make_context(model: Model, settings: ModelSettings) -> Context:
    trained = model.trained_context_tokens
    wanted = settings.context_tokens or min(trained, DEFAULT_CONTEXT_TOKENS)
    if wanted > trained:
        raise EdgeError(
            f"A context of {wanted} tokens was asked for; the model was trained on {trained}.",
            hint=f"Ask for at most {trained} with --ctx.",
        )
    return Context(
        model,
        context_tokens=wanted,
        sequences=settings.parallel,
        threads=settings.threads or physical_cores(),
        batch_tokens=settings.prefill_tokens,
    )
