"""Turns a stream of bytes into text that may be shown at once: whole characters, and nothing of a stop text."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Text assembled from pieces that may end inside a character or inside a stop text.

    What could still become a stop text is held back until it has, or can no longer. The stop text that is complete
    first ends the text; of several at once, the longest.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_inside_character = False
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self.is_stopped = False

    def push(self, piece: bytes) -> str:
        """The text that a piece makes certain. Once a stop text appeared, the text ends before it."""
        if not self._is_inside_character:
            try:
                return self._release(piece.decode())  # nearly always, and much sooner done
            except UnicodeDecodeError:
                pass
        text = self._decoder.decode(piece)
        self._is_inside_character = bool(self._decoder.getstate()[0])
        return self._release(text)

    def finish(self) -> str:
        """The rest: what was held back, and a replacement character for an incomplete one."""
        tail = self._release(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return tail + held

    def _release(self, new: str) -> str:
        if self.is_stopped:
            return ""
        if not self._stop:
            return new
        text = self._held + new
        # the one complete first, as if characters came one by one: the result must not depend on how pieces are cut
        found = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            self._held = ""
            return text[: min(found)[1]]
        keep = self._possible_stop_length(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _possible_stop_length(self, text: str) -> int:
        """Length of the longest end of the text that a stop text begins with."""
        longest = max(map(len, self._stop), default=1) - 1
        return next(
            (
                length
                for length in range(min(longest, len(text)), 0, -1)
                if any(stop.startswith(text[-length:]) for stop in self._stop)
            ),
            0,
        )
