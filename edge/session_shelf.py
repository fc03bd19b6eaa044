"""The session that a running chat is kept in: under a name, under the time of its first answer, or not at all."""

from __future__ import annotations

import re
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path

from edge.chat import Chat
from edge.errors import EdgeError
from edge.model_desk import ModelDesk
from edge.session import KeptChat, SessionFile
from edge.session_list import session_names
from edge.terminal import note

_UNNAMED = re.compile(r"\d{4}-\d\d-\d\d-\d{6}(-\d+)?")
_ATTEMPTS = 100


class Shelf:
    """Keeps a chat. Unnamed chats, if they are kept, are kept as text only: what was computed takes much more."""

    def __init__(self, folder: Path, chat: Chat, models: ModelDesk, *, keeps_unnamed: bool) -> None:
        self.folder = folder
        self._chat = chat
        self._models = models
        self._keeps_unnamed = keeps_unnamed
        self._file: SessionFile | None = None
        self._kept: KeptChat | None = None
        self._lacks_state = False

    @property
    def name(self) -> str | None:
        """Of the session; None as long as there is none."""
        return self._file.name if self._file else None

    def names(self) -> list[str]:
        return session_names(self.folder)

    def open(self, name: str, *, waits: bool) -> str:
        """Keep the chat under a name from the start, going on from what is there; gives a line that says so.

        Without `waits`, what was computed for it is given to the engine by `prepare` only.
        """
        file = SessionFile(self.folder, name)
        try:
            kept = self._keep(file)
            line = kept.resume() if waits else f"Session {name}: {kept.resume_text()}."
        except BaseException:
            file.close()
            raise
        self._file, self._kept = file, kept
        self._lacks_state = not waits and file.record is not None and is_named(name)
        return line

    def prepare(self) -> str:
        """Give the engine what was computed of a session that was opened; gives a line if it is to be computed again.

        For the start of every message.
        """
        if not self._lacks_state or self._kept is None:
            return ""
        _ = self._models.engine.context_tokens  # what keeps a model from being opened is no trouble of the session
        reason = self._kept.load_state()
        self._lacks_state = False
        return f"Session {self.name} is computed again, because {reason}." if reason else ""

    def save(self) -> None:
        """Save what was said. For the end of every answer."""
        if self._kept is None and self._keeps_unnamed and self._chat.messages:
            self._begin_unnamed()
        if self._kept:
            self._kept.save()

    def save_text(self) -> None:
        """Save what was said by then. For an answer that did not come to its end."""
        if self._kept is None and self._keeps_unnamed and self._chat.messages:
            self._begin_unnamed()
        if self._kept:
            self._kept.save_text()

    def save_as(self, name: str) -> None:
        """Keep the chat under a name from now on. EdgeError if there is another one under it."""
        if name == self.name:
            return
        file = SessionFile(self.folder, name)
        if file.record is not None:
            file.close()
            raise EdgeError(
                f"There is a session {name} already.", hint=f"Use another name, or go on with it: /load {name}"
            )
        kept = self._keep(file)
        kept.save_text()
        earlier = self._file
        self._finish()
        if earlier and not is_named(earlier.name):
            earlier.delete()
        self._file, self._kept = file, kept

    def load(self, name: str) -> str:
        """Go on with another session; gives a line about it. EdgeError if there is none, or it is another model's."""
        if name not in self.names():
            near = get_close_matches(name, self.names(), n=1)
            raise EdgeError(
                f"There is no session {name!r}.", hint=f"Did you mean {near[0]}?" if near else "/sessions lists them."
            )
        if name == self.name:
            raise EdgeError(f"{name} is the session in use.", hint="Name another one.")
        file = SessionFile(self.folder, name)
        model = self._models.choice.session_model()
        if file.record and file.record.model.digest != model.digest:
            file.close()
            raise EdgeError(
                f"The session {name} was said with {file.record.model.file_name}; this is {model.file_name}.",
                hint=f"Change to its model first: /model {file.record.model.reference}",
            )
        self._finish()
        self._chat.clear()
        self._file, self._kept = file, self._keep(file)
        self._lacks_state = is_named(name)
        return f"Session {name}: {self._kept.resume_text()}."

    def begin(self) -> None:
        """Let the chat begin anew; the session stays as it is on the disk."""
        self._finish()
        self._chat.clear()

    def use_model(self) -> None:
        """After the model was changed for another one."""
        if self._kept:
            self._kept.use(self._models.choice.session_model(), self._models.engine)
            self._lacks_state = False

    def close(self) -> None:
        """Save all there is. For the end of the chat."""
        self._finish()

    def _finish(self) -> None:
        file, kept = self._file, self._kept
        self._file = self._kept = None
        if file and kept:
            try:
                if self._lacks_state:
                    kept.save_text()
                else:
                    kept.finish()
            finally:
                file.close()
        self._lacks_state = False

    def _keep(self, file: SessionFile) -> KeptChat:
        model = self._models.choice.session_model()
        return KeptChat(file, model, self._chat, self._models.engine, keeps_state=is_named(file.name))

    def _begin_unnamed(self) -> None:
        """Keep the chat under the time. Where that cannot be, the chat goes on without."""
        try:
            self._file = self._unused_file()
        except EdgeError as error:
            note(f"This chat is not kept. {error.message}")
            self._keeps_unnamed = False
        else:
            self._kept = self._keep(self._file)

    def _unused_file(self) -> SessionFile:
        now = f"{datetime.now():%Y-%m-%d-%H%M%S}"
        taken = self.names()
        names = [name for name in (now, *(f"{now}-{number}" for number in range(2, _ATTEMPTS))) if name not in taken]
        for name in names[:-1]:
            try:
                return SessionFile(self.folder, name)
            except EdgeError:
                if not (self.folder / f"{name}.lock").exists():  # else another chat began in the same second
                    break
        return SessionFile(self.folder, names[-1])


def is_named(name: str) -> bool:
    """Whether a person gave a session its name, and not the clock."""
    return not _UNNAMED.fullmatch(name)
