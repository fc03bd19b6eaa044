"""A system text computed ahead: the beginning of every conversation with it, as a file beside the model.

Where the folder of the model cannot be written, the file is kept among what edge remembers.
An engine that opens the model finds such files by their names, and begins with one where a prompt does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from edge.errors import EdgeError
from edge.prefix_file import SUFFIX
from edge.prompt import Message
from edge.request import Request
from edge.settings import SamplingSettings
from edge.state_directory import baked_directory
from edge.text_engine import TextEngine

# first messages of different kinds: what their prompts share is what every prompt has
_FIRST_MESSAGES = ("Hello", "what is 12 times 30?", "42", "(a)", "Ünïcode", "\n\n- one")


def system_tokens(engine: TextEngine, system: str) -> tuple[int, ...]:
    """The tokens that every conversation with a system text begins with."""
    prompts = [engine.chat_tokens([Message("system", system), Message("user", text)]) for text in _FIRST_MESSAGES]
    shared = prompts[0]
    for prompt in prompts[1:]:
        length = min(len(shared), len(prompt))
        shared = next((shared[:end] for end in range(length) if shared[end] != prompt[end]), shared[:length])
    return shared


def bake(engine: TextEngine, system: str, path: Path) -> int:
    """Compute the beginning of conversations with a system text and write it to `path`; gives its tokens.

    EdgeError if it is too long for the context.
    """
    tokens = system_tokens(engine, system)
    if not tokens:
        raise EdgeError(
            "The chat template writes no system text in front of the first message.",
            hint="There is nothing to compute ahead for this model.",
        )
    engine.submit(Request(tokens, sampling=SamplingSettings(temperature=0), max_tokens=1)).result()
    return engine.save_prefix(tokens, path)


def baked_path(model: Path, system: str, adapters: Sequence[str] = ()) -> Path:
    """Where the engine looks for what was baked: beside the model, with a part of its name for each system text.

    In edge's own folder where that beside the model cannot be written.
    """
    digest = hashlib.sha256(repr((system, tuple(adapters))).encode("utf-8", "surrogatepass")).hexdigest()
    folder = model.parent if os.access(model.parent, os.W_OK) else baked_directory(model)
    return folder / f"{model.stem}.{digest[:8]}{SUFFIX}"
