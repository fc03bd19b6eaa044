"""Named conversations on the disk, to go on from after a restart.

A session is two files in one folder, both for their owner only: NAME.json holds what was said, and is written after
every answer; NAME.prefix holds what the model computed for it, which saves time and is never needed. A session belongs
to one model. Where anything else has changed its history stays, and is computed again.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from edge.chat import Chat, Conversation
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.prefix_file import SUFFIX, open_prefix, write_private
from edge.prefix_identity import model_digest, template_digest
from edge.prompt import Message
from edge.settings import SamplingSettings

if TYPE_CHECKING:
    from filelock import BaseFileLock

_FORMAT = 1
_NAME = re.compile(r"\w(?:[\w.-]{0,38}\w)?")
_SECONDS_BETWEEN_PREFIXES = 60
_PREFIX_SHARE = 50  # saving what was computed takes at most 1/50 of the time of a long chat


class PrefixStore(Protocol):
    """What is needed of an engine; `edge.text_engine.TextEngine` is one."""

    def save_prefix(self, tokens: tuple[int, ...], path: Path) -> int: ...
    def load_prefix(self, path: Path) -> int: ...


@dataclass(frozen=True)
class SessionModel:
    """The model of a session: how it was asked for, and by what it is known again."""

    reference: str
    quantization: str | None
    file_name: str
    digest: str
    template: str

    @classmethod
    def of(cls, path: Path, reference: str, quantization: str | None) -> SessionModel:
        """The one at `path`, which a person asked for by `reference`."""
        file = read_gguf(path)
        given = Path(reference).expanduser()
        reference = str(given.absolute()) if given.exists() else reference
        return cls(reference, quantization, file.path.name, model_digest(file), template_digest(file.metadata))


@dataclass(frozen=True)
class SessionRecord:
    """What NAME.json says."""

    model: SessionModel
    conversation: Conversation
    sampling: SamplingSettings
    created: str
    updated: str
    """Times in UTC, as ISO 8601 has them."""

    def to_json(self) -> str:
        said = self.conversation
        document = {
            "format": _FORMAT,
            "created": self.created,
            "updated": self.updated,
            "model": asdict(self.model),
            "sampling": asdict(self.sampling),
            "system": said.system,
            "messages": [asdict(message) for message in said.messages],
            "left_out": said.left_out,
            "tokens": said.tokens,
        }
        return json.dumps(document, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> SessionRecord:
        """ValueError, TypeError, KeyError, RecursionError or EdgeError for what is not the document of one."""
        document: Any = json.loads(text)
        if document["format"] != _FORMAT:
            raise ValueError(f"its format is {document['format']!r}")
        messages = tuple(Message(_text(each["role"]), _text(each["content"])) for each in document["messages"])  # type: ignore[arg-type]
        system, left_out, tokens = document["system"], document["left_out"], tuple(document["tokens"])
        if type(left_out) is not int or not 0 <= left_out <= len(messages):
            raise ValueError(f"left_out is {left_out!r}")
        if any(type(token) is not int for token in tokens):
            raise ValueError("tokens are not whole numbers")
        model = document["model"]
        names = {name: _text(model[name]) for name in ("reference", "file_name", "digest", "template")}
        quantization = model["quantization"]
        return cls(
            model=SessionModel(quantization=None if quantization is None else _text(quantization), **names),
            conversation=Conversation(messages, None if system is None else _text(system), left_out, tokens),
            sampling=_sampling(document["sampling"]),
            created=_text(document["created"]),
            updated=_text(document["updated"]),
        )


class SessionFile:
    """One named session, which no other process has open. A context manager that lets go of it.

    EdgeError for what is no name, for a session that is open elsewhere, and for one whose file is damaged.
    """

    def __init__(self, folder: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise EdgeError(
                f"{name!r} is no name for a session.",
                hint="Use up to 40 letters, digits, and between them '-' and '.', as in: trip-to-rome",
            )
        self.name = name
        self.path = folder / f"{name}.json"
        self.prefix_path = folder / f"{name}{SUFFIX}"
        self._lock = _lock(folder / f"{name}.lock", name)
        try:
            self.record = read_record(self.path) if self.path.exists() else None
        except EdgeError:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def check_model(self, model: SessionModel) -> None:
        """EdgeError if what there is of the session was said with another model."""
        if self.record is None or self.record.model.digest == model.digest:
            return
        known = self.record.model
        quantization = f" --quant {known.quantization}" if known.quantization else ""
        raise EdgeError(
            f"The session {self.name} was begun with {known.file_name}; this is {model.file_name}, another model.",
            hint=f"Go on with its own: edge chat {shlex.quote(known.reference)}{quantization} --session {self.name}."
            " Or begin one of another name: --session OTHER.",
        )

    def write(self, record: SessionRecord) -> None:
        write_private(self.path, [record.to_json().encode("utf-8", "surrogatepass")])
        self.record = record


class KeptChat:
    """A chat that is kept under a name: resumed from there, and saved after each answer.

    What was computed is saved when the chat ends, and on the way as often as it hardly shows.
    """

    def __init__(
        self,
        file: SessionFile,
        model: SessionModel,
        chat: Chat,
        engine: PrefixStore,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        file.check_model(model)
        self._file = file
        self._model = model
        self._chat = chat
        self._engine = engine
        self._clock = clock
        self._saved_tokens: tuple[int, ...] = ()
        self._next_prefix_at = clock() + _SECONDS_BETWEEN_PREFIXES

    def resume(self) -> str:
        """Let the chat go on where the session ended; gives a line that says so."""
        record = self._file.record
        if record is None:
            return f"Session {self._file.name}: new."
        said = record.conversation
        if record.model.template != self._model.template:
            remark = "the model's chat template is another one now"
            said = replace(said, tokens=())
        else:
            remark = self._load_prefix(said.tokens)
        self._chat.resume(said)
        count = f"{len(said.messages)} message{'s' * (len(said.messages) != 1)}"
        if remark and said.messages:
            return f"Session {self._file.name}: {count}, computed again with the next answer, because {remark}."
        return f"Session {self._file.name}: {count}, nothing has to be computed again."

    def save(self) -> None:
        """Save what was said, and what was computed if that is due. For the end of every answer."""
        self._write_record()
        if self._clock() >= self._next_prefix_at:
            self._save_prefix()

    def finish(self) -> None:
        """Save all there is. For the end of the chat."""
        self._write_record()
        self._save_prefix()

    def _load_prefix(self, tokens: tuple[int, ...]) -> str:
        """Give the engine what was computed of these tokens; gives why there is something to compute, if there is."""
        path = self._file.prefix_path
        if not path.exists():
            return f"there is no {path}"
        try:
            saved = open_prefix(path).tokens
            self._engine.load_prefix(path)
        except EdgeError as error:
            return error.message.rstrip(".")
        shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(saved, tokens, strict=False)))
        if shared < len(tokens) - 1:  # the last token of an answer is chosen and never computed
            return f"only {shared} of its {len(tokens)} tokens were saved"
        self._saved_tokens = tokens
        return ""

    def _write_record(self) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        created = self._file.record.created if self._file.record else now
        said = self._chat.conversation()
        if self._file.record and self._file.record.conversation == said:
            return
        self._file.write(SessionRecord(self._model, said, self._chat.sampling, created, now))

    def _save_prefix(self) -> None:
        tokens = self._chat.tokens
        if tokens == self._saved_tokens:
            return
        start = self._clock()
        try:
            if tokens:
                self._engine.save_prefix(tokens, self._file.prefix_path)
            else:
                self._file.prefix_path.unlink(missing_ok=True)  # what was forgotten is to be forgotten here, too
            self._saved_tokens = tokens
        except (EdgeError, OSError) as error:
            reason = error.message if isinstance(error, EdgeError) else str(error)
            warnings.warn(f"The session is saved, but not what was computed for it: {reason}", stacklevel=3)
        end = self._clock()
        self._next_prefix_at = end + max(_SECONDS_BETWEEN_PREFIXES, _PREFIX_SHARE * (end - start))


@dataclass(frozen=True)
class SessionSummary:
    """A session as a list shows it; `messages` is None for one whose file is damaged."""

    name: str
    model: str
    messages: int | None
    n_bytes: int
    updated: str


def list_sessions(folder: Path) -> list[SessionSummary]:
    """The sessions in a folder, those used last first."""
    summaries = []
    for path in folder.glob("*.json"):
        if not _NAME.fullmatch(path.stem):
            continue
        prefix = path.with_suffix(SUFFIX)
        n_bytes = path.stat().st_size + (prefix.stat().st_size if prefix.exists() else 0)
        try:
            record = read_record(path)
        except EdgeError:
            summaries.append(SessionSummary(path.stem, "", None, n_bytes, ""))
        else:
            count = len(record.conversation.messages)
            summaries.append(SessionSummary(path.stem, record.model.file_name, count, n_bytes, record.updated))
    return sorted(summaries, key=lambda summary: (summary.updated, summary.name), reverse=True)


def read_record(path: Path) -> SessionRecord:
    """What a session's file says. EdgeError if it is damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror or error}.", hint="Check the path.") from error
    try:
        return SessionRecord.from_json(content.decode("utf-8", "surrogatepass"))
    except KeyError as error:
        reason = f"it lacks {error}"
    except EdgeError as error:
        reason = error.message.rstrip(".")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error)
    raise EdgeError(f"The session file {path} is damaged: {reason}.", hint="Delete it to begin the session again.")


def _sampling(document: Any) -> SamplingSettings:
    lists: dict[str, object] = {
        "dry_sequence_breakers": tuple(map(_text, document["dry_sequence_breakers"])),
        "logit_bias": tuple((int(token), float(bias)) for token, bias in document["logit_bias"]),
    }
    return SamplingSettings(**{**document, **lists})


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} stands where a text should be")
    return value


def _lock(path: Path, name: str) -> BaseFileLock:
    """Held by one process; the system lets go of it when the process ends, however it ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise EdgeError(
            f"The session {name} is open in another chat.", hint="End that one first, or use another name."
        ) from None
    except OSError as error:
        raise EdgeError(
            f"Sessions cannot be kept in {path.parent}: {error.strerror or error}.",
            hint="Name another folder in the environment variable EDGE_STATE.",
        ) from error
    return lock
