"""A server beside other work: in a thread of its own, for as long as a block lasts."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Self

from edge.server.app import create_app
from edge.server.model_pool import ModelPool
from edge.server.run import EdgeServer, bind, run_app, url_of
from edge.server.server_settings import ServerSettings


class BackgroundServer:
    """A context manager. Entering waits until the first model is loaded, and raises EdgeError if it cannot be.

    Leaving lets running requests finish, as a signal does to `edge serve`.
    """

    def __init__(self, pool: ModelPool, settings: ServerSettings | None = None) -> None:
        self.settings = settings or ServerSettings(port=0)
        self._pool = pool
        self._thread = threading.Thread(target=self._run, name="edge-server", daemon=True)
        self._settled = threading.Event()
        self._server: EdgeServer | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self.app = create_app(self._pool, self.settings)
        self._listener = bind(self.settings)
        self.url = url_of(self._listener, self.settings.host)
        self._thread.start()
        self._settled.wait()
        if self._failure:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self._thread.join()

    def end(self) -> None:
        """Ask it to end: the first time once everything is answered, the second time at once."""
        assert self._server
        with contextlib.suppress(RuntimeError):  # it has ended
            self._server.handle_exit(0, None)

    def _run(self) -> None:
        try:
            with self._listener:
                asyncio.run(
                    run_app(self.app, self._pool, self.settings, self._listener, self._settled.set, self._begin)
                )
        except BaseException as error:
            self._failure = error
        finally:
            self._settled.set()

    def _begin(self, server: EdgeServer) -> None:
        self._server = server
