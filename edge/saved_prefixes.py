"""Prefix files of an open model: writes what its sequences hold, and takes it in again.

Files beside the model or in edge's own folder, named after it, are looked at when it is opened. Where a prompt begins
with one, that is taken in instead of being computed.
"""

from __future__ import annotations

import glob
import warnings
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

from edge.errors import EdgeError
from edge.gguf_file import GGUFFile
from edge.llama.context import Context
from edge.loop import Loop
from edge.prefix_file import SUFFIX, PrefixFile, open_prefix, write_prefix
from edge.prefix_identity import PrefixIdentity, identity_of
from edge.settings import ModelSettings
from edge.slot import AdapterSet
from edge.state_directory import baked_directory


class SavedPrefixes:
    """What is computed with the adapters that a request is answered with if it names none: others are not saved."""

    def __init__(
        self, loop: Loop, context: Context, file: GGUFFile, settings: ModelSettings, adapters: AdapterSet
    ) -> None:
        self._loop = loop
        self._context = context
        self._file = file
        self._settings = settings
        self._adapters = adapters
        self._baked = [prefix for path in _baked_paths(file.path) if (prefix := self._usable(path))]

    @cached_property
    def identity(self) -> PrefixIdentity:
        """What a state must have been made with to be right here."""
        return identity_of(self._file, self._settings)

    def save(self, tokens: Sequence[int], path: Path) -> int:
        """Write the longest beginning of these tokens that a sequence holds; gives its tokens, 0 if there is none.

        A sequence that goes on differently is left out, for its state would say more than these tokens.
        """
        held, state = self._loop.call(partial(self._held_state, tokens))
        if held:
            write_prefix(path, self.identity, held, state)
        return len(held)

    def load(self, path: Path) -> int:
        """Take a prefix file in, to be found by the next prompt that begins with it; gives its tokens.

        Its state is not read where a sequence holds as much already. EdgeError if it is not sound, was made with
        something else, or does not fit.
        """
        prefix = open_prefix(path)
        prefix.check_identity(self.identity)
        if self._holds(prefix.tokens, self._adapters):
            return len(prefix.tokens)
        state = prefix.read_state()
        if not self._loop.call(partial(self._loop.prefixes.adopt, prefix.tokens, state, self._adapters)):
            raise EdgeError(
                f"{path} holds {len(prefix.tokens)} tokens, for which the engine has no room.",
                hint="Ask for a longer context with --ctx, or wait until other requests have ended.",
            )
        return len(prefix.tokens)

    def prepare(self, prompt: Sequence[int], adapters: AdapterSet) -> None:
        """Take in what was baked of a prompt, if no sequence holds as much of it already."""
        fitting = [prefix for prefix in self._baked if _begins_with(prompt, prefix.tokens)]
        if not fitting or adapters != self._adapters:
            return
        longest = max(fitting, key=lambda prefix: len(prefix.tokens))
        if self._holds(longest.tokens, adapters):
            return
        try:
            state = longest.read_state()
        except EdgeError as error:
            self._baked.remove(longest)
            warnings.warn(f"{error.message} It is not used.", stacklevel=3)
        else:  # without room for it, the prompt is computed
            self._loop.call(partial(self._loop.prefixes.adopt, longest.tokens, state, adapters))

    def _holds(self, tokens: Sequence[int], adapters: AdapterSet) -> bool:
        """Whether a sequence begins with all of these tokens."""
        found = self._loop.call(partial(self._loop.prefixes.longest, tokens, adapters))
        return found is not None and found[1] >= len(tokens)

    def _held_state(self, tokens: Sequence[int]) -> tuple[tuple[int, ...], bytes]:
        """The tokens and the state of the sequence that holds most of these tokens, and nothing else."""
        slots = [
            slot
            for slot in self._loop.prefixes.slots
            if slot.adapters == self._adapters and slot.common_prefix(tokens) == len(slot.held_tokens)
        ]
        longest = max(slots, key=lambda slot: len(slot.held_tokens), default=None)
        if longest is None or not longest.held_tokens:
            return (), b""
        return tuple(longest.held_tokens), self._context.save_state(longest.sequence)

    def _usable(self, path: Path) -> PrefixFile | None:
        """A file beside the model, if its state is right; a warning if it is not and no other settings make it so."""
        try:
            prefix = open_prefix(path)
            other = prefix.identity
            wanted = self.identity
            if (other.adapters, other.cache, other.weights) != (wanted.adapters, wanted.cache, wanted.weights):
                return None
            prefix.check_identity(wanted)
        except EdgeError as error:
            warnings.warn(f"{error.message} It is not used.", stacklevel=2)
            return None
        return prefix


def _baked_paths(model: Path) -> list[Path]:
    folders = model.parent, baked_directory(model)
    return [path for folder in folders for path in sorted(folder.glob(f"{glob.escape(model.stem)}.*{SUFFIX}"))]


def _begins_with(prompt: Sequence[int], tokens: tuple[int, ...]) -> bool:
    """Whether a prompt goes on where these tokens end."""
    return len(prompt) > len(tokens) and tuple(prompt[: len(tokens)]) == tokens
