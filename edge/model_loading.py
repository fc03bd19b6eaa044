"""A model's weights, read in by native code while whoever wants them imports what else it takes."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

from edge.adapter_check import check_is_model
from edge.gguf_file import GGUFFile
from edge.llama.model import Model
from edge.settings import ModelSettings
from edge.thread_call import ThreadCall


class ModelLoading:
    """Loads in a thread of its own from the beginning. A context manager that frees a model which was not taken."""

    def __init__(self, file: GGUFFile, settings: ModelSettings) -> None:
        """EdgeError if the file is no model's."""
        check_is_model(file)
        self._call = ThreadCall(
            partial(
                Model,
                file.path,  # of a split model, the first part
                gpu_layers=settings.gpu_layers,
                gpu_split=settings.gpu_split,
                repack_weights=settings.repack_weights,
            )
        )
        self._is_ended = False
        """Whether there is nothing that would be left to free: it was taken, or could not be loaded."""
        threading.Thread(target=self._call.run, name="edge-load", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_ended:
            with suppress(Exception):  # nobody wants it any more
                self.take().close()

    def take(self) -> Model:
        """Wait for the model, which is the caller's from now on. EdgeError if it cannot be loaded."""
        try:
            model = self._call.result()
        except Exception:
            self._is_ended = True
            raise
        self._is_ended = True
        return model
