"""A terminal chat without a terminal and without a model, for its tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge.chat import Chat
from edge.model_desk import ModelChoice, ModelDesk
from edge.repl import Session
from edge.repl_talk import Talk
from edge.session_shelf import Shelf
from edge.settings import AdapterSettings
from tests.edge.fake_engine import FakeEngine

INTERRUPT = KeyboardInterrupt()


class FakeSource:
    """Gives what it was made of, raises what is an exception, and then is at its end. Remembers drafts."""

    def __init__(self, items: Sequence[str | BaseException], *, is_interactive: bool = True) -> None:
        self.is_interactive = is_interactive
        self.drafts: list[str] = []
        self._items = iter(items)

    def read(self, draft: str = "") -> str | None:
        if draft:
            self.drafts.append(draft)
        item = next(self._items, None)
        if isinstance(item, BaseException):
            raise item
        return item


class FakeModels:
    """Engines by the references that people give, for one desk."""

    def __init__(self, engine: FakeEngine, path: Path, adapters: tuple[AdapterSettings, ...] = ()) -> None:
        self.engines = {"demo": engine}
        self.paths = {"demo": path}
        self.opened: list[str] = []
        choice = ModelChoice("demo", None, path, adapters)
        self.desk = ModelDesk(choice, resolve=self._resolve, open_engine=self._open)

    def _resolve(self, reference: str) -> ModelChoice:
        return ModelChoice(reference, None, self.paths[reference])

    def _open(self, choice: ModelChoice) -> FakeEngine:
        self.opened.append(choice.reference)
        return self.engines[choice.reference]


def talk_with(
    engine: FakeEngine,
    *items: str | BaseException,
    chat: Chat | None = None,
    is_interactive: bool = True,
    folder: Path = Path("nowhere"),
    model: Path = Path("model.gguf"),
    keeps: bool = False,
    adapters: tuple[AdapterSettings, ...] = (),
) -> Talk:
    """A chat that has happened: every item was said, and there were no more."""
    chat = chat or Chat(engine)
    models = FakeModels(engine, model, adapters).desk
    shelf = Shelf(folder, chat, models, keeps_unnamed=keeps)
    talk = Talk(chat, models, shelf, FakeSource(items, is_interactive=is_interactive))
    Session(talk, is_plain=True).run()
    return talk
