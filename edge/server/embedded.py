"""A server for one model inside another program, in a line: what a desktop app starts."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

from edge.fitted_model import Wanted
from edge.server.background import BackgroundServer
from edge.server.model_files import fitted_source, open_model, source_of
from edge.server.model_pool import ModelPool, ModelSource
from edge.server.security import make_key
from edge.server.server_settings import ServerSettings
from edge.settings import ModelSettings

_ANSWERS_AT_ONCE = 4


class Server:
    """A context manager: within its block, the model is served in a thread of this program.

    Entering returns when the model is loaded, and raises EdgeError if it cannot be. Leaving finishes running answers,
    for as long as `drain_seconds` of the server's settings says, and frees the model.
    """

    def __init__(
        self,
        model: str | PathLike[str],
        settings: ModelSettings | None = None,
        server_settings: ServerSettings | None = None,
    ) -> None:
        """`model` is a GGUF file. Without `settings`, it gets what fits this machine best, for four answers at once.

        Without `server_settings`, the server is on 127.0.0.1 and a port that is free. If they have no key, one is made:
        other programs of this machine find the port, but are not served.
        """
        self.path = Path(model)
        self.model = self.path.stem
        """The name by which requests may ask for it."""
        chosen = server_settings or ServerSettings(port=0)
        self._server_settings = chosen if chosen.api_keys else replace(chosen, api_keys=(make_key(),))
        self._settings = settings

    @property
    def key(self) -> str:
        """What requests have to carry, as `Authorization: Bearer KEY`."""
        return self._server_settings.api_keys[0]

    @property
    def url(self) -> str:
        """Where the server is while the block lasts: `http://127.0.0.1:PORT`. OpenAI's clients want `/v1` behind it."""
        return self._server.url

    def __enter__(self) -> Self:
        pool = ModelPool([self._source()], open_model)
        self._server = BackgroundServer(pool, self._server_settings)
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)

    def _source(self) -> ModelSource:
        if self._settings is not None:
            return source_of(self.model, self.path, self._settings)
        return fitted_source(self.model, self.path, Wanted(ModelSettings(parallel=_ANSWERS_AT_ONCE)))
