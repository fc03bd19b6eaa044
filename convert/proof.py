"""The proof of a file: what is checked, what came of it, and the record that is kept beside the file.

Every check is made, whatever came of the others. What each one looks at is for `convert.verify`,
`convert.proof_tokens`, `convert.proof_template`, `convert.proof_logits` and `convert.trial`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from convert.plan import ConversionPlan
from convert.pool import Progress, ProgressCallback
from convert.proof_logits import largest_divergence_allowed
from convert.proof_template import TemplateFinding, compare_templates, try_template
from convert.proof_tokens import TokenDifference, proof_texts, shown_text
from convert.quantization_error import ERROR_BOUNDS
from convert.trial import TrialTimeoutError, try_in_child
from convert.verify import TensorProof, verify_file, verify_planned
from convert.vocabulary import TokenType
from edge.devices import physical_cores, read_ram
from edge.errors import EdgeError
from edge.gguf_file import GGUFFile, read_gguf
from edge.quantities import size_text

Outcome = Literal["passed", "failed", "skipped"]
Display = Callable[[str], AbstractContextManager[ProgressCallback]]
"""Shows what is under way: a label to where progress is reported."""

_TRIAL_SECONDS = 120
_SLOWEST_BYTES_PER_SECOND = 20_000_000
"""A disk so slow that reading a model from it takes all the time that a forward pass has."""
_TRIAL_MEMORY_BYTES = 512 << 20
"""What a forward pass takes beside the mapped weights: the vocabulary, logits and compute buffers."""
_LARGE_FILE_BYTES = 1_000_000_000
"""From this size on, a forward pass gains from several threads; below, they mostly wait for each other."""
_SHOWN_DIFFERENCES = 3
_SHOWN_IDS = 4


@dataclass(frozen=True)
class Check:
    """What came of one check: a line for a person, what to do if it failed, and figures for the record."""

    name: str
    outcome: Outcome
    summary: str
    hint: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Proof:
    """Every check of a file. `path` is where it was when it was checked."""

    path: Path
    file_bytes: int
    checks: tuple[Check, ...]
    tensors: TensorProof | None
    """None if that check failed."""
    source: Path | None = None
    """The checkpoint's directory or the GGUF file that the file was held against."""

    @property
    def passed(self) -> tuple[str, ...]:
        return tuple(check.name for check in self.checks if check.outcome == "passed")

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.outcome == "failed")

    def raise_if_failed(self) -> None:
        """EdgeError that says what failed first."""
        if self.failed:
            first, *others = self.failed
            more = f" (failed as well: {', '.join(check.name for check in others)})" if others else ""
            raise EdgeError(first.summary + more, hint=first.hint)


@dataclass(frozen=True)
class _Finding:
    summary: str
    figures: Mapping[str, Any]


class _NotPossibleError(Exception):
    """A check that cannot be made here; the text is the reason."""


def no_display(label: str) -> AbstractContextManager[ProgressCallback]:
    """A display that shows nothing."""
    return contextlib.nullcontext(lambda progress: None)


def prove(
    path: Path,
    plan: ConversionPlan | None = None,
    *,
    against_logits: Path | None = None,
    threads: int | None = None,
    display: Display = no_display,
) -> Proof:
    """Check a file, or a split model by any of its parts; against the plan of its checkpoint, if one is given.

    What is wrong with the file is in the proof; EdgeError only if it cannot be read as a GGUF file at all.
    """
    return _Prover(read_gguf(path), plan, threads or physical_cores(), display).prove(against_logits)


