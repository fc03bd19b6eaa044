"""Named conversations on the disk, to go on from after a restart.

A session is two files in one folder, both for their owner only: NAME.json holds what was said, and is written after
every answer; NAME.prefix holds what the model computed for it, which saves time and is never needed. A session belongs
to one model. Where anything else has changed its history stays, and is computed again.
"""

from __future__ import annotations

import itertools
import re
import shlex
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from edge.chat import Chat
from edge.errors import EdgeError
from edge.prefix_file import SUFFIX, open_prefix, write_private
from edge.quantities import counted
from edge.session_record import SessionModel, SessionRecord, read_record

if TYPE_CHECKING:
    from filelock import BaseFileLock

_NAME = re.compile(r"\w(?:[\w.-]{0,38}\w)?")
_SECONDS_BETWEEN_PREFIXES = 60
_PREFIX_SHARE = 50  # saving what was computed takes at most 1/50 of the time of a long chat


class PrefixStore(Protocol):
    """What is needed of an engine; `edge.text_engine.TextEngine` is one."""

    def save_prefix(self, tokens: tuple[int, ...], path: Path) -> int: ...
    def load_prefix(self, path: Path) -> int: ...


def is_session_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


class SessionFile:
    """One named session, which no other process has open. A context manager that lets go of it.

    EdgeError for what is no name, for a session that is open elsewhere, and for one whose file is damaged.
    """

    def __init__(self, folder: Path, name: str) -> None:
        if not is_session_name(name):
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
        self.close()

    def close(self) -> None:
        """Let go of the session, for others to open. Safe to call twice."""
        self._lock.release()

    def delete(self) -> None:
        """Forget the session: its files are removed."""
        for path in (self.path, self.prefix_path, Path(self._lock.lock_file)):
            path.unlink(missing_ok=True)

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

    What was computed is saved when the chat ends, and on the way as often as it hardly shows; not at all without
    `keeps_state`.
    """

    def __init__(
        self,
        file: SessionFile,
        model: SessionModel,
        chat: Chat,
        engine: PrefixStore,
        *,
        keeps_state: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        file.check_model(model)
        self._file = file
        self._model = model
        self._chat = chat
        self._engine = engine
        self._keeps_state = keeps_state
        self._clock = clock
        self._saved_tokens: tuple[int, ...] = ()
        self._next_prefix_at = clock() + _SECONDS_BETWEEN_PREFIXES

    def resume(self) -> str:
        """Let the chat go on where the session ended; gives a line that says so."""
        text = f"Session {self._file.name}: {self.resume_text()}"
        if self._file.record is None:
            return f"{text}."
        reason = self.load_state()
        if reason:
            return f"{text}, computed again with the next answer, because {reason}."
        return f"{text}, nothing has to be computed again."

    def resume_text(self) -> str:
        """Let the chat go on from what was said; gives how much that is. Needs no engine."""
        record = self._file.record
        if record is None:
            return "new"
        said = record.conversation
        if record.model.template != self._model.template:
            said = replace(said, tokens=())
        self._chat.resume(said, record.sampling)
        return counted(len(said.messages), "message")

    def load_state(self) -> str:
        """Give the engine what was computed of what was said; gives why it has to be computed again, if it has to."""
        record = self._file.record
        if record is None or not record.conversation.messages:
            return ""
        if record.model.template != self._model.template:
            return "the model's chat template is another one now"
        return self._load_prefix(record.conversation.tokens)

    def use(self, model: SessionModel, engine: PrefixStore) -> None:
        """Go on with another model, which the session belongs to from then on."""
        self._model = model
        self._engine = engine
        self._saved_tokens = ()

    def save_text(self) -> None:
        """Save what was said. Needs no engine unless something was."""
        self._write_record()

    def save(self) -> None:
        """Save what was said, and what was computed if that is due. For the end of every answer."""
        self._write_record()
        if self._keeps_state and self._clock() >= self._next_prefix_at:
            self._save_prefix()

    def finish(self) -> None:
        """Save all there is. For the end of the chat."""
        self._write_record()
        if self._keeps_state:
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
        record, said = self._file.record, self._chat.conversation()
        if record is None and not said.messages:
            return
        is_known = record is not None and (record.conversation, record.model) == (said, self._model)
        if record and is_known and (not self._chat.sampling_changes or record.sampling == self._chat.sampling):
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        created = record.created if record else now
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
