"""A model opened in this process, and the loop that answers requests with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from edge.adapter_check import check_adapter
from edge.checked import CheckedStream, submit_checked
from edge.compute_thread import ComputeThread, shared_thread
from edge.devices import physical_cores
from edge.draft_model import DraftModel
from edge.embedding import Embedder
from edge.errors import EdgeError
from edge.exact_steps import exact_step_tokens
from edge.gguf_file import GGUFFile, read_gguf
from edge.job import Drafting, Job
from edge.known_tokens import with_known_tokens
from edge.llama.adapter import Adapter, use_adapters
from edge.llama.context import Context
from edge.llama.model import Model
from edge.llama.system import supports_gpu_offload
from edge.llama.vocab import Vocab
from edge.loop import Loop, Result
from edge.model_loading import ModelLoading
from edge.outbox import DELIVERY_SECONDS
from edge.prompt import Message, PromptTemplate, plain_tokens
from edge.prompt_lookup import PromptLookup
from edge.request import AdapterChoice, EngineStatus, Request, choices_of
from edge.request_check import check_request
from edge.saved_prefixes import SavedPrefixes
from edge.settings import DEFAULT_CONTEXT_TOKENS, AdapterSettings, ModelSettings, SamplingSettings
from edge.slot import AdapterSet, Slot
from edge.speculation import Drafter, Speculation
from edge.step_filling import MAX_GUESSES
from edge.step_times import StepTimes
from edge.stream import Stream


class LocalEngine:
    """A loaded model that answers requests. A context manager; closing it ends what is still running.

    `submit` may be called from any thread.
    """

    def __init__(
        self,
        model: Path | GGUFFile,
        settings: ModelSettings | None = None,
        *,
        delivery_seconds: float = DELIVERY_SECONDS,
        loading: ModelLoading | None = None,
    ) -> None:
        """`delivery_seconds` is how long a token in the midst of an answer may wait for others to be read with.

        `loading` is of the same model and settings, if it has begun.
        """
        settings = settings or ModelSettings()
        file = read_gguf(model) if isinstance(model, Path) else model  # native code only sees files that are sound
        path = file.path  # of a split model, the first part
        named = adapters_by_name(settings.adapters)
        adapters: dict[str, GGUFFile] = {}
        with ExitStack() as opened:
            loading = opened.enter_context(loading or ModelLoading(file, settings))
            for name, wanted in named.items():
                adapters[name] = read_gguf(wanted.path)
                check_adapter(adapters[name], file)
            self._model = opened.enter_context(loading.take())
            self.vocab: Vocab = self._model.vocab
            # what the first prompt needs is made while the context's memory is set up
            preparing = threading.Thread(target=self._prepare, name="edge-prepare", daemon=True)
            preparing.start()
            opened.callback(preparing.join)
            self._adapters = {
                name: opened.enter_context(Adapter(self._model, wanted.path)) for name, wanted in named.items()
            }
            self._context = opened.enter_context(_make_context(self._model, settings))
            exact_tokens, exact_with = _exact_steps(settings, self._context, file, adapters)
            if exact_tokens == 1 and settings.draft_model:
                raise EdgeError(
                    f"A draft model would change what {path.name} says: steps of two tokens are rounded otherwise.",
                    hint="Use it with quantized, repacked weights, as in Q8_0, and flash attention; or leave it out.",
                )
            draft_model = (
                opened.enter_context(DraftModel(settings.draft_model, self._model.vocab, settings))
                if settings.draft_model
                else None
            )
            self.context_tokens = min(self._context.context_tokens, self._model.trained_context_tokens)
            """Tokens that one request may hold, prompt and completion; all together share the whole context."""
            self._loop = Loop(
                self._model,
                self._context,
                settings,
                request_tokens=self.context_tokens,
                use_adapters=self._use_adapters,
                drafting_for=_drafting(settings, draft_model, exact_tokens, exact_with),
                thread=opened.enter_context(_compute_thread(settings)),
                delivery_seconds=delivery_seconds,
            )
            opened.callback(self._loop.stop)
            self._opened = opened.pop_all()
        self.path = path
        self._default_adapters = adapter_set([AdapterChoice(name, wanted.scale) for name, wanted in named.items()])
        self._saved_prefixes = SavedPrefixes(self._loop, self._context, file, settings, self._default_adapters)
        self._embedder = Embedder(self._model, settings.threads or physical_cores(), self._loop.call)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> None:
        with suppress(Exception):  # whoever needs the template is told
            _ = self.template

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

    def tokens_text(self, tokens: Sequence[int]) -> str:
        """The text that tokens are, as a completion would show it. EdgeError if there are no such tokens."""
        unknown = next((token for token in tokens if not 0 <= token < self.vocab.size), None)
        if unknown is not None:
            raise EdgeError(
                f"There is no token {unknown} in the vocabulary of {self.vocab.size} tokens.",
                hint="Make the tokens with the vocabulary of the same model.",
            )
        return b"".join(map(self.vocab.piece, tokens)).decode("utf-8", "replace")

    def embed(self, tokens: Sequence[int]) -> list[float]:
        """What the model makes of a text as one vector of length 1. EdgeError if it is empty or too long."""
        return self._embedder.embed(tokens)

    def compute(self, function: Callable[[], Result]) -> Result:
        """Run a function in the thread that computes the answers, between two steps, and give its result.

        Whatever decodes in another thread slows down both: see `edge.compute_thread`.
        """
        return self._loop.call(function)

    def status(self) -> EngineStatus:
        """How busy the engine is at this moment."""
        cells = set[int]().union(*(slot.cells for slot in self._loop.prefixes.slots))
        return EngineStatus(len(self._loop.prefixes.busy), len(cells), self._context.context_tokens)

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
        """Queue a request and give its stream at once. EdgeError if it can never be answered.

        Where a JSON Schema says more than can be enforced, the stream gives only a reply that was checked.
        """
        check_request(request, vocabulary_size=self.vocab.size, context_tokens=self.context_tokens)
        adapters = self._adapters_of(request)
        self._saved_prefixes.prepare(request.prompt_tokens, adapters)
        return submit_checked(replace(request, adapters=adapters), self._loop.submit)

    def submit_choices(self, request: Request, count: int) -> list[Stream | CheckedStream]:
        """Streams of several completions of one prompt, which is computed once. Each has a seed of its own."""
        return [self.submit(each) for each in choices_of(request, count)]

    def _adapters_of(self, request: Request) -> AdapterSet:
        if request.adapters is None:
            return self._default_adapters
        for choice in request.adapters:
            if choice.name not in self._adapters:
                known = ", ".join(sorted(self._adapters)) or "none"
                raise EdgeError(f"No adapter {choice.name!r} is loaded.", hint=f"Loaded adapters: {known}.")
        return adapter_set(request.adapters)

    def _use_adapters(self, adapters: AdapterSet) -> None:
        use_adapters(self._context, [(self._adapters[choice.name], choice.scale) for choice in adapters])

    def save_prefix(self, tokens: Sequence[int], path: Path) -> int:
        """Write what is computed of the beginning of these tokens to a file; gives how many of them that are.

        With 0, nothing is written. EdgeError if the place cannot be written.
        """
        return self._saved_prefixes.save(tokens, path)

    def load_prefix(self, path: Path) -> int:
        """Take in what `save_prefix` wrote: the next prompt that begins with it goes on from there; gives its tokens.

        EdgeError if the file is damaged, was made with something else than this engine has, or does not fit.
        """
        return self._saved_prefixes.load(path)

    def close(self) -> None:
        """End running requests as cancelled and free the model. Safe to call twice."""
        self._embedder.close()
        self._opened.close()


@contextmanager
def _compute_thread(settings: ModelSettings) -> Iterator[ComputeThread]:
    """The one that all engines on processors share; a GPU can be at work for one engine beside another."""
    if settings.gpu_layers and supports_gpu_offload():
        thread = ComputeThread()
        try:
            yield thread
        finally:
            thread.close()
    else:
        with shared_thread() as thread:
            yield thread


def adapters_by_name(adapters: Sequence[AdapterSettings]) -> dict[str, AdapterSettings]:
    """Adapters by the name under which requests choose them, the stem of the file. EdgeError if two files share one.

    The scales of a file that is given twice add up.
    """
    named: dict[str, AdapterSettings] = {}
    for adapter in adapters:
        other = named.setdefault(adapter.path.stem, replace(adapter, scale=0.0))
        if other.path != adapter.path:
            raise EdgeError(
                f"{other.path} and {adapter.path} are both called {adapter.path.stem!r}.",
                hint="Rename one of the files: requests choose adapters by these names.",
            )
        named[adapter.path.stem] = replace(other, scale=other.scale + adapter.scale)
    return named


def adapter_set(choices: Sequence[AdapterChoice]) -> AdapterSet:
    """Adapters in an order of their own, so that equal sets are equal; those that add nothing are left out."""
    return tuple(sorted((each for each in choices if each.scale), key=lambda each: (each.name, each.scale)))


def _exact_steps(
    settings: ModelSettings, context: Context, file: GGUFFile, adapters: Mapping[str, GGUFFile]
) -> tuple[int | None, dict[str, int | None]]:
    """The largest step that is computed as its tokens would be one by one: of the model, and of each adapter."""
    if settings.gpu_layers and supports_gpu_offload():
        return None, dict.fromkeys(adapters)  # GPUs round otherwise in any case
    of_model = exact_step_tokens(file, repack_weights=settings.repack_weights) if context.attends_alike else 1
    return of_model, {name: exact_step_tokens(each, repack_weights=False) for name, each in adapters.items()}


def _drafting(
    settings: ModelSettings, model: DraftModel | None, exact_tokens: int | None, exact_with: Mapping[str, int | None]
) -> Callable[[Job, Slot, StepTimes], Drafting | None]:
    """What guesses at the answer of a request: the draft model if there is one, else the request's own text.

    Nothing where a step of two tokens is computed otherwise than two steps: `exact_tokens` is the largest that is not,
    `exact_with` the same for each adapter.
    """

    def drafting_for(job: Job, slot: Slot, step_times: StepTimes) -> Drafting | None:
        limits = [exact_tokens, *(exact_with[adapter.name] for adapter in job.adapters)]
        limit = min((each for each in limits if each is not None), default=None)
        if limit == 1:
            return None
        if model:
            drafter: Drafter = model.drafter(slot.sequence, job.prompt)
        elif settings.speculation == "prompt":
            drafter = PromptLookup(job.prompt)
        else:
            return None
        return Speculation(drafter, step_times, exact_tokens=limit)

    return drafting_for


def _make_context(model: Model, settings: ModelSettings) -> Context:
    trained = model.trained_context_tokens
    wanted = settings.context_tokens or min(trained, DEFAULT_CONTEXT_TOKENS)
    if wanted > trained * settings.parallel:
        most = f"{trained} for each of {settings.parallel} sequences" if settings.parallel > 1 else str(trained)
        raise EdgeError(
            f"A context of {wanted} tokens was asked for; the model was trained on {trained}.",
            hint=f"Ask for at most {most} with --ctx.",
        )
    if settings.value_type != "F16" and settings.flash_attention == "off":
        raise EdgeError(
            f"Values in {settings.value_type} need flash attention, which is switched off.",
            hint="Leave flash attention on, or keep values in F16.",
        )
    guesses = MAX_GUESSES if settings.speculation != "off" or settings.draft_model else 0
    return Context(
        model,
        context_tokens=wanted,
        sequences=settings.parallel,
        threads=settings.threads or physical_cores(),
        batch_tokens=max(settings.prefill_tokens, settings.parallel),
        max_outputs=settings.parallel + guesses,
        key_type=settings.key_type,
        value_type=settings.value_type,
        flash_attention=settings.flash_attention,
    )