class _Prover:
    """The checks of one file."""

    def __init__(self, file: GGUFFile, plan: ConversionPlan | None, threads: int, display: Display) -> None:
        self._file = file
        self._plan = plan
        self._threads = threads
        self._display = display
        self._tensors: TensorProof | None = None

    def prove(self, against_logits: Path | None) -> Proof:
        steps: dict[str, Callable[[], _Finding]] = {
            "tensors": self._check_tensors,
            "tokens": self._check_tokens,
            "template": self._check_template,
            "forward": self._check_forward,
        }
        if against_logits is not None:
            steps["logits"] = lambda: self._check_logits(against_logits)
        checks = tuple(_made(name, step) for name, step in steps.items())
        source = self._plan.source if self._plan else None
        return Proof(self._file.path, self._file.file_bytes, checks, self._tensors, source)

    def _check_tensors(self) -> _Finding:
        file, plan = self._file, self._plan
        with self._display(f"Reading back {file.path.name}") as progress:
            if plan:
                found = verify_planned(file, plan, threads=self._threads, progress=progress)
            else:
                found = verify_file(file.path, threads=self._threads, progress=progress)
        self._tensors = found
        errors = {error.name: {"type": error.type, "error": error.relative_error} for error in found.errors}
        return _Finding(found.summary, {"tensors": found.tensor_count, "errors": errors})

    def _check_tokens(self) -> _Finding:
        checkpoint = self._plan.checkpoint if self._plan else None
        if self._plan is None or checkpoint is None:
            raise _NotPossibleError("there is no checkpoint to compare with")
        tokenizer = checkpoint.tokenizer_json or checkpoint.tokenizer_model
        if tokenizer is None:
            raise _NotPossibleError("the checkpoint has no tokenizer")
        question = {
            "kind": "tokens",
            "path": str(self._file.path),
            "tokenizer": str(tokenizer.absolute()),
            "texts": proof_texts(_token_texts(self._file, TokenType.CONTROL, TokenType.USER_DEFINED)),
            "user_defined": list(_token_texts(self._file, TokenType.USER_DEFINED)),
            "limitations": [
                (limitation.words, limitation.touched.pattern)
                for limitation in self._plan.tokenizer_limitations
                if limitation.touched
            ],
        }
        answer = try_in_child("the comparison of token ids", question, timeout_seconds=_TRIAL_SECONDS)
        return _judge_tokens(answer)

    def _check_template(self) -> _Finding:
        stored = self._file.metadata.get("tokenizer.chat_template")
        checkpoint = self._plan.checkpoint if self._plan else None
        original = checkpoint.chat_template if checkpoint else None
        if not isinstance(stored, str):
            if original is not None:
                raise EdgeError("The file has no chat template; the checkpoint has one.", hint="Convert it again.")
            raise _NotPossibleError("there is no chat template")
        bos_text, eos_text = (_role_text(self._file, role) for role in ("bos", "eos"))
        if checkpoint is None:
            return _template_finding(try_template(stored, bos_text, eos_text), "takes")
        if original is None:
            raise EdgeError("The file has a chat template; the checkpoint has none.", hint="Convert it again.")
        return _template_finding(compare_templates(stored, original, bos_text, eos_text), "writes as Jinja does")

    def _check_forward(self) -> _Finding:
        is_embedder = f"{self._file.architecture}.pooling_type" in self._file.metadata
        gives = "embeddings" if is_embedder else "logits"
        answer = self._try_whole("the forward pass", {"kind": "forward", "gives": gives})
        low, high = answer["smallest"], answer["largest"]
        return _Finding(f"{answer['tokens']} tokens, {gives} from {low:.3g} to {high:.3g}", {"gives": gives, **answer})

    def _check_logits(self, reference: Path) -> _Finding:
        question = {"kind": "logits", "reference": str(reference.absolute())}
        answer = self._try_whole("the comparison of logits", question)
        kinds = {tensor.type.name for tensor in self._file.tensors.values()} & ERROR_BOUNDS.keys()
        coarsest = max(kinds, key=lambda kind: ERROR_BOUNDS[kind].tensor, default="F32")
        bound = largest_divergence_allowed(ERROR_BOUNDS[coarsest].tensor)
        text = f"mean KL divergence {answer['mean']:.3g} nats at {answer['positions']} positions"
        if not answer["mean"] <= bound:
            raise EdgeError(
                f"The logits are not those of {reference}: {text}; {bound:.3g} is the limit with {coarsest}.",
                hint="The reference is of another model or text, or the file is wrong.",
            )
        return _Finding(text, {**answer, "bound": bound})

    def _try_whole(self, what: str, question: Mapping[str, Any]) -> dict[str, Any]:
        """Let a child run the whole model, unless memory does not allow it."""
        available, needed = read_ram().available_bytes, self._file.file_bytes
        if available < _TRIAL_MEMORY_BYTES:
            raise _NotPossibleError(
                f"{size_text(available)} of memory are free, too little to run a model"
                f" ({size_text(_TRIAL_MEMORY_BYTES)})"
            )
        threads = self._threads if needed >= _LARGE_FILE_BYTES else 1
        full = {**question, "path": str(self._file.path.absolute()), "threads": threads}
        seconds = _TRIAL_SECONDS + needed / _SLOWEST_BYTES_PER_SECOND
        with self._display(f"Running {self._file.path.name}") as progress:
            progress(Progress(0, needed))
            try:
                answer = try_in_child(what, full, timeout_seconds=seconds)
            except TrialTimeoutError as error:
                if needed <= available:
                    raise
                raise _NotPossibleError(
                    f"the file is larger than the free memory ({size_text(available)}), and the disk is too slow to"
                    f" run it from there within {seconds:.0f} seconds"
                ) from error
            progress(Progress(needed, needed))
        return answer


