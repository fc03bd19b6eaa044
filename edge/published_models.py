"""The config.json of well-known models, as far as it decides about their size, so that a plan needs no network.

The values are facts of the published files; weights, tokenizers and texts are not part of it.
Source: config.json of the repository that each entry is named after.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any


def published_config(repository: str) -> dict[str, Any] | None:
    """The configuration of `org/name` in any case; None if it is not among them."""
    return _configs().get(repository.lower())


def published_names() -> tuple[str, ...]:
    names: tuple[str, ...] = tuple(_stored())
    return names


def _configs() -> dict[str, dict[str, Any]]:
    return {name.lower(): config for name, config in _stored().items()}


@cache
def _stored() -> dict[str, dict[str, Any]]:
    text = files("edge").joinpath("published_models.json").read_text("utf-8")
    stored: dict[str, dict[str, Any]] = json.loads(text)
    return stored
