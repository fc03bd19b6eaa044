"""Named sessions of chats: the tokens that each one came to, so that its next request goes on from just these.

With a folder, what the engine computed for them is kept there as well and taken in again after a restart. A session
belongs to an API key and a model: the same name under another key is another session. What requests call theirs never
reaches the file system; files are named by a hash. Sessions save time only: to lose one changes no answer's meaning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from edge.errors import EdgeError
from edge.prefix_file import SUFFIX, open_prefix
from edge.text_engine import TextEngine

_HEX_DIGITS = 64
log = logging.getLogger("edge.server")


@dataclass(frozen=True)
class SessionKey:
    owner: str
    """The API key's digest; "" where the server asks for none."""
    model: str
    name: str

    @property
    def file_name(self) -> str:
        content = json.dumps([self.owner, self.model, self.name]).encode()
        return hashlib.sha256(content).hexdigest() + SUFFIX


class Sessions:
    """At most `most` sessions, and `most_bytes` of files; those unused for longest go. Used from any thread."""

    def __init__(self, folder: Path | None, *, most: int, most_bytes: int) -> None:
        self._folder = folder
        self._most = most
        self._most_bytes = most_bytes
        self._tokens: OrderedDict[SessionKey, tuple[int, ...]] = OrderedDict()
        self._lock = threading.Lock()
        if folder is not None:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                reason = error.strerror or error
                message = f"Sessions cannot be kept in {folder}: {reason}."
                raise EdgeError(message, hint="Name another folder.") from error

    def resume(self, key: SessionKey, engine: TextEngine) -> tuple[int, ...]:
        """The tokens that a session came to, none if it is new.

        The engine is given what was saved of it: other sessions may have taken its place since, or the engine be a new
        one. It is not read where it is still there.
        """
        with self._lock:
            tokens = self._tokens.get(key, ())
            if tokens:
                self._tokens.move_to_end(key)
        path = self._path(key)
        if path is None or not path.exists():
            return tokens
        try:
            saved = tokens or open_prefix(path).tokens
            engine.load_prefix(path)
        except EdgeError as error:  # it is computed again
            log.warning("A session is not resumed: %s", error.message)
            return tokens
        if not tokens:
            self._remember(key, saved)
        return saved

    def keep(self, key: SessionKey, tokens: tuple[int, ...], engine: TextEngine) -> None:
        """Note what a session has come to, and write what was computed of it where there is a folder."""
        self._remember(key, tokens)
        path = self._path(key)
        if path is None:
            return
        try:
            engine.save_prefix(tokens, path)
            self._drop_oldest()
        except (EdgeError, OSError) as error:
            log.warning("A session is not saved: %s", error.message if isinstance(error, EdgeError) else error.strerror)

    def _remember(self, key: SessionKey, tokens: tuple[int, ...]) -> None:
        with self._lock:
            self._tokens[key] = tokens
            self._tokens.move_to_end(key)
            while len(self._tokens) > self._most:
                self._tokens.popitem(last=False)

    def _path(self, key: SessionKey) -> Path | None:
        return None if self._folder is None else self._folder / key.file_name

    def _drop_oldest(self) -> None:
        """Delete the oldest files beyond the limits, and none but our own."""
        assert self._folder is not None
        with self._lock:
            own = [path for path in self._folder.glob(f"*{SUFFIX}") if len(path.stem) == _HEX_DIGITS]
            sizes = {path: path.stat() for path in own}
            total = 0
            for count, path in enumerate(sorted(own, key=lambda path: -sizes[path].st_mtime_ns), start=1):
                total += sizes[path].st_size
                if count > self._most or total > self._most_bytes:
                    path.unlink(missing_ok=True)