def _made(name: str, step: Callable[[], _Finding]) -> Check:
    """The check, made and timed."""
    start = time.monotonic()
    try:
        found = step()
    except EdgeError as error:
        return Check(name, "failed", error.message, error.hint or "", seconds=time.monotonic() - start)
    except _NotPossibleError as reason:
        return Check(name, "skipped", str(reason), seconds=time.monotonic() - start)
    return Check(name, "passed", found.summary, figures=found.figures, seconds=time.monotonic() - start)


def _judge_tokens(answer: Mapping[str, Any]) -> _Finding:
    texts, differences = answer["texts"], [TokenDifference(**difference) for difference in answer["differences"]]
    wrong = [difference for difference in differences if difference.limitation is None]
    if wrong:
        first = wrong[0]
        names = ", ".join(repr(difference.name) for difference in wrong[:_SHOWN_DIFFERENCES])
        ids = slice(first.place, first.place + _SHOWN_IDS)
        more = f" and {len(wrong) - _SHOWN_DIFFERENCES} more" if wrong[_SHOWN_DIFFERENCES:] else ""
        raise EdgeError(
            f"llama.cpp's token ids differ from the tokenizer's in {len(wrong)} of {texts} texts: {names}{more};"
            f" {shown_text(first.text)} continues with {list(first.found[ids])} instead of {list(first.expected[ids])}"
            f" after {first.place} ids.",
            hint="The model would read another text than it was trained on: report this tokenizer.",
        )
    reasons = sorted({difference.limitation for difference in differences if difference.limitation})
    known = f"; {len(differences)} differ as stated: {'; '.join(reasons)}" if reasons else ""
    figures = {"texts": texts, "known_differences": [[each.name, each.limitation] for each in differences]}
    return _Finding(f"{texts - len(differences)} of {texts} texts have the tokenizer's ids{known}", figures)


def _template_finding(found: TemplateFinding, verb: str) -> _Finding:
    count = len(found.taken) + len(found.limits)
    shapes = f"{verb} all {count} shapes of conversation"
    if found.limits:
        without = ", ".join(limit.partition(":")[0] for limit in found.limits)
        shapes = f"{verb} {len(found.taken)} of {count} shapes of conversation; not {without}"
    return _Finding(shapes, {"taken": list(found.taken), "limits": list(found.limits)})


def _token_texts(file: GGUFFile, *wanted: TokenType) -> Iterator[str]:
    """The tokens of these types, one type after the other."""
    tokens: Any = file.metadata.get("tokenizer.ggml.tokens", ())
    types: Any = list(file.metadata.get("tokenizer.ggml.token_type", ()))  # type: ignore[arg-type]
    for each in wanted:
        yield from (tokens[number] for number, kind in enumerate(types) if kind == each)


def _role_text(file: GGUFFile, role: str) -> str:
    tokens: Any = file.metadata.get("tokenizer.ggml.tokens", ())
    number = file.metadata.get(f"tokenizer.ggml.{role}_token_id")
    return tokens[number] if isinstance(number, int) and number < len(tokens) else ""
